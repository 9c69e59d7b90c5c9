"""Who answers what next: the ranking, its reserve, and who is at work on which prompt."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

_COLUMNS = "prompt_id, annotator, source, status, flag, review"


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


class Word(NamedTuple):
    """What people have said on one prompt.

    Args:
        said: who gave a final answer or a flag; what a model or a review wrote is no person's word.
        done: who answered or skipped it on the page: it is not handed to them again.
        given: answers that stand, a review's included, at most the overlap.
        lacks: answers still to be given; 0 when it is settled.
        settled: nobody is to be handed it any more.
        flagged: somebody flagged it.
        out: flagged, and without an answer: another prompt takes its place.
    """

    said: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    given: int = 0
    lacks: int = 0
    settled: bool = False
    flagged: bool = False
    out: bool = False


class Queue:
    """Prompts in the order of the ranking, handed out one at a time.

    The first ``target`` prompts are to be answered, and for each that was flagged (unanswerable, a duplicate) and that
    nobody answered, one more of the ranking. A prompt is settled when ``overlap`` people gave a final answer or a flag,
    when it was flagged and nobody answered it, or when a review decided. All methods run inside the caller's
    transaction, so that no two people can be handed the same place.

    What people said is kept in memory, prompt by prompt, so that no request reads all answers: a trigger of the
    connection names the prompts that change, and they are read again. Where another process wrote or a transaction was
    undone, everything is.

    Args:
        ids: the selection in pick order.
        terms: see `Terms`.
    """

    def __init__(self, ids: Sequence[str], terms: Terms) -> None:
        self.terms = terms
        self.ids: list[str] = []
        self.rank_of: dict[str, int] = {}
        self._version, self._step = -1, 0
        self._stale: set[str] = set()  # changed, to be read again
        self._fresh: set[str] = set()  # read again since the step began
        self._words: dict[str, Word] = {}
        self._same: dict[Word, Word] = {}  # a few hundred people say only so many different things
        self._open: list[int] = []  # unsettled ranks up to _reached, in order
        self._reached = 0
        self._outs: list[int] = []
        self._beyond: set[str] = set()  # with a word, and not among the first `target`
        self._totals = [0, 0, 0, 0, 0]  # prompts with a word, settled, answered, answers given, answers lacking
        self._flagged = 0
        self.extend(ids)

    def extend(self, ids: Iterable[str]) -> None:
        """Put more prompts at the end of the ranking; those that are in it already stay where they are."""
        new = [i for i in dict.fromkeys(ids) if i not in self.rank_of]
        self.rank_of.update(zip(new, count(len(self.ids) + 1), strict=False))
        self.ids += new
        self._stale.update(new if self._version != -1 else ())  # the first time, all that was said is read

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.rank_of

    # --- what was said ----------------------------------------------------------------------------------------------

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Notice what changed outside; first thing in every transaction or savepoint."""
        try:
            (step,) = connection.execute("SELECT step FROM temp.steps").fetchone()
        except sqlite3.OperationalError:  # the first one, or the first one was undone
            self._install(connection)
            step = 0
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        # The database's count of steps is rolled back with a transaction, ours is not. One step less: the last one
        # was undone, and what it touched is read again in any case.
        if version != self._version or not self._step - 1 <= step <= self._step:
            self._rebuild(connection)
        again, self._fresh = self._fresh, set()
        for prompt_id in again:
            self._read(connection, prompt_id)
        self._version, self._step = version, step + 1
        connection.execute("UPDATE temp.steps SET step = ?", (step + 1,))

    def _install(self, connection: sqlite3.Connection) -> None:
        connection.create_function("touched", 1, self._stale.add)
        for event, row in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")):
            connection.execute(
                f"CREATE TEMP TRIGGER IF NOT EXISTS touched_{event} AFTER {event} ON main.annotations "
                f"BEGIN SELECT touched({row}.prompt_id); END"
            )
        connection.execute("CREATE TEMP TABLE steps AS SELECT 0 AS step")
        self._version = -1

    def _rebuild(self, connection: sqlite3.Connection) -> None:
        self._words, self._open, self._outs, self._beyond = {}, [], [], set()
        self._reached = self._flagged = 0
        self._totals = [0, 0, 0, 0, 0]
        self._stale.clear()
        self._fresh.clear()
        rows: list[tuple[str, ...]] = []
        for row in connection.execute(
            f"SELECT {_COLUMNS} FROM annotations WHERE replaced IS NULL AND source != 'teacher' ORDER BY prompt_id"
        ):
            if rows and rows[0][0] != row[0]:
                self._note(rows[0][0], rows)
                rows = []
            rows.append(row)
        if rows:
            self._note(rows[0][0], rows)

    def _settle(self, connection: sqlite3.Connection) -> None:
        """Read the prompts again that changed."""
        while self._stale:
            prompt_id = self._stale.pop()
            self._fresh.add(prompt_id)
            self._read(connection, prompt_id)

    def _read(self, connection: sqlite3.Connection, prompt_id: str) -> None:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM annotations WHERE prompt_id = ? AND replaced IS NULL AND source != 'teacher'",
            (prompt_id,),
        ).fetchall()
        self._note(prompt_id, rows)

    def _note(self, prompt_id: str, rows: Sequence[tuple[str, ...]]) -> None:
        rank = self.rank_of.get(prompt_id)
        if rank is None:
            return
        before = self._words.get(prompt_id, _NOTHING)
        word = self._word(rows)
        if word == before:
            return
        if word == _NOTHING:
            del self._words[prompt_id]
        else:
            self._words[prompt_id] = self._same.setdefault(word, word)
        if rank > self.terms.target:
            (self._beyond.discard if word == _NOTHING else self._beyond.add)(prompt_id)
        else:
            for place, (old, new) in enumerate(zip(_counted(before), _counted(word), strict=True)):
                self._totals[place] += new - old
        self._flagged += word.flagged - before.flagged
        if word.out != before.out:
            self._outs.remove(rank) if before.out else insort(self._outs, rank)
        if word.settled != before.settled and rank <= self._reached:
            if word.settled:
                del self._open[bisect_left(self._open, rank)]
            else:
                insort(self._open, rank)

    def _word(self, rows: Sequence[tuple[str, ...]]) -> Word:
        said: set[str] = set()
        done: set[str] = set()
        answered: set[str] = set()
        stands: set[str] = set()
        flagged = reviewed = False
        for _, annotator, source, status, flag, review in rows:
            final = status == "final"
            if final:
                stands.add(annotator)
            flagged = flagged or flag is not None
            if review:
                reviewed = True
                continue
            if final:
                answered.add(annotator)
            if final or flag is not None:
                said.add(annotator)
            if source == "human" and status != "draft":
                done.add(annotator)
        if not rows:
            return _NOTHING
        overlap = self.terms.overlap
        settled = len(said) >= overlap or reviewed or (flagged and not answered)
        return Word(
            said=tuple(sorted(said)),
            done=tuple(sorted(done)),
            given=min(len(stands), overlap),
            lacks=0 if settled else max(overlap - len(answered), 1),
            settled=settled,
            flagged=flagged,
            out=flagged and not stands,
        )

    # --- how far it is ----------------------------------------------------------------------------------------------

    def window(self, connection: sqlite3.Connection) -> int:
        """How far down the ranking prompts are handed out."""
        self._settle(connection)
        end = self.terms.target
        for rank in self._outs:
            if rank > end:
                break
            end += 1
        return min(end, len(self.ids))

    def counts(self, connection: sqlite3.Connection) -> dict[str, int]:
        """How far the budget is.

        Returns:
            ``target`` prompts to be answered, ``answered`` that have a person's final answer, answers ``given`` (with
            overlap, several a prompt) and ``missing``, prompts ``open``, ``flagged`` prompts, ``reserve`` left to take
            their place, and ``short``: for how many of them there is none.
        """
        end = self.window(connection)
        totals = list(self._totals)
        for prompt_id in self._beyond:
            if self.rank_of[prompt_id] <= end:
                for place, value in enumerate(_counted(self._words[prompt_id])):
                    totals[place] += value
        known, settled, answered, given, lacking = totals
        target = self.terms.target
        return {
            "target": target,
            "answered": min(answered, target),
            "given": given,
            # What the reserve cannot fill is not counted.
            "missing": lacking + (end - known) * self.terms.overlap,
            "open": end - settled,
            "overlap": self.terms.overlap,
            "flagged": self._flagged,
            "reserve": len(self.ids) - end,
            "short": target - (end - bisect_left(self._outs, end + 1)),
        }

    # --- who gets what ----------------------------------------------------------------------------------------------

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
        held: dict[str, set[str]] = {}
        begun: set[str] = set()
        for prompt_id, name in connection.execute("SELECT prompt_id, annotator FROM leases"):
            if name == annotator:
                begun.add(prompt_id)
            else:
                held.setdefault(prompt_id, set()).add(name)
        found = None
        if after is None:
            drafts = "SELECT prompt_id FROM drafts WHERE annotator = ? AND response IS NOT NULL"
            begun.update(prompt_id for (prompt_id,) in connection.execute(drafts, (annotator,)))
            ranks = sorted(self.rank_of.get(prompt_id, end + 1) for prompt_id in begun)
            found = next((r for r in ranks if r <= end and self._free(r, annotator, held)), None)
        else:
            found = self._from(self.rank_of.get(after, 0) + 1, end, annotator, held)
        if found is None:
            found = self._from(1, end, annotator, held)
        if found is None:
            return None
        self.take(connection, self.ids[found - 1], annotator, time)
        return self.ids[found - 1]

    def _from(self, start: int, end: int, annotator: str, held: dict[str, set[str]]) -> int | None:
        """The first rank from ``start`` to ``end`` that the person can have."""
        at = bisect_left(self._open, start)
        while True:
            if at == len(self._open) and not self._reach(end):
                return None
            rank = self._open[at]
            if rank > end:
                return None
            if rank >= start and self._free(rank, annotator, held):
                return rank
            at += 1

    def _reach(self, end: int) -> bool:
        """Go on to the next unsettled rank, if there is one before ``end``."""
        while self._reached < end:
            self._reached += 1
            if not self._words.get(self.ids[self._reached - 1], _NOTHING).settled:
                self._open.append(self._reached)
                return True
        return False

    def _free(self, rank: int, annotator: str, held: dict[str, set[str]]) -> bool:
        prompt_id = self.ids[rank - 1]
        word = self._words.get(prompt_id, _NOTHING)
        if word.settled or annotator in word.done:
            return False
        # Who holds a lease and has given an answer before is editing it and counts once.
        return len(held.get(prompt_id, _NOBODY).union(word.said)) < self.terms.overlap

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
        holders = [
            name
            for (name,) in connection.execute(
                "SELECT annotator FROM leases WHERE prompt_id = ? AND expires > ?", (prompt_id, time)
            )
        ]
        if holders and annotator not in holders:
            words = {
                name
                for (name,) in connection.execute(
                    "SELECT annotator FROM annotations WHERE prompt_id = ? AND annotator != ? AND replaced IS NULL "
                    "AND source IN ('human', 'imported') AND review = 0 AND status = 'final'",
                    (prompt_id, annotator),
                )
            }
            if len(words.union(holders)) >= self.terms.overlap:
                return holders
        connection.execute(
            "INSERT INTO leases VALUES (?, ?, ?) "
            "ON CONFLICT (prompt_id, annotator) DO UPDATE SET expires = excluded.expires",
            (prompt_id, annotator, time + self.terms.lease),
        )
        return []

    def release(self, connection: sqlite3.Connection, prompt_id: str, annotator: str) -> None:
        """Let go of a prompt."""
        connection.execute("DELETE FROM leases WHERE prompt_id = ? AND annotator = ?", (prompt_id, annotator))


_NOTHING = Word()
_NOBODY: frozenset[str] = frozenset()


def _counted(word: Word) -> tuple[int, int, int, int, int]:
    return int(word != _NOTHING), int(word.settled), int(word.given > 0), word.given, word.lacks
