"""Columns of the stored tables and their types, as docs/artifacts.md lists them; embeddings on disk."""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import numpy as np

from thriftune.artifacts import reading
from thriftune.errors import StudyError
from thriftune.types import FloatArray

# Arrow's names of types, "?" where values may be missing; see `artifacts.read_table`.
POOL = {
    "id": "string",
    "text": "string",
    "messages": "turns?",
    "task": "string?",
    "split": "string",
    "group": "int64",
    "near_group": "int64",
    "n_chars": "int32",
    "source": "string",
    "line": "int64",
    "meta": "string?",
}
REFERENCES = {"id": "string", "response": "string"}
# Columns of scores.parquet that rank prompts; higher = more uncertain.
RANKING = (
    "mean_entropy",
    "max_entropy",
    "least_confidence",
    "mean_nll",
    "mean_margin",
    "min_margin",
    "prompt_nll",
)
SCORES = {
    "id": "string",
    **dict.fromkeys(RANKING, "float"),
    "prompt_nll": "float?",
    "n_prompt_tokens": "int32",
    "n_steps": "int32",
    "truncated_prompt": "bool",
    "hit_limit": "bool",
    "response": "large_string",
    "embedding_scale": "float",
}
SELECTION = {"rank": "int64", "id": "string", "gain": "double?"}

_CHECKED_BYTES = 64 << 20


def open_embeddings(file: Path, rows: int, checksum: str | None) -> FloatArray:
    """The stored embeddings, memory-mapped.

    Args:
        file: ``embeddings.npy``.
        rows: how many there must be.
        checksum: as `checksum_of` gave it; None where none was recorded.

    Raises:
        StudyError: the file is missing or damaged, or is another run's.
    """
    if not file.exists():
        raise StudyError(f"{file.parent.name!r} has no embeddings: restore {file}, or score again under another --name")
    with reading(file):
        try:
            # Not np.load, which also opens archives and pickles.
            stored = np.lib.format.open_memmap(file, mode="r")
        except Exception as error:  # the header is Python, and fails as Python does
            raise ValueError(str(error)) from error
        if stored.ndim != 2 or stored.dtype.kind != "f" or not stored.shape[1]:
            raise ValueError(f"{stored.dtype} of shape {stored.shape}")
    if len(stored) != rows:
        raise StudyError(f"{file} has {len(stored)} rows for {rows} prompts: rerun thriftune score")
    if checksum is not None and _checksum(file, file.stat().st_mtime_ns) != checksum:
        raise StudyError(
            f"{file} is damaged (its checksum is another): restore it, or score again under another --name"
        )
    return stored


def checksum_of(file: Path) -> str:
    """CRC-32 of a file's bytes, as hex: told in a fraction of the time that reading takes."""
    found = 0
    with file.open("rb") as handle:
        while data := handle.read(_CHECKED_BYTES):
            found = zlib.crc32(data, found)
    return f"{found:08x}"


@functools.lru_cache(maxsize=8)
def _checksum(file: Path, _changed: int) -> str:
    return checksum_of(file)
