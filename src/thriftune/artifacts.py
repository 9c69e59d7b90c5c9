"""Writing artifacts: atomically, and each with the record of what made it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftune.errors import StudyError

if TYPE_CHECKING:
    import pyarrow as pa

_RECORDED_PACKAGES = (
    *("thriftune", "numpy", "pyarrow", "numba", "torch", "transformers", "tokenizers", "datasets"),
    *("peft", "trl", "lm-eval", "rouge-score"),
)
_METADATA_KEY = b"thriftune"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends well, and vanishes otherwise.

    Args:
        path: the final place of the file.

    Yields:
        The path to write to. It is flushed to disk before the rename, so a reader never sees half a file. What a
        killed writer of the same file left behind is removed.
    """
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
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path} is missing") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is damaged ({error}): restore it from a copy or remove it and rerun") from None


def write_table(path: Path, table: pa.Table, record: Mapping[str, Any]) -> None:
    """Write a Parquet file atomically, its record (see `provenance`) in the schema's metadata.

    Args:
        path: where to.
        table: the rows.
        record: JSON values; readable again by `read_record`.
    """
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(with_record(table, record), temporary, compression="zstd")


def with_record(table: pa.Table, record: Mapping[str, Any]) -> pa.Table:
    """``table`` with ``record`` in its schema metadata."""
    kept = dict(table.schema.metadata or {})
    kept[_METADATA_KEY] = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    return table.replace_schema_metadata(kept)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet artifact.

    Raises:
        StudyError: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except FileNotFoundError:
        raise StudyError(f"{path} is missing") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StudyError(f"{path} is damaged ({error}): remove it and rerun the stage that makes it") from None


def read_record(path: Path) -> dict[str, Any]:
    """The record that `write_table` put into a Parquet file.

    Raises:
        StudyError: the file is missing, damaged, or not one of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_schema(path).metadata or {}
        return dict(json.loads(stored[_METADATA_KEY]))
    except FileNotFoundError:
        raise StudyError(f"{path} is missing") from None
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        raise StudyError(f"{path} is damaged or not written by thriftune ({error})") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
