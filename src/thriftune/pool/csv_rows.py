"""Comma- and tab-separated values with a header; quoted fields may span lines."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thriftune.errors import PoolError
from thriftune.pool.rows import LONGEST_LINE, Reject, Row, lines, shown, skip_mark


class _Text:
    """Decoded lines for the csv module; remembers where the record at hand began and what it consisted of."""

    def __init__(self, stream: io.BufferedReader[Any], path: Path) -> None:
        self.path = path
        self.source = lines(stream)
        self.number = 0
        self.record: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self.source:
            if line.cut:
                raise PoolError(
                    f"{self.path}:{line.number}: a line of more than {LONGEST_LINE >> 20} MiB: check that it is CSV"
                )
            self.number = line.number
            # Bytes that are not UTF-8 travel as lone surrogates, to be found in the row where they are.
            self.record.append(line.data.decode("utf-8", "surrogateescape"))
            yield self.record[-1]

    def raw(self) -> str:
        return shown("".join(self.record).encode("utf-8", "surrogateescape"))


def read_csv(stream: io.BufferedReader[Any], path: Path) -> Iterator[Row | Reject]:
    """Rows by the header's names; a file that has no comma in its header may use ``;``, tab or ``|``."""
    skip_mark(stream, path)
    text = _Text(stream, path)
    records = iter(text)
    opening = next(records, "")
    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    if delimiter not in opening:
        delimiter = next((d for d in ",;\t|" if d in opening), delimiter)
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(_put_back(opening, records), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    first = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise PoolError(
                    f"{path}:{first}: the header is not CSV ({_fault(error)}): save the file anew"
                ) from None
            taken = f" in a record of {len(text.record):,} lines" if len(text.record) > 1 else ""
            if taken and ("unexpected end" in str(error) or "field limit" in str(error)):
                # Everything after that quote would be lost as one broken row.
                raise PoolError(
                    f"{path}:{first}: a quote that opens here is not closed in the {len(text.record):,} lines that "
                    "follow: close it, or double it where it belongs to the text"
                ) from None
            yield Reject(first, "broken CSV", _fault(error) + taken, text.raw())
        else:
            if fields and header is None:
                header = _header([f.strip() for f in fields], path, first)
            elif fields and header is not None:
                yield _row(first, fields, header, text)
        first = text.number + 1
        text.record.clear()


def _fault(error: csv.Error) -> str:
    return str(error).partition(" - ")[0]  # what follows is advice to programmers


def _put_back(line: str, rest: Iterator[str]) -> Iterator[str]:
    if line:
        yield line
    yield from rest


def _row(first: int, fields: list[str], header: list[str], text: _Text) -> Row | Reject:
    if len(fields) != len(header):
        detail = f"{len(fields)} fields where the header has {len(header)}"
        return Reject(first, "wrong number of fields", detail, text.raw())
    if not _encodable(fields):
        return Reject(first, "not UTF-8", "a field has bytes that are not UTF-8", text.raw())
    return Row(first, dict(zip(header, fields, strict=True)))


def _header(names: list[str], path: Path, line: int) -> list[str]:
    if not _encodable(names):
        raise PoolError(f"{path}:{line}: the header is not UTF-8: convert the file, e.g. with iconv")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 1:,} more" if len(repeated) > 1 else ""
        raise PoolError(f"{path}:{line}: the header names {repeated[0]!r}{more} twice: rename the columns")
    return names


def _encodable(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True
