"""Where a study is made: a hidden directory inside the study's, whose files move up when they are complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from thriftune.artifacts import sync_directory
from thriftune.errors import StudyError

_HIDDEN = ".init-"
_LOCK = ".init.lock"
_MADE = {"pool.parquet", "references.parquet", "rejects.jsonl", "annotations.sqlite"}


@contextlib.contextmanager
def workshop_in(path: Path) -> Iterator[Path]:
    """A hidden directory whose files move up into ``path`` when the block ends well, study.json last.

    It is inside ``path``, not beside it, so that a mounted volume can become a study. Whatever else ends the block,
    ``path`` is left as it was found; after a kill the next call cleans up.

    Args:
        path: the study's directory; must not exist or be empty.

    Yields:
        The hidden directory.

    Raises:
        StudyError: ``path`` is taken, in use by another process, or cannot be written.
    """
    from filelock import FileLock, Timeout

    made = not path.exists()
    try:
        if not made and not path.is_dir():
            raise StudyError(f"{path} is a file: give a directory for the study first, then --pool")
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / _LOCK, timeout=0):
            try:
                _refuse_taken(path)
                yield from _build_inside(path)
            finally:
                with contextlib.suppress(OSError):
                    (path / _LOCK).unlink()
    except Timeout:
        raise StudyError(f"another process is making {path} into a study: wait for it to end") from None
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror or error}: the study could not be written") from None
    finally:
        if made:
            # Fails, as it should, when the study is in it.
            with contextlib.suppress(OSError):
                path.rmdir()


def _refuse_taken(path: Path) -> None:
    """Remove what a killed init left, and refuse a directory that holds anything else; the lock is held."""
    names = {entry.name for entry in path.iterdir()}
    stale = {name for name in names if name.startswith(_HIDDEN)}
    if any((path / name / "study.json").exists() for name in stale) and "study.json" not in names:
        # It was killed while its files moved up, study.json last.
        for name in names & _MADE:
            (path / name).unlink()
        names -= _MADE
    for name in stale:
        shutil.rmtree(path / name, ignore_errors=True)
    if "study.json" in names:
        raise StudyError(f"{path} is already a study, left as it is: choose another directory (or remove this one)")
    others = sorted(names - stale - {_LOCK})
    if others:
        raise StudyError(f"{path} is not empty (it holds {others[0]}): choose a new directory for the study")


def _build_inside(path: Path) -> Iterator[Path]:
    workshop = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=path))
    moved: list[Path] = []
    try:
        yield workshop
        names = sorted((e.name for e in workshop.iterdir()), key=lambda name: (name == "study.json", name))
        for name in names:
            with (workshop / name).open("rb+") as handle:
                os.fsync(handle.fileno())
        for name in names:
            if name == "study.json":  # it must not outlive a power failure that the others do not
                sync_directory(path)
            moved.append(path / name)
            (workshop / name).rename(path / name)
        sync_directory(path)
        sync_directory(path.absolute().parent)
    except BaseException:
        for file in moved:
            file.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
