"""Who answers what next: the ranking, its reserve, and who is at work on which prompt."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

# A person's word on a prompt: an answer of their own. What a model or a review wrote is none.
_HUMAN = "a.source IN ('human', 'imported') AND a.review = 0 AND a.replaced IS NULL"
# An answer that people stand for, a review's included.
ANSWER = "a.source IN ('human', 'imported') AND a.status = 'final' AND a.replaced IS NULL"


@dataclass(frozen=True)
class Terms:
    """How prompts are shared out.

    Args:
        target: how many prompts are to be answered.
        overlap: by how many people each.
        lease: seconds for which a prompt stays with the person who last touched it.
    """

    target: int
    overlap: int = 1
    lease: float = 900.0


class Queue:
    """Prompts in the order of the ranking, handed out one at a time.

    The first ``target`` prompts are to be answered, and for each that was flagged (unanswerable, a duplicate) and that
    nobody answered, one more of the ranking. A prompt is settled when ``overlap`` people gave a final answer or a flag,
    when it was flagged and nobody answered it, or when a review decided. All methods run inside the caller's
    transaction, so that no two people can be handed the same place.

    Args:
        ids: the selection in pick order.
        terms: see `Terms`.
    """

    def __init__(self, ids: Sequence[str], terms: Terms) -> None:
        self.terms = terms
        self.ids: list[str] = []
        self.rank_of: dict[str, int] = {}
        self.extend(ids)

    def extend(self, ids: Sequence[str]) -> None:
        """Put more prompts at the end of the ranking; those that are in it already stay where they are."""
        for i in ids:
            if i not in self.rank_of:
                self.ids.append(i)
                self.rank_of[i] = len(self.ids)

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.rank_of

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Bring the connection's copy of the ranking up to date; first thing in every transaction."""
        # Tables of the connection's own: the ranking's place is the selection's file, not the answers'. What they
        # hold is rolled back with a transaction that fails, which variables of ours would not be.
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS ranking (rank INTEGER PRIMARY KEY, prompt_id TEXT UNIQUE)")
        (count,) = connection.execute("SELECT COALESCE(MAX(rank), 0) FROM ranking").fetchone()
        if count < len(self.ids):
            connection.executemany("INSERT INTO ranking VALUES (?, ?)", enumerate(self.ids[count:], count + 1))
        # Everything before `open_from` is settled for everyone. Only a shortcut: where others wrote, it starts over.
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS mark (open_from INTEGER, seen INTEGER)")
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if connection.execute("SELECT seen FROM mark").fetchone() != (version,):
            connection.execute("DELETE FROM mark")
            connection.execute("INSERT INTO mark VALUES (1, ?)", (version,))

    def reopened(self, connection: sqlite3.Connection) -> None:
        """Somebody took a word back: a place before the first open one may be open again."""
        connection.execute("UPDATE mark SET open_from = 1")

    def window(self, connection: sqlite3.Connection) -> int:
        """How far down the ranking prompts are handed out."""
        end = self.terms.target
        for (rank,) in connection.execute(
            f"""
            SELECT DISTINCT q.rank FROM annotations f JOIN ranking q ON q.prompt_id = f.prompt_id
            WHERE f.flag IS NOT NULL AND f.replaced IS NULL AND NOT EXISTS (
                SELECT 1 FROM annotations a WHERE a.prompt_id = f.prompt_id AND {ANSWER})
            ORDER BY q.rank
            """
        ):
            if rank <= end:
                end += 1
        return min(end, len(self.ids))

    def assign(
        self, connection: sqlite3.Connection, annotator: str, time: float, *, after: str | None = None
    ) -> str | None:
        """The prompt that a person is to answer now, leased to them.

        Args:
            connection: in a transaction.
            annotator: who asks.
            time: seconds since 1970.
            after: put this prompt off: take one further down, from the top again when there is none.

        Returns:
            Its id: what they hold or have begun, else the first open one; None when there is nothing for them.
        """
        connection.execute("DELETE FROM leases WHERE expires <= ?", (time,))
        end = self.window(connection)
        found = None
        if after is None:
            found = self._begun(connection, annotator, time, end)
        else:
            start = self.rank_of.get(after, 0) + 1
            found = self._open(connection, annotator, time, start, end)
        if found is None:
            found = self._open(connection, annotator, time, self._advance(connection, end), end)
        if found is not None:
            self.take(connection, found, annotator, time)
        return found

    def take(self, connection: sqlite3.Connection, prompt_id: str, annotator: str, time: float) -> list[str]:
        """Lease a prompt to a person, or renew the lease, and release what they hold without having begun it.

        Returns:
            Who else holds it and keeps it from being leased; empty when it is theirs now.
        """
        connection.execute(
            """
            DELETE FROM leases WHERE annotator = :me AND prompt_id != :prompt AND NOT EXISTS (
                SELECT 1 FROM drafts d WHERE d.prompt_id = leases.prompt_id AND d.annotator = :me
                AND d.response IS NOT NULL)
            """,
            {"me": annotator, "prompt": prompt_id},
        )
        return self.renew(connection, prompt_id, annotator, time)

    def renew(self, connection: sqlite3.Connection, prompt_id: str, annotator: str, time: float) -> list[str]:
        """As `take`, releasing nothing."""
        others = [
            name
            for (name,) in connection.execute(
                "SELECT annotator FROM leases WHERE prompt_id = ? AND annotator != ? AND expires > ?",
                (prompt_id, annotator, time),
            )
        ]
        held = connection.execute(
            "SELECT 1 FROM leases WHERE prompt_id = ? AND annotator = ? AND expires > ?", (prompt_id, annotator, time)
        ).fetchone()
        if held is None and others:
            words = {
                name
                for (name,) in connection.execute(
                    f"SELECT annotator FROM annotations a WHERE a.prompt_id = ? AND a.annotator != ? AND {_HUMAN} "
                    "AND a.status = 'final'",
                    (prompt_id, annotator),
                )
            }
            if len(words | set(others)) >= self.terms.overlap:
                return others
        connection.execute(
            "INSERT INTO leases VALUES (?, ?, ?) "
            "ON CONFLICT (prompt_id, annotator) DO UPDATE SET expires = excluded.expires",
            (prompt_id, annotator, time + self.terms.lease),
        )
        return []

    def release(self, connection: sqlite3.Connection, prompt_id: str, annotator: str) -> None:
        """Let go of a prompt."""
        connection.execute("DELETE FROM leases WHERE prompt_id = ? AND annotator = ?", (prompt_id, annotator))

    def _begun(self, connection: sqlite3.Connection, annotator: str, time: float, end: int) -> str | None:
        """The first open prompt that the person holds or has written something for."""
        for (rank,) in connection.execute(
            """
            SELECT q.rank FROM ranking q JOIN (
                SELECT prompt_id FROM leases WHERE annotator = :me
                UNION SELECT prompt_id FROM drafts WHERE annotator = :me AND response IS NOT NULL) USING (prompt_id)
            WHERE q.rank <= :end ORDER BY q.rank
            """,
            {"me": annotator, "end": end},
        ).fetchall():
            found = self._open(connection, annotator, time, rank, rank)
            if found is not None:
                return found
        return None

    def _advance(self, connection: sqlite3.Connection, end: int) -> int:
        """Move the mark past what is settled for everyone."""
        (start,) = connection.execute("SELECT open_from FROM mark").fetchone()
        row = connection.execute(
            f"SELECT rank FROM ranking q WHERE rank BETWEEN :start AND :end AND NOT {SETTLED} ORDER BY rank LIMIT 1",
            {"start": start, "end": end, "overlap": self.terms.overlap},
        ).fetchone()
        start = end + 1 if row is None else int(row[0])
        connection.execute("UPDATE mark SET open_from = ?", (start,))
        return start

    def _open(self, connection: sqlite3.Connection, annotator: str, time: float, start: int, end: int) -> str | None:
        row = connection.execute(
            _NEXT, {"start": start, "end": end, "overlap": self.terms.overlap, "me": annotator, "time": time}
        ).fetchone()
        return None if row is None else str(row[0])


_VERDICTS = f"""
    (SELECT COUNT(DISTINCT a.annotator) FROM annotations a
     WHERE a.prompt_id = q.prompt_id AND {_HUMAN} AND (a.status = 'final' OR a.flag IS NOT NULL))
"""
SETTLED = f"""(
    {_VERDICTS} >= :overlap
    OR EXISTS (SELECT 1 FROM annotations r WHERE r.prompt_id = q.prompt_id AND r.review = 1 AND r.replaced IS NULL)
    OR (EXISTS (SELECT 1 FROM annotations f
                WHERE f.prompt_id = q.prompt_id AND f.flag IS NOT NULL AND f.replaced IS NULL)
        AND NOT EXISTS (SELECT 1 FROM annotations a
                        WHERE a.prompt_id = q.prompt_id AND a.status = 'final' AND {_HUMAN}))
)"""
# Who holds a lease and has given an answer before is editing it and counts once.
_NEXT = f"""
    SELECT q.prompt_id FROM ranking q
    WHERE q.rank BETWEEN :start AND :end
      AND NOT EXISTS (SELECT 1 FROM annotations m
                      WHERE m.prompt_id = q.prompt_id AND m.annotator = :me AND m.source = 'human' AND m.review = 0
                        AND m.replaced IS NULL AND m.status IN ('final', 'skipped'))
      AND NOT {SETTLED}
      AND {_VERDICTS} + (
          SELECT COUNT(*) FROM leases l
          WHERE l.prompt_id = q.prompt_id AND l.annotator != :me AND l.expires > :time
            AND NOT EXISTS (SELECT 1 FROM annotations a
                            WHERE a.prompt_id = l.prompt_id AND a.annotator = l.annotator AND {_HUMAN}
                              AND (a.status = 'final' OR a.flag IS NOT NULL))) < :overlap
    ORDER BY q.rank LIMIT 1
"""
