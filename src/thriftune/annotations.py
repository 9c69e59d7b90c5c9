"""The answers of a study, in SQLite: the one file that holds paid human work."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from thriftune.errors import StudyError
from thriftune.types import Annotation, Source

Flag = Literal["unanswerable", "duplicate"]

# Numbered migrations: PRAGMA user_version says how many were applied; append, never edit.
_MIGRATIONS = (
    """
    CREATE TABLE annotations (
        id INTEGER PRIMARY KEY,
        prompt_id TEXT NOT NULL,
        response TEXT NOT NULL,
        annotator TEXT NOT NULL DEFAULT '',
        source TEXT NOT NULL CHECK (source IN ('human', 'teacher', 'imported')),
        seconds REAL,
        status TEXT NOT NULL CHECK (status IN ('draft', 'final', 'skipped')),
        created TEXT NOT NULL,
        replaced TEXT  -- when a later answer took its place, NULL for the answer in force
    );
    CREATE UNIQUE INDEX in_force ON annotations (prompt_id, annotator, source) WHERE replaced IS NULL;
    """,
    # The annotation page: undo, review, flags, half-written texts, who is at work on what.
    """
    ALTER TABLE annotations ADD COLUMN replaces INTEGER;
    ALTER TABLE annotations ADD COLUMN review INTEGER NOT NULL DEFAULT 0 CHECK (review IN (0, 1));
    ALTER TABLE annotations ADD COLUMN flag TEXT CHECK (flag IN ('unanswerable', 'duplicate'));
    ALTER TABLE annotations ADD COLUMN reason TEXT;
    DROP INDEX in_force;
    CREATE UNIQUE INDEX in_force ON annotations (prompt_id, annotator, source, review) WHERE replaced IS NULL;
    CREATE INDEX by_annotator ON annotations (annotator, id) WHERE replaced IS NULL;
    CREATE INDEX flagged ON annotations (prompt_id) WHERE flag IS NOT NULL AND replaced IS NULL;
    CREATE TABLE drafts (
        prompt_id TEXT NOT NULL,
        annotator TEXT NOT NULL,
        response TEXT,  -- NULL when it became an answer
        seconds REAL NOT NULL,
        revision INTEGER NOT NULL,  -- grows with every change, so that two tabs notice each other
        saved TEXT NOT NULL,
        PRIMARY KEY (prompt_id, annotator)
    );
    CREATE TABLE leases (
        prompt_id TEXT NOT NULL,
        annotator TEXT NOT NULL,
        expires REAL NOT NULL,  -- seconds since 1970
        PRIMARY KEY (prompt_id, annotator)
    );
    """,
    # What a person has begun, without reading what everybody ever began.
    """
    CREATE INDEX begun ON drafts (annotator) WHERE response IS NOT NULL;
    """,
)

_PATIENCE_S = 30  # with which a locked file is waited for

# Signs that it is the content of the file, not the moment or the place.
_DAMAGE = ("decode to UTF-8", "no such", "malformed", "already exists", "duplicate column")


def now() -> str:
    """The time as it is stored: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class AnnotationStore:
    """Answers by prompt, annotator and source; nothing is ever deleted, a replaced answer is kept and marked.

    Args:
        path: the SQLite file; created on the first write.

    Raises:
        StudyError: the file is damaged or was written by a newer thriftune.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def connect(self) -> sqlite3.Connection:
        """An open connection for a caller who keeps it, schema up to date; transactions are begun by hand.

        Raises:
            StudyError: the file is damaged, cannot be written or was written by a newer thriftune.
        """
        with self.reported():
            connection = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
            try:
                self._begin_log(connection)
                # FULL: an answer that was acknowledged survives a power failure.
                connection.execute("PRAGMA synchronous=FULL")
                self._migrate(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    @staticmethod
    def _begin_log(connection: sqlite3.Connection) -> None:
        """WAL mode. Two that make the file at once are told that it is locked, without SQLite's usual waiting."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """SQLite's errors as one that names the file and what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if any(sign in str(error) for sign in _DAMAGE):
                raise StudyError(f"{self.path} is damaged ({error}): restore it from a copy") from error
            # Locked, read-only, no space: the answers are fine, the moment or the place is not.
            raise StudyError(f"{self.path}: {error}; see that it can be written and nothing else holds it") from error
        except sqlite3.IntegrityError:
            raise
        except UnicodeDecodeError as error:  # in the text of an error about a damaged file
            raise StudyError(f"{self.path} is damaged ({error}): restore it from a copy") from error
        except sqlite3.DatabaseError as error:
            raise StudyError(f"{self.path}: {error}; restore it from a copy if it is damaged") from error

    def _look(self) -> sqlite3.Connection:
        """An open connection that reads, where nothing can be written."""
        # Without a log beside the file there is nothing but the file, and SQLite need not write to share it.
        alone = "" if Path(f"{self.path}-wal").exists() else "&immutable=1"
        with self.reported():
            return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro{alone}", uri=True, isolation_level=None)

    @contextlib.contextmanager
    def _connect(self, *, reading: bool = False) -> Iterator[sqlite3.Connection]:
        # To read a database that others write SQLite writes beside it: not possible in a directory that is read-only.
        connection = self._look() if reading and not os.access(self.path.parent, os.W_OK) else self.connect()
        try:
            with self.reported():
                yield connection
        finally:
            connection.close()

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._version(connection) == len(_MIGRATIONS):
            return
        connection.execute("BEGIN IMMEDIATE")
        # Read again under the lock: another process may have migrated meanwhile.
        version = self._version(connection)
        for number in range(version, len(_MIGRATIONS)):
            for statement in _MIGRATIONS[number].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number + 1}")
        connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(_MIGRATIONS):
            raise StudyError(f"{self.path} was written by a newer thriftune (schema {version}): upgrade thriftune")
        return version

    def add(
        self,
        annotations: Iterable[Annotation],
        *,
        replace: bool = False,
        over: Mapping[Annotation, Annotation] | None = None,
    ) -> None:
        """Store answers, all or none.

        Args:
            annotations: at most one for each prompt, annotator and source.
            replace: let them take the place of answers in force, which are kept as history.
            over: by answer, the one in force whose place it takes too, be it another person's or what a review decided.

        Raises:
            StudyError: an answer in force is in the way and ``replace`` is False, or the file cannot be written.
        """
        moment = now()
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for a in annotations:
                    other = over.get(a) if over else None
                    row = None if other is None else _retire(connection, other, moment)
                    put(connection, a, moment, replace=replace, replaces=row)
            except sqlite3.IntegrityError as error:
                connection.execute("ROLLBACK")
                raise StudyError(f"prompt {a.prompt_id!r} already has this annotator's answer ({error})") from error
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def in_force(self) -> list[Annotation]:
        """The answers that were not replaced, oldest first; those a review decided on after all others."""
        if not self.path.exists():
            return []
        with self._connect(reading=True) as connection:
            rows = connection.execute(
                # CAST: SQLite keeps a number or bytes in a text column if another program put them there.
                "SELECT CAST(prompt_id AS TEXT), CAST(response AS TEXT), CAST(annotator AS TEXT), source, "
                "CAST(seconds AS REAL), status FROM annotations "
                "WHERE replaced IS NULL ORDER BY review, id"
            ).fetchall()
        return [Annotation(*row) for row in rows]

    def final(self, sources: Collection[Source] | None = None) -> dict[str, Annotation]:
        """The final answer of each answered prompt.

        A person's comes before a model's; of several, what a review decided, else the latest.

        Args:
            sources: only answers from these; None for all.
        """
        found = [a for a in self.in_force() if a.status == "final" and (sources is None or a.source in sources)]
        # The sort keeps the order within a kind, and of several answers to a prompt the last one stays.
        return {a.prompt_id: a for a in sorted(found, key=lambda a: a.source != "teacher")}

    def flagged(self) -> set[str]:
        """Ids of the prompts that somebody flagged as unanswerable or a duplicate."""
        if not self.path.exists():
            return set()
        with self._connect(reading=True) as connection:
            rows = connection.execute(
                "SELECT DISTINCT CAST(prompt_id AS TEXT) FROM annotations WHERE flag IS NOT NULL AND replaced IS NULL"
            ).fetchall()
        return {prompt_id for (prompt_id,) in rows}

    def answered(self, sources: Collection[Source] | None = None) -> set[str]:
        """Ids of the prompts that have a final answer, from ``sources`` where given."""
        return set(self.final(sources))


def _retire(connection: sqlite3.Connection, held: Annotation, moment: str) -> int | None:
    """Make a final answer history inside the caller's transaction; its row, None where it is no longer in force."""
    rows = connection.execute(
        "UPDATE annotations SET replaced = ? WHERE prompt_id = ? AND annotator = ? AND source = ? "
        "AND CAST(response AS TEXT) = ? AND status = 'final' AND replaced IS NULL RETURNING id",
        (moment, held.prompt_id, held.annotator, held.source, held.response),
    ).fetchall()
    return int(rows[-1][0]) if rows else None


def put(
    connection: sqlite3.Connection,
    annotation: Annotation,
    moment: str,
    *,
    replace: bool,
    review: bool = False,
    flag: Flag | None = None,
    reason: str | None = None,
    replaces: int | None = None,
) -> int:
    """Write one answer inside the caller's transaction.

    Args:
        connection: of `AnnotationStore.connect`, in a transaction.
        annotation: what to store.
        moment: when, as `now` gives it.
        replace: let it take the place of the one in force, which is kept as history.
        review: it is what a review decided on; it stands beside the reviewer's own answer and counts before all others.
        flag: for a skipped prompt, why nobody is to answer it.
        reason: for a skipped prompt, in words.
        replaces: row of another's answer that became history for this one; the annotator's own comes before it.

    Returns:
        The row's id.

    Raises:
        sqlite3.IntegrityError: one is in force and ``replace`` is False, or a value is impossible.
    """
    a = annotation
    held = None
    if replace:
        held = connection.execute(
            "UPDATE annotations SET replaced = ? WHERE prompt_id = ? AND annotator = ? AND source = ? AND review = ? "
            "AND replaced IS NULL RETURNING id",
            (moment, a.prompt_id, a.annotator, a.source, int(review)),
        ).fetchone()
    row = connection.execute(
        "INSERT INTO annotations (prompt_id, response, annotator, source, seconds, status, created, replaces, review, "
        "flag, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            *(a.prompt_id, a.response, a.annotator, a.source, a.seconds, a.status, moment),
            *(held[0] if held else replaces, int(review), flag, reason),
        ),
    ).fetchone()
    return int(row[0])


def withdraw(connection: sqlite3.Connection, row: int, moment: str) -> None:
    """Take an answer back inside the caller's transaction: it becomes history, what it replaced is in force again."""
    (before,) = connection.execute(
        "UPDATE annotations SET replaced = ? WHERE id = ? RETURNING replaces", (moment, row)
    ).fetchone()
    if before is not None:
        # Another's answer that an import replaced stays history where that person has given a new one since.
        connection.execute("UPDATE OR IGNORE annotations SET replaced = NULL WHERE id = ?", (before,))
