"""Files as rows: jsonl, json, csv, tsv and parquet, plain or compressed, one row at a time.

What is wrong with a single row becomes a `Reject`, so that one bad line does not cost the pool; what is wrong with the
file as a whole (truncated, wrong encoding, not the format) is a PoolError.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from thriftune.errors import PoolError
from thriftune.pool.csv_rows import read_csv
from thriftune.pool.json_rows import read_json
from thriftune.pool.rows import Meter, Reject, Row

FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED = (".gz", ".zst", ".zstd")
_CHUNK, _SMALL_CHUNK = 1 << 18, 1 << 14
# What a small file unpacks to is read whatever it is; beyond, text grows by a factor of 3 to 50.
_HARMLESS, _MOST_GROWTH = 1 << 24, 300


def format_of(path: Path) -> str | None:
    """``json``, ``csv``, ``parquet`` or None, by the file's name."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def read_file(path: Path, meter: Meter) -> Iterator[Row | Reject]:
    """Stream the rows of a file.

    Args:
        path: the file; compression is told from its first bytes, the format (see `format_of`) from its name.
        meter: called with the bytes of the file consumed since its last call.

    Yields:
        Rows and rejects in file order.

    Raises:
        PoolError: the file cannot be opened, is truncated or is not what its name says.
    """
    import pyarrow as pa

    kind = format_of(path)
    line = 0
    try:
        if kind == "parquet":
            for item in _parquet(path, meter):
                line = item.line
                yield item
        else:
            with _opened(path, meter) as stream:
                for item in (read_csv if kind == "csv" else read_json)(stream, path):
                    line = item.line
                    yield item
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise PoolError(f"{path}: {error.strerror}") from None
        # What an interrupted download or a full disk leaves behind.
        said = (str(error) or type(error).__name__).splitlines()[0]
        where = f"after line {line:,}" if line else "from the start"
        raise PoolError(f"{path} is damaged or truncated {where} ({said}): get the file again") from None


class _Metered(io.RawIOBase):
    """A file that reports how many of its bytes were read."""

    def __init__(self, handle: IO[bytes], meter: Meter) -> None:
        self.handle, self.meter, self.size = handle, meter, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.handle.read(len(buffer))
        buffer[: len(data)] = data
        self.meter(len(data))
        self.size += len(data)
        return len(data)


class _Unpacked(io.RawIOBase):
    """The bytes of a compressed file, which is refused when it grows as no text does."""

    def __init__(self, path: Path, packed: _Metered, read: Callable[[int], bytes]) -> None:
        self.path, self.packed, self.read_some, self.size = path, packed, read, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read_some(len(buffer))
        buffer[: len(data)] = data
        self.size += len(data)
        if self.size > _HARMLESS and self.size > _MOST_GROWTH * self.packed.size:
            raise PoolError(
                f"{self.path} unpacks to more than {_MOST_GROWTH} times its size, as no text does: if it is what you "
                "mean, unpack it and give the unpacked file"
            )
        return len(data)


def _compression(path: Path) -> str | None:
    """What the first bytes say; a name may be wrong."""
    with path.open("rb") as handle:
        magic = handle.read(4)
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if magic == b"\x28\xb5\x2f\xfd" else None


@contextlib.contextmanager
def _opened(path: Path, meter: Meter) -> Iterator[io.BufferedReader[Any]]:
    """The file's bytes, unpacked."""
    import pyarrow as pa

    compression = _compression(path)
    with path.open("rb") as handle:
        metered = _Metered(handle, meter)
        raw = io.BufferedReader(metered, _SMALL_CHUNK if compression else _CHUNK)
        # Small pieces: of a truncated file the piece being read is lost, and with it its lines.
        if compression == "gzip":
            unpacked = _Unpacked(path, metered, gzip.GzipFile(fileobj=cast(Any, raw)).read1)
            yield io.BufferedReader(unpacked, _SMALL_CHUNK)
        elif compression == "zstd":
            unpacked = _Unpacked(path, metered, pa.CompressedInputStream(raw, "zstd").read)
            yield io.BufferedReader(unpacked, _SMALL_CHUNK)
        else:
            yield raw


def _parquet(path: Path, meter: Meter) -> Iterator[Row | Reject]:
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        source: Any = path
        if _compression(path):
            # Parquet is read from its end, so it has to be unpacked first.
            stream = stack.enter_context(_opened(path, lambda _: None))
            source = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, source)
            source.seek(0)
        # Both settings: otherwise whole columns of a row group are held, and pandas writes a million rows to a group.
        file = stack.enter_context(pq.ParquetFile(source, pre_buffer=False, buffer_size=_CHUNK))
        line = 0
        for batch in file.iter_batches(batch_size=1024):
            for item in _rows(batch):
                line += 1
                yield item._replace(line=line)
            meter(path.stat().st_size * batch.num_rows / file.metadata.num_rows)


def _rows(batch: Any) -> Iterator[Row | Reject]:
    try:
        yield from (Row(0, values) for values in batch.to_pylist())
    except ValueError:
        # Arrow does not check text until it is turned into Python's: find the rows that are at fault.
        for i in range(batch.num_rows):
            yield _row(batch.slice(i, 1))


def _row(batch: Any) -> Row | Reject:
    try:
        return Row(0, batch.to_pylist()[0])
    except UnicodeDecodeError:
        return Reject(0, "not UTF-8", "a text column has bytes that are not UTF-8", None)
    except ValueError as error:
        return Reject(0, "unreadable value", str(error), None)
