"""What every reader yields, and the lines that the readers of text formats share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from thriftune.errors import PoolError

# A longer line is damage or another format, and would undo the promise of bounded memory.
LONGEST_LINE = 64 << 20
LONGEST_DOCUMENT = 1 << 30  # JSON that is not lines is held in memory
_KEPT_OF_RAW = 1 << 20

Meter = Callable[[float], None]


class Row(NamedTuple):
    """A row as the source has it; ``line`` is the 1-based line (jsonl, csv) or row (json array, parquet, hub)."""

    line: int
    values: dict[str, Any]


class Reject(NamedTuple):
    """A row that cannot be used: where, why in a few fixed words, the particulars, and the row itself."""

    line: int
    reason: str
    detail: str
    row: Any


class Line(NamedTuple):
    """A line of bytes; ``cut`` where it is longer than `LONGEST_LINE` and only its beginning is here."""

    number: int
    data: bytes
    cut: bool


def skip_mark(stream: io.BufferedReader[Any], path: Path) -> None:
    """Skip a UTF-8 byte order mark.

    Raises:
        PoolError: the file is UTF-16, which would come out as a reject on every line.
    """
    head = stream.peek(4)[:4]
    # Without a mark, ASCII in UTF-16 still has a zero in every other byte.
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(head) >= 2 and (head[0] == 0) != (head[1] == 0)):
        raise PoolError(f"{path} is UTF-16, not UTF-8: convert it with: iconv -f UTF-16 -t UTF-8 {path} > NEW_FILE")
    if head[:4] == b"PAR1":
        raise PoolError(f"{path} is a Parquet file: name it .parquet")
    if head[:3] == b"\xef\xbb\xbf":
        stream.read(3)


def lines(stream: io.BufferedReader[Any]) -> Iterator[Line]:
    """The lines of ``stream``, of which the overlong ones are skipped but for their beginning."""
    number = 0
    while data := stream.readline(LONGEST_LINE):
        number += 1
        if len(data) < LONGEST_LINE or data.endswith(b"\n"):
            yield Line(number, data, False)
            continue
        beginning = data[:_KEPT_OF_RAW]
        while data and not data.endswith(b"\n"):
            data = stream.readline(LONGEST_LINE)
        yield Line(number, beginning, True)


def shown(raw: bytes) -> str:
    """Raw bytes as the rejects file keeps them: at most a MiB, what is not UTF-8 as ``\\xNN``."""
    return raw[:_KEPT_OF_RAW].rstrip(b"\r\n").decode("utf-8", "backslashreplace")
