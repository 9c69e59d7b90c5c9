"""Stand-ins for servers that a forked command would talk to."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def label_studio(file: str) -> None:
    """Let ``thriftune label-studio pull`` read a project's tasks from a file."""
    from thriftune.annotation import label_studio as module

    @contextlib.contextmanager
    def served(url: str) -> Iterator[Any]:
        tasks = [SimpleNamespace(**task) for task in json.loads(Path(file).read_text(encoding="utf-8"))]
        yield SimpleNamespace(
            users=SimpleNamespace(list=lambda: [SimpleNamespace(id=1, email="ann@example.org")]),
            projects=SimpleNamespace(get=lambda number: SimpleNamespace(task_number=len(tasks))),
            tasks=SimpleNamespace(list=lambda **_: tasks),
        )

    module._server = served


def patience(seconds: float) -> None:
    """How long SQLite waits for a lock that others hold."""
    connect = sqlite3.connect
    sqlite3.connect = lambda *a, **k: connect(*a, **{**k, "timeout": seconds})  # type: ignore[assignment]
