"""The thread that owns the database outlives whoever no longer waits for it."""

from __future__ import annotations

import threading
from pathlib import Path
from sqlite3 import Connection

import pytest

from thriftune.annotation.writer import Writer
from thriftune.annotations import AnnotationStore


def test_a_request_that_was_given_up_stops_nobody_elses(tmp_path: Path) -> None:
    writer = Writer(AnnotationStore(tmp_path / "a.sqlite"))
    begun, go = threading.Event(), threading.Event()

    def slow(connection: Connection) -> str:
        begun.set()
        go.wait(30)
        return "slow"

    first = writer.submit(slow)
    assert begun.wait(30)
    assert not first.cancel()  # at work: its result comes
    given_up = writer.submit(lambda connection: pytest.fail("nobody waits for this"))
    after = writer.submit(lambda connection: "after")
    assert given_up.cancel()
    go.set()
    assert first.result(30) == "slow" and after.result(30) == "after"
    writer.close()
