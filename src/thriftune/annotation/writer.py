"""Threads that own the database: what arrives together is committed, and flushed to disk, together."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from thriftune.annotations import AnnotationStore
from thriftune.errors import StudyError

Result = TypeVar("Result")
Work = Callable[[sqlite3.Connection], Result]
_TOGETHER = 256


class Writer:
    """Runs work on one connection in the order of its arrival; a result is given out when it is on disk.

    Two hundred people who save every second would each wait for a flush of their own; here they share one. Because
    nothing else in the process writes, what one piece of work reads is still true when it writes.

    Args:
        store: the answers.
        reading: a thread for what only reads, and may take long: nobody's save waits for it.

    Raises:
        StudyError: the file cannot be opened.
    """

    def __init__(self, store: AnnotationStore, *, reading: bool = False) -> None:
        self._store = store
        self._connection = store.connect()
        # At once IMMEDIATE: a transaction that begins by reading may find later that it cannot write.
        self._begin = "BEGIN" if reading else "BEGIN IMMEDIATE"
        self._most = 1 if reading else _TOGETHER
        if reading:
            self._connection.execute("PRAGMA query_only = ON")
        self._waiting: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reader" if reading else "annotations", daemon=True)
        self._thread.start()

    def submit(self, work: Work[Result]) -> Future[Result]:
        """Have ``work`` done in a transaction.

        Args:
            work: gets the connection; what it wrote is undone when it raises.

        Returns:
            What it returned, once that is durable. Fails with what it raised, or with a StudyError when the file
            could not be written.
        """
        future: Future[Result] = Future()
        self._waiting.put((work, future))
        return future

    def close(self) -> None:
        """Finish what was submitted, then let go of the file."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            batch = []
            item = self._waiting.get()
            while True:
                if item is None:
                    open_ = False
                    break
                batch.append(item)
                if len(batch) == self._most:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._together(batch)
        self._connection.close()

    def _together(self, batch: list[tuple[Work[Any], Future[Any]]]) -> None:
        # Nobody waits for what was cancelled; what is begun can no longer be, so that its result has a taker.
        batch = [(work, future) for work, future in batch if future.set_running_or_notify_cancel()]
        done: list[tuple[Future[Any], Any]] = []
        failed: list[tuple[Future[Any], BaseException]] = []
        connection = self._connection
        try:
            with self._store.reported():
                connection.execute(self._begin)
                for work, future in batch:
                    connection.execute("SAVEPOINT one")
                    try:
                        done.append((future, work(connection)))
                    except sqlite3.OperationalError:
                        raise
                    except Exception as error:
                        connection.execute("ROLLBACK TO one")
                        failed.append((future, error))
                    connection.execute("RELEASE one")
                connection.execute("COMMIT")
        except BaseException as error:
            # Full disk, lock held too long: nothing of this batch is stored, and nobody is told that it was.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            reason = error if isinstance(error, StudyError) else StudyError(f"{self._store.path}: {error}")
            for _, future in batch:
                future.set_exception(reason)
            return
        for future, result in done:
            future.set_result(result)
        for future, problem in failed:
            future.set_exception(problem)
