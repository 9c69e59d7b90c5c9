"""One process at a time on a stage of a study."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from thriftune.errors import StudyError


@contextlib.contextmanager
def hold(directory: Path, stage: str, *, wait: float = 0) -> Iterator[None]:
    """Hold a stage of a study against other processes.

    Args:
        directory: the study's.
        stage: what is held; a part of a file name.
        wait: seconds to wait for another process to let go.

    Raises:
        StudyError: another process holds it; which one, it says.
    """
    from filelock import FileLock, Timeout

    held = FileLock(directory / f".{stage}.lock", timeout=wait)
    note = directory / f".{stage}.holder"
    try:
        held.acquire()
    except Timeout:
        who = ""
        with contextlib.suppress(OSError):
            who = f" ({note.read_text(encoding='utf-8')})"
        raise StudyError(
            f"another process is at work on {stage} of {directory}{who}: wait for it to end, then run this again"
        ) from None
    try:
        with contextlib.suppress(OSError):
            since = datetime.now(UTC).isoformat(timespec="seconds")
            note.write_text(f"process {os.getpid()} on {platform.node()}, since {since}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            note.unlink()
        held.release()
