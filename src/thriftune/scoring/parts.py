"""What an interrupted run leaves and the next one takes up: its settings, its parts; and what is swept away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from thriftune.artifacts import make_directory, read_record, read_table, write_table
from thriftune.errors import ScoreError, StudyError
from thriftune.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

Say = Callable[[str], None]
Result = TypeVar("Result")
UNFINISHED = (".*.tmp*", "parts", "vectors", "plan.parquet")
_EVERY_S = 15.0  # seconds of work lost at most when a run is killed
_MOST = 2000  # results a part


class Gathered(NamedTuple):
    """Parts that hold every prompt once.

    Args:
        files: Parquet files with a column ``row``.
        rows: (m,) pool row of each stored row, file after file.
    """

    files: list[Path]
    rows: IntArray


class Parts(Generic[Result]):
    """Results of single prompts, arriving in any order, gathered into files that survive what comes.

    Args:
        directory: where the files are; those of an interrupted run count, damaged ones are removed.
        table: makes the table of some pool rows and their results, with a column ``row``.
        say: receives the lines meant for people.
        begin: called before the first file is written.
    """

    def __init__(
        self,
        directory: Path,
        table: Callable[[IntArray, list[Result]], pa.Table],
        say: Say,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory, self._table, self._begin = directory, table, begin
        self._waiting: list[tuple[int, Result]] = []
        self._written = time.monotonic()
        self._files: list[Path] = []
        self._rows: list[IntArray] = []
        for file in sorted(directory.glob("[0-9]*.parquet")):
            try:
                rows = read_table(file)["row"].to_numpy()
            except (StudyError, KeyError) as error:
                say(f"{error}; it is made again")
                file.unlink()
                continue
            self._files.append(file)
            self._rows.append(rows)

    def missing(self, rows: IntArray) -> IntArray:
        """Those of ``rows`` (m,) that have no result yet, in their order."""
        return rows[~np.isin(rows, self.gathered().rows)]

    def add(self, row: int, result: Result) -> None:
        """Take a result; it is on disk within seconds, or when `flush` returns."""
        self._waiting.append((row, result))
        if len(self._waiting) >= _MOST or time.monotonic() - self._written >= _EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        self._written = time.monotonic()
        if not self._waiting:
            return
        if not self._files:
            self._begin()
            make_directory(self.directory)
        # Of a file removed as damaged the number is free again; the last one's is not.
        number = max((int(f.stem) for f in self._files), default=-1) + 1
        file = self.directory / f"{number:06d}.parquet"
        rows = np.array([row for row, _ in self._waiting], np.int64)
        write_table(file, self._table(rows, [result for _, result in self._waiting]), {})
        self._files.append(file)
        self._rows.append(rows)
        self._waiting = []

    def gathered(self) -> Gathered:
        """The files written so far."""
        return Gathered(list(self._files), np.concatenate([np.empty(0, np.int64), *self._rows]))


def tidy(directory: Path, patterns: Sequence[str] = UNFINISHED) -> None:
    """Remove what an interrupted or finished run left behind."""
    for pattern in patterns:
        for path in directory.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def check_same(manifest: dict[str, Any], wanted: dict[str, Any], directory: Path) -> None:
    """Refuse to go on with other settings.

    Args:
        manifest: of the run that there is.
        wanted: sections of it as they would be now.
        directory: where it is.

    Raises:
        ScoreError: naming what differs.
    """
    changed = []
    for section, now in wanted.items():
        before = manifest.get(section)
        if isinstance(now, dict) and isinstance(before, dict):
            changed += [f"{k} was {before.get(k)!r}, now {v!r}" for k, v in now.items() if before.get(k) != v]
        elif before != now:
            changed.append(f"the {section} is another")
    if changed:
        raise ScoreError(
            f"score run {directory.name!r} exists with other settings ({'; '.join(changed)}): "
            f"give this one another --name, or remove {directory} to start it anew"
        )


def whole(part: Path, plan_digest: str, say: Say) -> bool:
    """Whether a part is there and belongs to the plan; a damaged one is named and done again."""
    if not part.exists():
        return False
    try:
        fits = read_record(part).get("plan") == plan_digest
        read_table(part)
    except StudyError as error:
        say(f"{error}; it is scored again")
        fits = False
    if not fits:
        part.unlink()
    return fits
