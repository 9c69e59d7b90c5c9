"""Reading answers back: any of the formats, told apart by content; every broken row keeps its line number."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftune.annotation.foreign import Found, Unreadable, author, found_in, label_studio_flat, split, turns
from thriftune.errors import AnnotationError
from thriftune.spreadsheet import unguard
from thriftune.types import Source

# The prompt as an answer file has it: text, or (role, content) pairs; None where the file leaves it out.
Told = str | tuple[tuple[str, str], ...] | None
_NEEDED = ("id", "response")
_CELL_LIMIT = 2**31 - 1  # csv refuses cells beyond 128 KiB unless told


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of an answer file.

    Args:
        line: 1-based line on which it begins.
        id: of the prompt.
        response: the answer, exactly as in the file; empty where nobody answered yet.
        prompt: the prompt as the file has it, to notice edits.
        annotator: who answered; None where the file does not say.
        seconds: time spent answering; None where the file does not say.
        source: ``human``, ``teacher`` or ``imported``; None where the file does not say.
        over: annotator and text of the answer that it differs from, in a file of conflicts.
    """

    line: int
    id: str
    response: str
    prompt: Told
    annotator: str | None = None
    seconds: float | None = None
    source: Source | None = None
    over: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that cannot be used."""

    line: int
    reason: str


def parse(path: Path, data: bytes) -> Iterator[Answer | Broken]:
    """The rows of an answer file.

    Args:
        path: its name, for messages.
        data: its bytes: JSON Lines, a JSON array, or CSV (comma, semicolon or tab) in UTF-8.

    Yields:
        Answers and broken rows, in file order.

    Raises:
        AnnotationError: the file as a whole cannot be read.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    start = data.lstrip()[:1]
    if not start:
        raise AnnotationError(f"{path} is empty: give a file of answers")
    if data[:2] == b"\x1f\x8b" or data[:4] in (b"PK\x03\x04", b"PAR1", b"\x28\xb5\x2f\xfd"):
        raise AnnotationError(f"{path} is compressed, a workbook or Parquet: save it as CSV or JSON, not compressed")
    if start == b"{":
        return _json_lines(data)
    text = _decode(path, data)
    return _json_array(path, text) if start == b"[" else _csv(path, text)


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AnnotationError(f"{path}:{line} is not UTF-8 ({error.reason}): save it as UTF-8") from None


def _json_lines(data: bytes) -> Iterator[Answer | Broken]:
    # Split on newlines only: str.splitlines would also split inside strings, at U+2028 for one.
    for line, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            yield Broken(line, f"not a JSON object ({_fault(error)})")
            continue
        yield from from_json(line, row)


def _json_array(path: Path, text: str) -> Iterator[Answer | Broken]:
    decoder = json.JSONDecoder()
    position, line = text.index("[") + 1, text.count("\n", 0, text.index("[")) + 1
    while True:
        following = _skip(text, position, " \t\r\n")
        line += text.count("\n", position, following)
        position = following
        if text[position : position + 1] == "]":
            return
        try:
            row, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise AnnotationError(f"{path}:{line} is not valid JSON ({_fault(error)}): mend the file there") from None
        yield from from_json(line, row)
        line += text.count("\n", position, end)
        position = _skip(text, end, " \t\r\n")
        line += text.count("\n", end, position)
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            raise AnnotationError(f"{path}:{line} is not valid JSON (expected ',' or ']'): mend the file there")


def _fault(error: Exception) -> str:
    """What is wrong with a line, without its number and without advice to programmers."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return error.msg.removesuffix(" at") if isinstance(error, json.JSONDecodeError) else str(error).partition(";")[0]


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def from_json(line: int, row: Any) -> Iterator[Answer | Broken]:
    """The answers in one JSON value of a file.

    Args:
        line: where it begins.
        row: the value.

    Yields:
        An answer, empty where nobody gave one; several where several people did; or why the row cannot be used.
    """
    if not isinstance(row, dict):
        yield Broken(line, f"a JSON {type(row).__name__} where an object was expected")
        return
    try:
        for found in found_in(row) or [_own(row)]:
            yield _checked(line, found)
    except Unreadable as error:
        yield Broken(line, str(error))


def _checked(line: int, found: Found) -> Answer | Broken:
    identifier = found.id
    whole = isinstance(identifier, int) and not isinstance(identifier, bool)
    if whole or (isinstance(identifier, float) and math.isfinite(identifier)):
        identifier = str(identifier)  # tables turn ids of digits into numbers
    if not isinstance(identifier, str) or not identifier:
        return Broken(line, "no id")
    if not isinstance(found.response, str | None):
        return Broken(line, f"the answer is a JSON {type(found.response).__name__}, not text")
    return _answer(line, found._replace(id=identifier, response=found.response or ""))


def _own(row: dict[str, Any]) -> Found:
    """jsonl, messages and alpaca."""
    identifier = row.get("id")
    if "messages" in row:
        said = turns(row["messages"])
        if said is None:
            raise Unreadable("messages is not a list of {role, content} with text in both")
        if "response" in row:
            return Found(identifier, row["response"], said, **author(row))
        told, response = split(said)
        return Found(identifier, response, told, **author(row))
    if "response" in row:
        prompt = row.get("prompt")
        name, text = row.get("in_force_annotator"), row.get("in_force")  # what `keep_conflicts` adds
        return Found(
            identifier,
            row["response"],
            prompt if isinstance(prompt, str) else None,
            over=(name, text) if isinstance(name, str) and isinstance(text, str) else None,
            **author(row),
        )
    if "output" in row:
        parts = [p for p in (row.get("instruction"), row.get("input")) if isinstance(p, str) and p]
        return Found(identifier, row["output"], "\n\n".join(parts) or None, **author(row))
    raise Unreadable("none of response, messages, completion, conversations and output is there")


def _answer(line: int, found: Found) -> Answer | Broken:
    try:
        for text in (found.id, found.response, found.annotator or ""):
            text.encode()
    except UnicodeEncodeError:
        return Broken(line, "half a Unicode character (a lone surrogate) in id, answer or annotator")
    response = found.response if found.response.strip() else ""
    return Answer(line, found.id, response, *found[2:])


def _csv(path: Path, text: str) -> Iterator[Answer | Broken]:
    header = text.split("\n", 1)[0]
    # Spreadsheets of many countries save with semicolons.
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(_CELL_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    theirs = False
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise AnnotationError(
                f"{path}:{line} is not valid CSV ({error}), so that rows from there on are unclear: mend it"
            ) from None
        if not names:
            names = [cell.strip().lower() for cell in cells]
            theirs = "thriftune_id" in names  # Label Studio's CSV, whose id is its own number
            missing = [name for name in _NEEDED if name not in names]
            if missing:
                raise AnnotationError(
                    f"{path}:{line} has no column {' and '.join(missing)} (there: {', '.join(names)[:200]}): "
                    "name the columns so, or give answers in another format that thriftune export writes"
                )
            continue
        if not any(cell.strip() for cell in cells):
            continue  # spreadsheets leave rows of empty cells at the end
        if len(cells) != len(names):
            yield Broken(line, f"{len(cells)} cells under {len(names)} columns")
            continue
        row = dict(zip(names, map(unguard, cells), strict=True))
        try:
            found = (
                label_studio_flat(row)
                if theirs
                else Found(row["id"], row["response"], row.get("prompt"), **author(row))
            )
        except Unreadable as error:
            yield Broken(line, str(error))
            continue
        yield _answer(line, found) if found.id.strip() else Broken(line, "no id")
