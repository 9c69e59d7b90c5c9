"""`thriftune import`: answers come back, matched by id; nothing is half-imported or overwritten silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thriftune.annotation.conflicts import Conflict
from thriftune.annotation.parse import Answer, Broken, parse
from thriftune.annotation.placing import place, plain, short
from thriftune.errors import AnnotationError
from thriftune.study import Study
from thriftune.types import Annotation, Source

_SHOWN = 5
_LARGEST = 2 << 30  # held in memory


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
    unless ``replace``, with which the one in force becomes history. Where the file names who answered, each person's
    answers are compared with their own; in a file of conflicts, with the answer that was in force then: where that is
    replaced already the answer is a conflict again, ``replace`` or not.

    Args:
        study: where to.
        path: in any format that `export` writes, told apart by content.
        annotator: who answered, where the file does not say.
        source: ``human`` or ``teacher``, where the file does not say.
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
    rows, broken = _check(placed.rows, annotator, source)
    if broken and not skip_bad:
        raise AnnotationError(_refusal(origin, broken))
    if not parsed:
        raise AnnotationError(f"{origin} has no rows: give a file of answers")
    # A model's answers and people's stand side by side: neither is in the other's way.
    standing: dict[tuple[str, bool], list[Annotation]] = {}
    for a in study.annotations.in_force():
        if a.status == "final":
            standing.setdefault((a.prompt_id, a.source == "teacher"), []).append(a)
    answered = [(row, given) for row, given in rows if given.response]
    unchanged, new, differing, conflicts = 0, [], [], []
    over: dict[Annotation, Annotation] = {}
    named = {(g.prompt_id, g.annotator, g.source) for row, g in answered if row.annotator is not None}
    for row, given in answered:
        there = standing.get((given.prompt_id, given.source == "teacher"), [])
        if row.annotator is None:  # who is named in the file speaks for themselves
            there = [a for a in there if (a.prompt_id, a.annotator, a.source) not in named]
        held = _opposite(row, given, there)
        outdated = held is not None and row.over not in (None, (held.annotator, held.response))
        if held is None:
            new.append(given)
        elif held.response == given.response or (not replace and plain(held.response) == plain(given.response)):
            unchanged += 1
        elif replace and not outdated:
            differing.append(given)
            if row.annotator is None or row.over is not None:
                over[given] = held  # whoever gave it; a person's own gives way in any case, what a review decided not
        else:
            conflicts.append(Conflict(row.line, given, held))
    # Last: what fails before it has changed nothing.
    _store(study, [*new, *differing], over, replace=replace)
    return Imported(
        new=len(new),
        replaced=len(differing),
        unchanged=unchanged,
        unanswered=len(rows) - len(answered),
        conflicts=conflicts,
        skipped=broken,
        edited=placed.edited,
        by_text=placed.by_text,
    )


def _check(
    rows: Sequence[Answer | Broken], annotator: str, source: Source
) -> tuple[list[tuple[Answer, Annotation]], list[Broken]]:
    """Rows with what is to be stored of them, and those that are broken or come twice."""
    good, broken = [], []
    first: dict[tuple[str, str, Source], int] = {}
    for row in rows:
        if isinstance(row, Broken):
            broken.append(row)
            continue
        name = annotator if row.annotator is None else row.annotator
        given = Annotation(row.id, row.response, name, row.source or source, row.seconds)
        key = (row.id, name, given.source)
        if key in first:
            broken.append(Broken(row.line, f"id {short(row.id)} again (first on line {first[key]})"))
        else:
            first[key] = row.line
            good.append((row, given))
    return good, broken


def _opposite(row: Answer, given: Annotation, there: Sequence[Annotation]) -> Annotation | None:
    """Of the answers in force to a prompt, the one that a row's is compared with."""
    if row.over is None and row.annotator is not None:
        # The first: what the same person decided in a review stands after their own.
        return next((a for a in there if (a.annotator, a.source) == (given.annotator, given.source)), None)
    meant = [a for a in there if (a.annotator, a.response) == row.over] or there
    return meant[-1] if meant else None


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
    study: Study, accepted: Sequence[Annotation], over: Mapping[Annotation, Annotation], *, replace: bool
) -> None:
    if not accepted:
        return
    keys = {(a.prompt_id, a.annotator, a.source) for a in accepted}
    # A draft or a skip by the same annotator gives way to the answer; it stays as history.
    unfinished = any(
        a.status != "final" and (a.prompt_id, a.annotator, a.source) in keys for a in study.annotations.in_force()
    )
    study.annotations.add(accepted, replace=replace or unfinished, over=over)
