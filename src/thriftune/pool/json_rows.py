"""JSON lines, and JSON documents that hold an array of objects."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thriftune.errors import PoolError
from thriftune.pool.rows import LONGEST_DOCUMENT, LONGEST_LINE, Line, Reject, Row, lines, shown, skip_mark

_PIECE = 1 << 24


def read_json(stream: io.BufferedReader[Any], path: Path) -> Iterator[Row | Reject]:
    """JSON lines whatever the name says, unless the first line shows a document (an array, a pretty-printed object).

    Lines stream; a document is held in memory as a whole.
    """
    skip_mark(stream, path)
    filled: list[Line] = []
    read = 0
    for line in lines(stream):
        read = line.number
        if not line.data.isspace():
            filled.append(line)
        if len(filled) == 2:
            break
    # In .jsonl only an array can be a document; a broken object there is one bad line.
    opening = b"[" if ".jsonl" in path.name.lower() or ".ndjson" in path.name.lower() else b"[{"
    if filled and filled[0].data.lstrip()[:1] in opening and not (len(filled) == 2 and _is_value(filled[0].data)):
        if any(a.cut for a in filled):
            raise PoolError(f"{path}: a line of more than {LONGEST_LINE >> 20} MiB: write one object a line")
        data = b""
        for line in filled:
            data += b"\n" * (line.number - 1 - data.count(b"\n")) + line.data  # errors are named by their line
        pieces = [data]
        # In pieces: a reader that is asked for a GiB makes room for it at once.
        while sum(map(len, pieces)) <= LONGEST_DOCUMENT and (piece := stream.read(_PIECE)):
            pieces.append(piece)
        data = b"".join(pieces)
        if len(data) > LONGEST_DOCUMENT:
            raise PoolError(
                f"{path} is a JSON document of more than {LONGEST_DOCUMENT >> 20:,} MiB: write one object a line, e.g. "
                f"with: jq -c '.[]' {path} > NEW.jsonl"
            )
        yield from _document(data, path)
        return
    for line in itertools.chain(filled, _renumbered(stream, read)):
        if line.cut:
            yield Reject(line.number, "line too long", f"longer than {LONGEST_LINE >> 20} MiB", shown(line.data))
        elif not line.data.isspace():
            yield _parsed(line)


def _renumbered(stream: io.BufferedReader[Any], before: int) -> Iterator[Line]:
    return (line._replace(number=line.number + before) for line in lines(stream))


def _is_value(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _fault(error: ValueError) -> str:
    """What is wrong, without the line, which is named before it."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')}, column {error.colno}"
    return str(error).partition(";")[0]  # an integer of thousands of digits


def _parsed(line: Line) -> Row | Reject:
    number, data = line.number, line.data
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Reject(number, "not UTF-8", f"byte {error.start + 1} is 0x{data[error.start]:02x}", shown(data))
    except RecursionError:
        return Reject(number, "broken JSON", "nested too deeply", shown(data))
    except ValueError as error:
        return Reject(number, "broken JSON", _fault(error), shown(data))
    if not isinstance(value, dict):
        return Reject(number, "not an object", f"a JSON {_json_type(value)}", value)
    return Row(number, value)


def _json_type(value: Any) -> str:
    names = {list: "array", dict: "object", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _document(data: bytes, path: Path) -> Iterator[Row | Reject]:
    try:
        document = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PoolError(f"{path} is not UTF-8 (byte {error.start + 1}): convert it, e.g. with iconv") from None
    except RecursionError:
        raise PoolError(f"{path} is nested too deeply: give a JSON array of objects, or an object a line") from None
    except ValueError as error:
        where = f"{path}:{getattr(error, 'lineno', 1)}"
        raise PoolError(
            f"{where}: neither a JSON array nor JSON lines ({_fault(error)}): mend the file there"
        ) from None
    if isinstance(document, dict):
        document = _wrapped(document)
    for number, value in enumerate(document, 1):
        if isinstance(value, dict):
            yield Row(number, value)
        else:
            yield Reject(number, "not an object", f"a JSON {_json_type(value)}", value)


def _wrapped(document: dict[str, Any]) -> list[Any]:
    """The rows of ``{"data": [...]}``, or the object itself where its only list of objects is its turns."""
    arrays = [v for v in document.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
    if len(arrays) != 1 or any("role" in r or "from" in r for r in arrays[0]):
        return [document]
    return arrays[0]
