"""Writing artifacts: atomically, and each with the record of what made it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

from thriftune.errors import StudyError

if TYPE_CHECKING:
    import pyarrow as pa

_RECORDED_PACKAGES = (
    *("thriftune", "numpy", "pyarrow", "numba", "torch", "transformers", "tokenizers", "datasets"),
    *("peft", "trl", "lm-eval", "rouge-score"),
)
_METADATA_KEY, _CHECKSUM_KEY = b"thriftune", b"thriftune-crc32"
_RERUN = "restore it from a copy, or remove it and rerun the stage that makes it"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends well, and vanishes otherwise.

    Args:
        path: the final place of the file. A symbolic link stays and what it leads to is replaced; a device or a named
            pipe stays and is written into.

    Yields:
        The path to write to. It is flushed to disk before the rename, so a reader never sees half a file. What a
        killed writer of the same file left behind is removed.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with tempfile.TemporaryDirectory() as elsewhere:
            temporary = Path(elsewhere, path.name)
            yield temporary
            with temporary.open("rb") as whole, path.open("wb") as stream:
                shutil.copyfileobj(whole, stream)
        return
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    make_directory(path.parent)
    # Keeps the suffix, by which some writers choose their format.
    prefix, suffix = f".{path.stem}.", f".tmp{path.suffix}"
    for other in path.parent.iterdir():
        if other.name.startswith(prefix) and other.name.endswith(suffix):
            _remove_abandoned(other)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
    temporary = Path(name)
    try:
        _claim(descriptor)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        # mkstemp makes files private; artifacts follow the user's umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _claim(descriptor: int) -> bool:
    """Lock an open file until it is closed, which the end of the process does too; False where another process did."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _remove_abandoned(temporary: Path) -> None:
    """Remove a temporary file unless its writer is alive."""
    with contextlib.suppress(OSError):
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            if _claim(descriptor):
                temporary.unlink()
        finally:
            os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make a directory, and those above it, whose names survive a power failure."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` survive a power failure (a no-op where directories cannot be opened)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """For what torch and safetensors write: their own errors about a full disk as the OSError that they stand for."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        # torch's writer tells of a short write by where it stands in the file.
        if any(sign in str(error) for sign in ("No space left", "inline_container", "PytorchStreamWriter")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place)) from error
        raise


def sync_tree(directory: Path) -> None:
    """Make all files below ``directory``, and their names, survive a power failure."""
    for path in (*directory.rglob("*"), directory):
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())


def provenance(**details: Any) -> dict[str, Any]:
    """What made an artifact: time, package versions, platform, and the caller's ``details`` (JSON values)."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions, **details}


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON artifact.

    Raises:
        StudyError: the file is missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\ud" in text.lower():  # half a character, which JSON can hold and no file of ours
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except FileNotFoundError:
        raise StudyError(f"{path} is missing: {_RERUN}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path} is damaged ({error}): {_RERUN}") from None


def read_object(path: Path, **fields: type | UnionType) -> dict[str, Any]:
    """Read a JSON artifact that is an object.

    Args:
        path: the file.
        fields: what it must hold, by name, and of which type.

    Raises:
        StudyError: the file is missing, damaged, or is not such an object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise StudyError(f"{path} is damaged (no JSON object): {_RERUN}")
    for name, kind in fields.items():
        if not isinstance(value.get(name), kind):
            found = repr(value[name])[:80] if name in value else "not there"
            raise StudyError(f"{path} is damaged ({name} is {found}): {_RERUN}")
    return value


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around code that takes an artifact's values apart: where they are not what they should be, it is damaged.

    Raises:
        StudyError: naming ``path``.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise StudyError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}): {_RERUN}") from error


def write_table(path: Path, table: pa.Table, record: Mapping[str, Any]) -> None:
    """Write a Parquet file atomically, its record (see `provenance`) in the schema's metadata.

    Args:
        path: where to.
        table: the rows.
        record: JSON values; readable again by `read_record`.
    """
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(with_record(table, record), temporary, compression="zstd", write_page_checksum=True)


def with_record(table: pa.Table, record: Mapping[str, Any]) -> pa.Table:
    """``table`` with ``record`` in its schema metadata."""
    kept = dict(table.schema.metadata or {})
    kept[_METADATA_KEY] = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    # Pages of a Parquet file have checksums, its metadata have not.
    kept[_CHECKSUM_KEY] = b"%08x" % zlib.crc32(kept[_METADATA_KEY])
    return table.replace_schema_metadata(kept)


def read_table(path: Path, columns: list[str] | None = None, *, types: Mapping[str, str] | None = None) -> pa.Table:
    """Read a Parquet artifact; checksums are compared.

    Args:
        path: the file.
        columns: which; None for all.
        types: Arrow's names of the types that columns must have if they are read, with ``?`` where values may be
            missing, ``turns?`` for chats. Columns of another type are converted where nothing is lost by it.

    Raises:
        StudyError: the file is missing or damaged, or has not these columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = [c for c in columns or () if c not in file.schema_arrow.names]
            if missing:
                raise StudyError(f"{path} is damaged (no column {missing[0]!r}): {_RERUN}")
            table = file.read(columns)
        table.validate(full=True)  # text that is not UTF-8, for one
    except FileNotFoundError:
        raise StudyError(f"{path} is missing: {_RERUN}") from None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise StudyError(f"{path} is damaged ({_first_line(error)}): {_RERUN}") from None
    return _typed(path, table, types or {})


def _typed(path: Path, table: pa.Table, types: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    for at, field in enumerate(table.schema):
        wanted = types.get(field.name)
        if wanted is None:
            continue
        turn = pa.struct([("role", pa.string()), ("content", pa.string())])
        kind = pa.list_(turn) if wanted == "turns?" else pa.type_for_alias(wanted.rstrip("?"))
        column = table.column(at)
        if field.type != kind:
            try:
                column = column.cast(kind)
            except pa.ArrowException:
                raise StudyError(f"{path} is damaged (column {field.name!r} is {field.type}): {_RERUN}") from None
            table = table.set_column(at, field.name, column)
        if (column.null_count and not wanted.endswith("?")) or (wanted == "turns?" and not _whole_turns(column)):
            raise StudyError(f"{path} is damaged (column {field.name!r} lacks values): {_RERUN}")
    return table


def _whole_turns(column: pa.ChunkedArray) -> bool:
    """Whether every chat has turns, and every turn a role and a content."""
    import pyarrow.compute as pc

    turns = pc.list_flatten(column)
    inside = turns.null_count + sum(pc.struct_field(turns, name).null_count for name in ("role", "content"))
    return inside == 0 and pc.min(pc.list_value_length(column)).as_py() != 0


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def read_record(path: Path) -> dict[str, Any]:
    """The record that `write_table` put into a Parquet file.

    Raises:
        StudyError: the file is missing, damaged, or not one of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_schema(path).metadata or {}
        if _METADATA_KEY not in stored:
            raise StudyError(f"{path} was not written by thriftune: {_RERUN}")
        text = stored[_METADATA_KEY]
        # Files of older versions have no checksum.
        if int(stored.get(_CHECKSUM_KEY, b"%08x" % zlib.crc32(text)), 16) != zlib.crc32(text):
            raise StudyError(f"{path} is damaged (the checksum of its record is another): {_RERUN}")
        record = json.loads(text)
    except FileNotFoundError:
        raise StudyError(f"{path} is missing: {_RERUN}") from None
    except (pa.ArrowException, OSError, ValueError, RecursionError, MemoryError) as error:
        raise StudyError(f"{path} is damaged ({_first_line(error)}): {_RERUN}") from None
    if not isinstance(record, dict):
        raise StudyError(f"{path} is damaged (its record is no object): {_RERUN}")
    return record


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
