"""`thriftune export`: a selection as a file, to be answered by people or to train on."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thriftune.annotation.formats import Format, Row, choose_format, write_rows
from thriftune.artifacts import atomic_path
from thriftune.errors import AnnotationError
from thriftune.outputs import check_output
from thriftune.reserve import with_replacements
from thriftune.study import HOLDOUT, Study
from thriftune.types import Message

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Args:
        selection: its name.
        format: of the file.
        rows: how many prompts.
        answered: how many of them with an answer.
    """

    selection: str
    format: Format
    rows: int
    answered: int


def export(
    study: Study,
    path: Path | None,
    *,
    to: str | None = None,
    selection: str | None = None,
    draft: bool = True,
    annotations: str = "human",
    answered_only: bool = False,
    force: bool = False,
) -> Exported:
    """Write a selection to a file, rows in pick order.

    Args:
        study: where the selection is.
        path: the file; None for standard output. A ``.json`` file becomes one JSON array.
        to: one of `formats.FORMATS`; None to go by the suffix.
        selection: its name; ``"pool"`` for all, ``"holdout"`` for the prompts set aside; None for the latest.
        draft: include the model's own answer (not in training formats); it speeds people up, and anchors them.
        annotations: whose answers, see `Study.responses`.
        answered_only: leave out prompts without a final answer, as training files must.
        force: overwrite ``path``, unless it is a study's own file.

    Returns:
        What was written.

    Raises:
        AnnotationError: the format is unclear, the file exists, or there is nothing to write.
        StudyError: no such selection, or ``path`` is a study's own file.
    """
    chosen = choose_format(to, path)
    if path is not None and path.is_dir():
        raise AnnotationError(f"{path} is a directory: name a file in it, e.g. {path / 'answers.csv'}")
    if path is not None:
        check_output(path)
    if path is not None and path.is_file() and not force:
        raise AnnotationError(f"{path} exists and may hold answers: choose another name or add --force")
    name = selection or latest(study)
    found = rows(study, name, draft=draft, annotations=annotations)
    answered = [row for row in found if row.response]
    if answered_only and not answered:
        raise AnnotationError(
            f"none of the {len(found)} prompts of {name!r} is answered yet: export them without --answered-only, "
            f"then bring the answers back with: thriftune import {study.quoted} FILE"
        )
    written = answered if answered_only else found
    _write(path, written, chosen)
    return Exported(name, chosen, len(written), len(answered))


def _write(path: Path | None, written: Sequence[Row], chosen: Format) -> None:
    if path is None:
        # As in files: UTF-8 whatever the locale, and line ends as written.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        write_rows(sys.stdout, written, chosen)
        sys.stdout.flush()
        return
    # Excel takes a CSV without the mark for the local 8-bit encoding, and saves that back.
    encoding = "utf-8-sig" if chosen == "csv" else "utf-8"
    with atomic_path(path) as temporary, temporary.open("w", encoding=encoding, newline="") as handle:
        write_rows(handle, written, chosen, array=path.suffix.lower() == ".json")


def latest(study: Study) -> str:
    """The selection made last.

    Raises:
        AnnotationError: there is none.
    """
    names = study.selections()
    if not names:
        raise AnnotationError(
            f"{study.path} has no selection yet: run: thriftune select {study.quoted} --budget 100 "
            f"(or export the prompts set aside with --selection {HOLDOUT})"
        )
    return names[-1]


def rows(study: Study, selection: str, *, draft: bool = True, annotations: str = "human") -> list[Row]:
    """The prompts of a selection with their drafts and answers.

    Args:
        study: where it is.
        selection: its name, ``"pool"`` or ``"holdout"``.
        draft: look up the model's own answers, too.
        annotations: whose answers, see `Study.responses`.

    Returns:
        Rows in pick order, after them prompts that took the place of flagged ones.

    Raises:
        AnnotationError: the selection is empty, or names prompts that the pool does not have.
    """
    _, _, record = study.selection(selection)
    ids = with_replacements(study, selection)
    if not ids:
        raise AnnotationError(
            f"{study.path} has no held-out prompts: thriftune init --holdout N sets some aside"
            if selection == HOLDOUT
            else f"selection {selection!r} is empty"
        )
    prompts = prompts_of(study, ids)
    missing = next((i for i in ids if i not in prompts), None)
    if missing is not None:
        raise AnnotationError(f"selection {selection!r} names {missing!r}, which is not in the pool of {study.path}")
    run, drafts = _drafts(study, record.get("run"), ids) if draft else (None, {})
    answers = study.responses(annotations)
    result = []
    for rank, identifier in enumerate(ids, 1):
        text, turns, task = prompts[identifier]
        shown, confidence = drafts.get(identifier, ("", None)) if draft else (None, None)
        response = answers.get(identifier, "")
        result.append(Row(identifier, rank, text, turns, task, shown, response, confidence, run))
    return result


def prompts_of(study: Study, ids: Sequence[str]) -> dict[str, tuple[str, list[Message] | None, str | None]]:
    """Text, turns and task by id, for those of ``ids`` that the study has, held-out prompts included."""
    table = _where(study.pool(["id", "text", "messages", "task"], split=None), ids)
    columns = (table[name].to_pylist() for name in ("id", "text", "messages", "task"))
    return {identifier: (text, turns, task) for identifier, text, turns, task in zip(*columns, strict=True)}


def _drafts(
    study: Study, run: str | None, ids: Sequence[str]
) -> tuple[str | None, dict[str, tuple[str, float | None]]]:
    """The score run, and by id the draft and how probable the model found its tokens."""
    runs = study.score_runs()
    if not runs:
        return None, {}
    # The draft of the run that the picks were made from, where it is still there.
    chosen = run if run in runs else runs[-1]
    if "mean_nll" not in study.score_columns(chosen):
        return None, {}  # --no-generate
    table = _where(study.scores(chosen, ["id", "response", "mean_nll"]), ids)
    columns = (table[name].to_pylist() for name in ("id", "response", "mean_nll"))
    return chosen, {i: (text, None if nll is None else math.exp(-nll)) for i, text, nll in zip(*columns, strict=True)}


def _where(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    # Filtered before anything becomes a Python object: a pool may have a million rows, a selection rarely has.
    return table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))
