"""Sources of a pool: files, directories of files, datasets on the hub."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from thriftune import progress
from thriftune.artifacts import file_digest
from thriftune.errors import PoolError
from thriftune.pool import hub
from thriftune.pool.files import FORMATS, format_of, read_file
from thriftune.pool.rows import Reject, Row

_MB = 1e6


class Source(NamedTuple):
    """Where rows come from: a file, or (``path`` None) a dataset on the hub."""

    name: str
    path: Path | None


def find_sources(given: Sequence[str | Path]) -> list[Source]:
    """Files and hub datasets that ``given`` names.

    Args:
        given: files, directories (every file in them whose name tells a known format, studies and hidden ones left
            out), hub ids.

    Returns:
        The sources in the given order, a directory's files by name.

    Raises:
        PoolError: something is neither, is empty, or is given twice.
    """
    if not given:
        raise PoolError("no pool: give files, directories or hub dataset ids with --pool")
    found: list[Source] = []
    for each in given:
        name = os.fspath(each)
        try:
            found.extend(_sources(name))
        except (OSError, ValueError) as error:  # not to be listed, too long, a NUL in it
            raise PoolError(f"{name}: {getattr(error, 'strerror', error)}: check the path") from None
    seen: set[Path | str] = set()
    for source in found:
        key = source.name if source.path is None else source.path.resolve()
        if key in seen:
            raise PoolError(f"{source.name} is given twice, its prompts would all be duplicates: give it once")
        seen.add(key)
    return found


def _sources(name: str) -> list[Source]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(_files_below(path, set()))
        if not files:
            raise PoolError(f"{path} holds no jsonl, json, csv, tsv or parquet file: name one, or another directory")
        return [Source(str(f), f) for f in files]
    if path.exists():
        if format_of(path) is None or not path.is_file():
            raise PoolError(f"{path}: cannot tell its format: name it {', '.join(FORMATS)} (each also .gz or .zst)")
        return [Source(str(path), path)]
    # A directory of that name here makes a mistyped path likelier than a dataset, and the hub takes long to say no.
    there = {_stem(f): f for f in path.parent.iterdir()} if len(path.parts) > 1 and path.parent.is_dir() else {}
    near = difflib.get_close_matches(_stem(path), there, 1, 0.8)
    if near:
        raise PoolError(f"{name}: no such file: did you mean {there[near[0]]}?")
    if hub.looks_like_id(name) and format_of(path) is None:
        return [Source(name, None)]
    raise PoolError(f"{name}: no such file, and no hub dataset id either: check it (ids are written owner/name)")


def _stem(path: Path) -> str:
    return path.name.lstrip(".").partition(".")[0]


def _files_below(directory: Path, seen: set[Path]) -> Iterator[Path]:
    place = directory.resolve()
    if place in seen or (directory / "study.json").exists():
        return  # a link can lead back up
    seen.add(place)
    for entry in directory.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files_below(entry, seen)
        elif format_of(entry) and entry.is_file():  # a pipe would wait for its writer
            yield entry


def read_source(source: Source, record: dict[str, Any]) -> Iterator[Row | Reject]:
    """Stream a source's rows behind a progress bar.

    Args:
        source: what to read.
        record: takes what identifies the source: size and SHA-256 of a file, split and revision of a dataset.

    Yields:
        Rows and rejects in the source's order.

    Raises:
        PoolError: the source as a whole cannot be read.
    """
    label = f"reading {source.name}"
    if source.path is None:
        dataset = hub.open_dataset(source.name)
        record.update(split=dataset.split, revision=dataset.revision)
        with progress.progress(label, dataset.rows or 0, "rows") as advance:
            for row in hub.read_dataset(source.name, dataset):
                yield row
                advance(1)
        return
    try:
        record.update(bytes=source.path.stat().st_size, sha256=file_digest(source.path))
    except OSError as error:
        raise PoolError(f"{source.name}: {error.strerror}") from None
    with progress.progress(label, record["bytes"] / _MB, "MB") as advance:
        yield from read_file(source.path, lambda n: advance(n / _MB))
