"""The four files that answers travel in: what each looks like on the way out.

``jsonl`` is for programs, ``csv`` for spreadsheets, ``messages`` and ``alpaca`` for trainers. `parse` in
``thriftune.annotation.parse`` reads all four back.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from thriftune.errors import AnnotationError
from thriftune.types import Message

Format = Literal["jsonl", "csv", "messages", "alpaca"]
FORMATS: tuple[str, ...] = get_args(Format)
# Suffixes that leave one choice; `messages` and `alpaca` share theirs with other layouts and are asked for by name.
_BY_SUFFIX: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl"}
# A spreadsheet evaluates a cell that begins like this, which destroys "- a list" and runs "=HYPERLINK(...)".
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?\Z")


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt to be answered, or answered.

    Args:
        id: of the prompt.
        rank: 1-based place in the selection.
        text: the prompt as a person reads it.
        turns: the chat that leads to the response; None for a single user turn, ``text``.
        task: label, where the pool has one.
        draft: the model's own answer; None where drafts are left out of the file.
        response: the answer; empty while there is none.
    """

    id: str
    rank: int
    text: str
    turns: list[Message] | None
    task: str | None
    draft: str | None
    response: str


def choose_format(to: str | None, path: Path | None) -> Format:
    """The format asked for, or the one that the file's suffix leaves no doubt about.

    Raises:
        AnnotationError: unknown format, or none given and the suffix does not tell.
    """
    known = ", ".join(FORMATS)
    if to is not None:
        if to not in FORMATS:
            raise AnnotationError(f"unknown format {to!r}: choose one of {known}")
        return to  # type: ignore[return-value]
    found = _BY_SUFFIX.get(path.suffix.lower()) if path is not None else None
    if found is None:
        raise AnnotationError(f"the format of {path or 'standard output'} is unclear: add --to with one of {known}")
    return found


def write_rows(handle: TextIO, rows: Sequence[Row], to: Format, *, array: bool = False) -> None:
    """Write ``rows`` in a format.

    Args:
        handle: text file opened with ``newline=""``.
        rows: in pick order.
        to: the format.
        array: one JSON array instead of a JSON object a line.
    """
    if to == "csv":
        _write_csv(handle, rows)
        return
    records = (_record(row, to) for row in rows)
    if array:
        separator = "[\n"
        for record in records:
            handle.write(separator + json.dumps(record, ensure_ascii=False))
            separator = ",\n"
        handle.write("[]\n" if separator == "[\n" else "\n]\n")
    else:
        for record in records:
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def _record(row: Row, to: Format) -> dict[str, Any]:
    if to == "messages":
        turns = list(row.turns or [Message(role="user", content=row.text)])
        if row.response:
            turns.append(Message(role="assistant", content=row.response))
        return {"id": row.id, "messages": turns}
    if to == "alpaca":
        return {"id": row.id, "instruction": row.text, "input": "", "output": row.response}
    record: dict[str, Any] = {"id": row.id, "rank": row.rank, "task": row.task}
    if row.turns is None:
        record["prompt"] = row.text
    else:
        record["messages"] = row.turns
    if row.draft is not None:
        record["draft"] = row.draft
    return {**record, "response": row.response}


def _write_csv(handle: TextIO, rows: Sequence[Row]) -> None:
    drafts = all(row.draft is not None for row in rows)
    writer = csv.writer(handle)  # RFC 4180: CRLF between rows, quotes doubled
    writer.writerow(["id", "rank", "task", "prompt", *(["draft"] if drafts else []), "response"])
    for row in rows:
        shown = [row.draft or ""] if drafts else []
        cells = [row.id, str(row.rank), row.task or "", row.text, *shown, row.response]
        writer.writerow([guard(cell) for cell in cells])


def guard(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before what would be; numbers stay."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.match(cell) else cell


def unguard(cell: str) -> str:
    """What `guard` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
