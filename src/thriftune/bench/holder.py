"""One process at a time works on a bench; another one is told which."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from thriftune.artifacts import read_json, write_json
from thriftune.errors import BenchError, StudyError
from thriftune.study import Study


@contextlib.contextmanager
def held(study: Study, name: str, directory: Path) -> Iterator[None]:
    """Hold a bench against other processes, which are told who holds it.

    Raises:
        BenchError: another process is at work on it.
    """
    note = directory / "holder.json"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(study.lock(f"bench-{name}"))
        except StudyError:
            who = "another process"
            with contextlib.suppress(StudyError, KeyError, TypeError):
                by = read_json(note)
                who = f"process {by['process']} on {by['host']}, since {by['since']},"
            raise BenchError(f"{who} is at work on bench {name!r} of {study.path}: wait for it to end") from None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(note, {"process": os.getpid(), "host": platform.node(), "since": since})
        stack.callback(note.unlink, missing_ok=True)
        yield
