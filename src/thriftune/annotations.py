"""The answers of a study, in SQLite: the one file that holds paid human work."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from thriftune.errors import StudyError
from thriftune.types import Annotation

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
)


class AnnotationStore:
    """Answers by prompt, annotator and source; nothing is ever deleted, a replaced answer is kept and marked.

    Args:
        path: the SQLite file; created on the first write.

    Raises:
        StudyError: the file is damaged or was written by a newer thriftune.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            # FULL: an answer that was acknowledged survives a power failure.
            connection.execute("PRAGMA synchronous=FULL")
            self._migrate(connection)
            yield connection
        except sqlite3.OperationalError as error:
            # Locked, read-only, no space: the answers are fine, the moment or the place is not.
            raise StudyError(f"{self.path}: {error}; see that it can be written and nothing else holds it") from error
        except sqlite3.DatabaseError as error:
            raise StudyError(f"{self.path}: {error}; restore it from a copy if it is damaged") from error
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

    def add(self, annotations: Iterable[Annotation], *, replace: bool = False) -> None:
        """Store answers, all or none.

        Args:
            annotations: at most one for each prompt, annotator and source.
            replace: let them take the place of answers in force, which are kept as history.

        Raises:
            StudyError: an answer in force is in the way and ``replace`` is False, or the file cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for a in annotations:
                    if replace:
                        connection.execute(
                            "UPDATE annotations SET replaced = ? "
                            "WHERE prompt_id = ? AND annotator = ? AND source = ? AND replaced IS NULL",
                            (now, a.prompt_id, a.annotator, a.source),
                        )
                    connection.execute(
                        "INSERT INTO annotations (prompt_id, response, annotator, source, seconds, status, created) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (a.prompt_id, a.response, a.annotator, a.source, a.seconds, a.status, now),
                    )
            except sqlite3.IntegrityError as error:
                connection.execute("ROLLBACK")
                raise StudyError(f"prompt {a.prompt_id!r} already has this annotator's answer ({error})") from error
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def in_force(self) -> list[Annotation]:
        """The answers that were not replaced, oldest first."""
        if not self.path.exists():
            return []
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT prompt_id, response, annotator, source, seconds, status FROM annotations "
                "WHERE replaced IS NULL ORDER BY id"
            ).fetchall()
        return [Annotation(*row) for row in rows]

    def final(self) -> dict[str, Annotation]:
        """The final answer of each answered prompt; the latest where several annotators gave one."""
        return {a.prompt_id: a for a in self.in_force() if a.status == "final"}

    def answered(self) -> set[str]:
        """Ids of the prompts that have a final answer."""
        return set(self.final())
