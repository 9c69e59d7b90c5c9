"""`thriftune import`: answers come back, matched by id; nothing is half-imported or overwritten silently."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thriftune.annotation.parse import Answer, Broken, parse
from thriftune.annotation.placing import place, plain, short
from thriftune.artifacts import atomic_path
from thriftune.errors import AnnotationError
from thriftune.study import Study
from thriftune.types import Annotation, Source

_SHOWN = 5
_LARGEST = 2 << 30  # held in memory


@dataclass(frozen=True, slots=True)
class Conflict:
    """An answer in the file that differs from the one in force."""

    line: int
    id: str
    offered: str
    in_force: Annotation


@dataclass(frozen=True)
class Imported:
    """What `ingest` did.

    Args:
        new: answers stored for prompts that had none.
        replaced: answers that took the place of others, which are kept as history.
        unchanged: answers equal to the ones in force.
        unanswered: rows without an answer.
        conflicts: answers that differ from the ones in force and were left out.
        skipped: broken rows that were left out.
        edited: ids of prompts whose text in the file is not the study's.
        by_text: rows whose id was found by their prompt's text.
    """

    new: int
    replaced: int
    unchanged: int
    unanswered: int
    conflicts: list[Conflict]
    skipped: list[Broken]
    edited: list[str]
    by_text: int


def ingest(
    study: Study,
    path: Path,
    *,
    annotator: str = "",
    source: Source = "human",
    replace: bool = False,
    skip_bad: bool = False,
) -> Imported:
    """Store the answers of a file.

    A prompt has one answer in force: the latest. All answers are stored in one transaction, or none. A broken row (not
    readable, no id, an id that the study does not have, an id twice, the prompt of another id) refuses the whole file,
    unless ``skip_bad``. An answer that differs from the one in force, whoever gave that, is a conflict: it is left out
    unless ``replace``.
    Where the file names who answered (Label Studio's, Argilla's), each person's answers are compared with their own.

    Args:
        study: where to.
        path: in any format that `export` writes, told apart by content.
        annotator: who answered, where the file does not say.
        source: ``human`` or ``teacher``.
        replace: let differing answers take the place of those in force.
        skip_bad: store the good rows of a file that has broken ones.

    Returns:
        What was stored, and what was not.

    Raises:
        AnnotationError: the file cannot be read, or has broken rows.
    """
    try:
        if not path.is_file() and path.exists():  # a pipe would wait for its writer
            raise AnnotationError(f"{path} is not a file: name the file of answers")
        if path.stat().st_size > _LARGEST:
            raise AnnotationError(f"{path} is larger than {_LARGEST >> 30} GiB: split it and import the pieces")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path} cannot be read ({getattr(error, 'strerror', error)}): check its name") from None
    with study.lock("import"):
        return store(study, list(parse(path, data)), path, annotator, source, replace=replace, skip_bad=skip_bad)


def store(
    study: Study,
    parsed: Sequence[Answer | Broken],
    origin: Path | str,
    annotator: str,
    source: Source,
    *,
    replace: bool,
    skip_bad: bool,
) -> Imported:
    """As `ingest`, for rows that were read elsewhere; the caller holds the study's lock ``import``.

    Args:
        study: where to.
        parsed: the rows.
        origin: where they are from, for messages.
        annotator: as for `ingest`.
        source: as for `ingest`.
        replace: as for `ingest`.
        skip_bad: as for `ingest`.

    Returns:
        What was stored, and what was not.

    Raises:
        AnnotationError: rows are broken, or there are none.
    """
    placed = place(study, parsed)
    answers, broken = _check(placed.rows)
    if broken and not skip_bad:
        raise AnnotationError(_refusal(origin, broken))
    if not parsed:
        raise AnnotationError(f"{origin} has no rows: give a file of answers")
    answered = [a for a in answers if a.response]
    # A model's answers and people's stand side by side: neither is in the other's way.
    kin = ("teacher",) if source == "teacher" else ("human", "imported")
    final = [a for a in study.annotations.in_force() if a.status == "final" and a.source in kin]
    latest = {a.prompt_id: a for a in final}
    own = {(a.prompt_id, a.annotator): a for a in final}
    same, differing, new, conflicts = [], [], [], []
    for a in answered:
        held = latest.get(a.id) if a.annotator is None else own.get((a.id, a.annotator))
        if held is None:
            new.append(a)
        elif held.response == a.response or (not replace and plain(held.response) == plain(a.response)):
            same.append(a)
        else:
            differing.append(a)
            conflicts.append(Conflict(a.line, a.id, a.response, held))
    accepted = new + (differing if replace else [])
    # An answer that is nobody's own takes the place of what stands for the prompt, be it what a review decided on.
    over = [a.id for a in differing if a.annotator is None] if replace else []
    # Last: what fails before it has changed nothing.
    _store(study, accepted, annotator, source, replace=replace, over=over)
    return Imported(
        new=len(new),
        replaced=len(differing) if replace else 0,
        unchanged=len(same),
        unanswered=len(answers) - len(answered),
        conflicts=[] if replace else conflicts,
        skipped=broken,
        edited=placed.edited,
        by_text=placed.by_text,
    )


def _check(parsed: Sequence[Answer | Broken]) -> tuple[list[Answer], list[Broken]]:
    good, broken = [], []
    first: dict[tuple[str, str], int] = {}
    for row in parsed:
        if isinstance(row, Broken):
            broken.append(row)
        elif (key := (row.id, row.annotator or "")) in first:
            broken.append(Broken(row.line, f"id {short(row.id)} again (first on line {first[key]})"))
        else:
            first[key] = row.line
            good.append(row)
    return good, broken


def describe(path: Path | str, broken: Sequence[Broken]) -> str:
    """The first broken rows with file and line."""
    more = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return "; ".join(f"{path}:{row.line}: {row.reason}" for row in broken[:_SHOWN]) + more


def _refusal(path: Path | str, broken: Sequence[Broken]) -> str:
    rows = "row is" if len(broken) == 1 else "rows are"
    return (
        f"nothing was imported, {len(broken)} {rows} broken: {describe(path, broken)}. "
        "Mend the file, or add --skip-bad to import the rest"
    )


def _store(
    study: Study, accepted: Sequence[Answer], annotator: str, source: Source, *, replace: bool, over: Sequence[str]
) -> None:
    if not accepted:
        return
    given = [
        Annotation(a.id, a.response, annotator if a.annotator is None else a.annotator, source, a.seconds)
        for a in accepted
    ]
    keys = {(a.prompt_id, a.annotator) for a in given}
    # A draft or a skip by the same annotator gives way to the answer; it stays as history.
    unfinished = any(
        a.status != "final" and a.source == source and (a.prompt_id, a.annotator) in keys
        for a in study.annotations.in_force()
    )
    study.annotations.add(given, replace=replace or unfinished, over=over)


def write_conflicts(study: Study, path: Path, conflicts: Sequence[Conflict]) -> Path:
    """Keep differing answers in ``import-conflicts.jsonl`` of the study, ready to be pruned and imported.

    Args:
        study: where to.
        path: the file they came from.
        conflicts: the differing answers.

    Returns:
        The file written; each line has id, response (offered), in_force, annotator, source, file and line.
    """
    place = study.path / "import-conflicts.jsonl"
    with atomic_path(place) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        for c in conflicts:
            record = {
                "id": c.id,
                "response": c.offered,
                "in_force": c.in_force.response,
                "annotator": c.in_force.annotator,
                "source": c.in_force.source,
                "file": str(path),
                "line": c.line,
            }
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")
    return place
