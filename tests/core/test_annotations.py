from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from thriftune import annotations
from thriftune.annotations import AnnotationStore, put, withdraw
from thriftune.errors import StudyError
from thriftune.types import Annotation


@pytest.fixture
def store(tmp_path: Path) -> AnnotationStore:
    return AnnotationStore(tmp_path / "annotations.sqlite")


def test_reading_makes_no_file(store: AnnotationStore) -> None:
    assert store.in_force() == []
    assert store.final() == {}
    assert store.answered() == set()
    assert not store.path.exists()


def test_every_field_comes_back(store: AnnotationStore) -> None:
    given = [
        Annotation("a", "x\r\n\0ß🧵", annotator="ann", source="human", seconds=1.5, status="final"),
        Annotation("b", "", source="teacher", status="draft"),
        Annotation("c", "", source="imported", status="skipped"),
    ]
    store.add(given)
    assert store.in_force() == given
    assert store.answered() == {"a"}


def test_a_second_answer_is_refused_as_a_whole(store: AnnotationStore) -> None:
    store.add([Annotation("a", "old")])
    with pytest.raises(StudyError, match="prompt 'a' already has this annotator's answer"):
        store.add([Annotation("b", "new"), Annotation("a", "new")])
    assert store.in_force() == [Annotation("a", "old")]
    store.add([Annotation("a", "hers", annotator="ann"), Annotation("a", "its", source="teacher")])
    assert len(store.in_force()) == 3


def test_failure_while_reading_the_answers_stores_none(store: AnnotationStore) -> None:
    def answers():  # type: ignore[no-untyped-def]
        yield Annotation("a", "x")
        raise RuntimeError("the file ended")

    with pytest.raises(RuntimeError, match="the file ended"):
        store.add(answers())
    assert store.in_force() == []


def test_replaced_answers_are_kept(store: AnnotationStore) -> None:
    for text in ("one", "two", "three"):
        store.add([Annotation("a", text)], replace=True)
    assert store.in_force() == [Annotation("a", "three")]
    with sqlite3.connect(store.path) as connection:
        rows = connection.execute("SELECT response, created, replaced FROM annotations ORDER BY id").fetchall()
    assert [row[0] for row in rows] == ["one", "two", "three"]
    # Each was replaced at the moment its successor was made.
    assert [row[2] for row in rows] == [rows[1][1], rows[2][1], None]


def test_the_latest_final_answer_counts(store: AnnotationStore) -> None:
    store.add([Annotation("a", "hers", annotator="ann"), Annotation("b", "draft", status="draft")])
    store.add([Annotation("a", "his", annotator="bob")])
    store.add([Annotation("a", "draft", annotator="cy", status="draft")])
    assert {i: a.response for i, a in store.final().items()} == {"a": "his"}


def test_an_answer_acknowledged_is_on_disk(store: AnnotationStore) -> None:
    with store._connect() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)


def test_an_unfinished_migration_is_rolled_back_and_run_again(store: AnnotationStore) -> None:
    # A process that died in the middle left an empty file of version 0.
    connection = sqlite3.connect(store.path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE annotations (id INTEGER)")
    connection.close()
    store.add([Annotation("a", "x")])
    assert store.answered() == {"a"}


def test_a_newer_schema_is_refused(store: AnnotationStore) -> None:
    store.add([Annotation("a", "x")])
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(StudyError, match=r"written by a newer thriftune \(schema 99\): upgrade thriftune"):
        store.in_force()


def test_a_damaged_file_is_named(store: AnnotationStore) -> None:
    store.path.write_bytes(b"not a database, but long enough to look at" * 30)
    with pytest.raises(StudyError, match=r"annotations\.sqlite: file is not a database; restore it from a copy"):
        store.in_force()


def test_impossible_values_are_refused(store: AnnotationStore) -> None:
    with pytest.raises(StudyError):
        store.add([Annotation("a", "x", source="oracle")])  # type: ignore[arg-type]
    assert store.in_force() == []


def _write_many(path: Path, who: str, count: int) -> None:
    store = AnnotationStore(path)
    for i in range(count):
        store.add([Annotation(f"{who}-{i}", "x", annotator=who), Annotation(f"shared-{i}", who, annotator=who)])


def test_writers_at_the_same_time_lose_nothing(store: AnnotationStore) -> None:
    # They also race to create the file: the migration runs once.
    context = multiprocessing.get_context("spawn")
    names = ("ann", "bob", "cy", "dan")
    writers = [context.Process(target=_write_many, args=(store.path, name, 20)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(store.in_force()) == 4 * 20 * 2
    assert len(store.answered()) == 4 * 20 + 20


def test_who_makes_the_file_at_the_same_moment_is_waited_for(store: AnnotationStore) -> None:
    # SQLite itself does not wait for a lock when a new file is to get its log.
    other = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE another (x)")
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.4, lambda: other.execute("ROLLBACK"))
    release.start()
    try:
        store.add([Annotation("a", "x")])
    finally:
        release.join()
        other.close()
    assert store.answered() == {"a"}


def _write_pairs(path: Path) -> None:
    store = AnnotationStore(path)
    i = 0
    while True:
        store.add([Annotation(f"left-{i}", "x"), Annotation(f"right-{i}", "x")])
        i += 1


def test_a_killed_writer_leaves_whole_transactions(store: AnnotationStore) -> None:
    writer = multiprocessing.get_context("spawn").Process(target=_write_pairs, args=(store.path,))
    writer.start()
    while len(store.answered()) < 40:
        time.sleep(0.01)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    sides = {"left": set(), "right": set()}  # type: dict[str, set[str]]
    for identifier in store.answered():
        side, _, number = identifier.partition("-")
        sides[side].add(number)
    assert sides["left"] == sides["right"]
    assert sides["left"] == {str(i) for i in range(len(sides["left"]))}
    store.add([Annotation("after", "x")])


def test_a_file_of_the_first_version_is_brought_up_to_date(store: AnnotationStore) -> None:
    with sqlite3.connect(store.path) as connection:
        for statement in annotations._MIGRATIONS[0].split(";"):
            connection.execute(statement)
        connection.execute("PRAGMA user_version=1")
        connection.execute(
            "INSERT INTO annotations (prompt_id, response, annotator, source, status, created) "
            "VALUES ('a', 'kept', 'ann', 'human', 'final', '2026-01-01')"
        )
    connection.close()
    assert store.in_force() == [Annotation("a", "kept", annotator="ann")]
    store.add([Annotation("a", "new", annotator="ann")], replace=True)
    assert store.final()["a"].response == "new"


def _run(store: AnnotationStore, work: Callable[[sqlite3.Connection], int | None]) -> int:
    connection = store.connect()
    row = work(connection)
    connection.close()
    return row or 0


def test_taking_an_answer_back_puts_its_predecessor_in_force(store: AnnotationStore) -> None:
    store.add([Annotation("a", "one", annotator="ann")])
    row = _run(store, lambda c: put(c, Annotation("a", "two", annotator="ann"), "t2", replace=True))
    assert store.final()["a"].response == "two"
    _run(store, lambda c: withdraw(c, row, "t3"))
    assert store.final()["a"].response == "one"
    with sqlite3.connect(store.path) as connection:
        rows = connection.execute("SELECT response, replaced FROM annotations ORDER BY id").fetchall()
    assert rows == [("one", None), ("two", "t3")]  # nothing is deleted


def test_another_persons_answer_that_was_replaced_comes_back_unless_there_is_a_newer_one(
    store: AnnotationStore,
) -> None:
    hers, his = Annotation("a", "hers", annotator="ann"), Annotation("a", "his", annotator="bob")
    store.add([hers])
    for newer, left in ([], ["hers"]), ([Annotation("a", "hers again", annotator="ann")], ["hers again"]):
        store.add([his], over={his: hers})
        assert store.in_force() == [his]
        store.add(newer)
        with store.connect() as connection:
            (row,) = connection.execute("SELECT MAX(id) FROM annotations WHERE annotator = 'bob'").fetchone()
        _run(store, lambda c, row=row: withdraw(c, row, "t3"))
        assert [a.response for a in store.in_force()] == left


def test_a_review_stands_beside_the_reviewers_own_answer_and_counts_first(store: AnnotationStore) -> None:
    _run(store, lambda c: put(c, Annotation("a", "decided", annotator="ann"), "t1", replace=False, review=True))
    store.add([Annotation("a", "own", annotator="ann"), Annotation("a", "his", annotator="bob")])
    store.add([Annotation("a", "own, changed", annotator="ann")], replace=True)
    assert [a.response for a in store.in_force()] == ["his", "own, changed", "decided"]
    assert store.final()["a"].response == "decided"


def test_values_that_another_program_put_there(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "annotations.sqlite")
    store.add([Annotation("a", "x", "ann", seconds=2.0), Annotation("b", "y", "ann", seconds=2.0)])
    with contextlib.closing(store.connect()) as connection:
        connection.execute("UPDATE annotations SET prompt_id = 7, response = x'6869', seconds = '3' WHERE id = 1")
    assert store.in_force()[0] == Annotation("7", "hi", "ann", seconds=3.0)
    with contextlib.closing(store.connect()) as connection:
        connection.execute("UPDATE annotations SET response = CAST(x'ff00fe' AS TEXT) WHERE id = 1")
    with pytest.raises(StudyError, match="is damaged .*restore it from a copy"):
        store.in_force()
    with contextlib.closing(store.connect()) as connection:
        connection.execute("DROP TABLE annotations")
    with pytest.raises(StudyError, match="is damaged .*restore it from a copy"):
        store.in_force()
