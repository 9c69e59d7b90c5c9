"""The files that answers travel in: what each looks like on the way out.

``jsonl`` is for programs, ``csv`` for spreadsheets, ``messages``, ``prompt-completion``, ``alpaca`` and ``sharegpt``
for trainers, ``label-studio`` and ``argilla`` for the tools of that name. `parse` in ``thriftune.annotation.parse``
reads all of them back.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from thriftune.errors import AnnotationError
from thriftune.spreadsheet import guard
from thriftune.types import Message

Format = Literal["jsonl", "csv", "messages", "prompt-completion", "alpaca", "sharegpt", "label-studio", "argilla"]
# For training: a prompt without an answer is of no use in them.
TRAINING: tuple[Format, ...] = ("messages", "prompt-completion", "alpaca", "sharegpt")
FORMATS: tuple[str, ...] = get_args(Format)
# Tools that read one JSON array, not an object a line.
_ARRAYS = ("label-studio", "argilla")
# Suffixes that leave one choice; the others share theirs and are asked for by name.
_BY_SUFFIX: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl"}
# Names in the layout that most tools call ShareGPT.
SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
# Argilla wants a user's number with every response; this one belongs to nobody.
NOBODY = "00000000-0000-0000-0000-000000000000"


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
        confidence: geometric mean of the draft's token probabilities, or None where it was not scored.
        run: the score run that the draft is from, or None.
    """

    id: str
    rank: int
    text: str
    turns: list[Message] | None
    task: str | None
    draft: str | None
    response: str
    confidence: float | None = None
    run: str | None = None

    @property
    def chat(self) -> list[Message]:
        """The turns that lead to the response."""
        return list(self.turns or [Message(role="user", content=self.text)])


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
    if array or to in _ARRAYS:
        separator = "[\n"
        for record in records:
            handle.write(separator + json.dumps(record, ensure_ascii=False))
            separator = ",\n"
        handle.write("[]\n" if separator == "[\n" else "\n]\n")
    else:
        for record in records:
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def _record(row: Row, to: Format) -> dict[str, Any]:
    answer = [Message(role="assistant", content=row.response)] if row.response else []
    if to == "messages":
        return {"id": row.id, "messages": [*row.chat, *answer]}
    if to == "prompt-completion":
        return {"id": row.id, "prompt": row.chat, "completion": answer}
    if to == "alpaca":
        return {"id": row.id, "instruction": row.text, "input": "", "output": row.response}
    if to == "sharegpt":
        said = [{"from": SHAREGPT_ROLES.get(t["role"], t["role"]), "value": t["content"]} for t in (*row.chat, *answer)]
        return {"id": row.id, "conversations": said}
    if to == "label-studio":
        return label_studio_task(row)
    if to == "argilla":
        return _argilla_record(row)
    record: dict[str, Any] = {"id": row.id, "rank": row.rank, "task": row.task}
    if row.turns is None:
        record["prompt"] = row.text
    else:
        record["messages"] = row.turns
    if row.draft is not None:
        record["draft"] = row.draft
    return {**record, "response": row.response}


def label_studio_task(row: Row) -> dict[str, Any]:
    """A Label Studio task: the draft as a prediction with the model's confidence in it, the answer as an annotation.

    The prompt's id stands as ``thriftune_id``, since some of Label Studio's exports overwrite ``id``.
    """
    task: dict[str, Any] = {"data": {"thriftune_id": row.id, "rank": row.rank, "task": row.task, "prompt": row.text}}
    if row.turns is not None:
        task["data"]["messages"] = row.turns
    if row.draft:
        prediction = {"model_version": row.run or "draft", "result": _written(row.draft)}
        task["predictions"] = [prediction if row.confidence is None else {**prediction, "score": row.confidence}]
    if row.response:
        task["annotations"] = [{"result": _written(row.response)}]
    return task


def _written(text: str) -> list[dict[str, Any]]:
    return [{"from_name": "response", "to_name": "prompt", "type": "textarea", "value": {"text": [text]}}]


def _argilla_record(row: Row) -> dict[str, Any]:
    """A record as Argilla's SDK writes and reads it (``dataset.records.to_json``, ``from_json``)."""
    fields: dict[str, Any] = {"prompt": row.text}
    if row.turns is not None:
        fields["messages"] = row.turns
    metadata: dict[str, Any] = {"rank": row.rank} | ({} if row.task is None else {"task": row.task})
    suggestions = {}
    if row.draft:
        suggestions["response"] = {"value": row.draft, "score": row.confidence, "agent": row.run or "draft"}
    answer = {"response": [{"value": row.response, "user_id": NOBODY}]}
    return {
        "id": row.id,
        "fields": fields,
        "metadata": metadata,
        "suggestions": suggestions,
        "responses": answer if row.response else {},
        "vectors": {},
        "status": "completed" if row.response else "pending",
    }


def _write_csv(handle: TextIO, rows: Sequence[Row]) -> None:
    drafts = all(row.draft is not None for row in rows)
    writer = csv.writer(handle)  # RFC 4180: CRLF between rows, quotes doubled
    writer.writerow(["id", "rank", "task", "prompt", *(["draft"] if drafts else []), "response"])
    for row in rows:
        shown = [row.draft or ""] if drafts else []
        cells = [row.id, str(row.rank), row.task or "", row.text, *shown, row.response]
        writer.writerow([guard(cell) for cell in cells])
