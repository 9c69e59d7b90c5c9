"""The work on one selection: its prompts, its queue and its answers, as the page asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice, repeat
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar

from thriftune.annotation import answers, review, standing
from thriftune.annotation.material import Material
from thriftune.annotation.queue import Queue, Terms
from thriftune.annotation.writer import Writer
from thriftune.annotations import Flag
from thriftune.errors import AnnotationError
from thriftune.study import HOLDOUT, Study

Result = TypeVar("Result")
_SHOWN = 60
_TRAIL = 500
_REST = 20


class Desk:
    """Everything the page does, each step in one transaction; results are durable when their futures are done.

    Args:
        study: whose answers.
        selection: its name.
        overlap: how many people answer each prompt.
        lease: seconds for which a prompt stays with the person who last touched it.
        drafts: show the models' answers.
        guidelines: Markdown file, read again for each page.
        reserve: prompts to take the place of flagged ones, in order.

    Raises:
        AnnotationError: the selection is empty.
        StudyError: no such selection, or the answers cannot be opened.
    """

    def __init__(
        self,
        study: Study,
        selection: str,
        *,
        overlap: int = 1,
        lease: float = 900.0,
        drafts: bool = True,
        guidelines: Path | None = None,
        reserve: Sequence[str] = (),
    ) -> None:
        ids, _, record = study.selection(selection)
        if not ids:
            what = "no held-out prompts" if selection == HOLDOUT else f"an empty selection {selection!r}"
            raise AnnotationError(f"{study.path} has {what}: there is nothing to annotate")
        self.study, self.selection, self.record = study, selection, record
        self.show_drafts, self.guidelines = drafts, guidelines
        self.queue = Queue([*ids, *reserve], Terms(len(ids), overlap, lease))
        self._prompts = Material(study, record.get("run"), drafts=drafts)
        self._prompts.add(self.queue.ids)
        self._writer = Writer(study.annotations)
        self._reader = Writer(study.annotations, reading=True)
        self._names: tuple[float, list[str]] = (-1e9, [])

    def close(self) -> None:
        """Finish what was begun."""
        self._reader.close()
        self._writer.close()

    def extend(self, ids: Sequence[str]) -> None:
        """Add to the reserve; one caller at a time."""
        new = [i for i in dict.fromkeys(ids) if i not in self.queue]
        self._prompts.add(new)
        self._do(lambda connection: self.queue.extend(new)).result()

    def reserve_left(self) -> int:
        """How many prompts are there to take the place of flagged ones."""
        return self._count().result()["reserve"]

    # --- one prompt -------------------------------------------------------------------------------------------------

    def next(self, name: str, after: str | None = None) -> Future[dict[str, Any]]:
        """What a person is to answer now; see `Queue.assign`. ``item`` is None when there is nothing for them."""
        return self._do(lambda connection: self._next(connection, name, after))

    def open(self, name: str, prompt_id: str) -> Future[dict[str, Any]]:
        """A prompt that a person chose to look at; leased to them if it is free."""

        def work(connection: Connection) -> dict[str, Any]:
            item = self._item(connection, prompt_id, name, take=True)
            return {"item": item, "counts": self.queue.counts(connection)}

        return self._about(prompt_id, work)

    def save(self, name: str, prompt_id: str, text: str, seconds: float, revision: int) -> Future[dict[str, Any]]:
        """Keep a half-written text, and the lease."""

        def work(connection: Connection) -> dict[str, Any]:
            new = answers.save(connection, prompt_id, name, text, seconds, revision)
            held_by = self.queue.renew(connection, prompt_id, name, time.time())
            return {"revision": new, "held_by": held_by}

        return self._about(prompt_id, work)

    def answer(self, name: str, prompt_id: str, text: str, seconds: float, revision: int) -> Future[dict[str, Any]]:
        """Give an answer, and get the next prompt."""

        def work(connection: Connection) -> dict[str, Any]:
            answers.answer(connection, prompt_id, name, text, seconds, revision)
            self.queue.release(connection, prompt_id, name)
            return self._next(connection, name, None)

        return self._about(prompt_id, work)

    def skip(self, name: str, prompt_id: str, seconds: float, reason: str, flag: Flag | None) -> Future[dict[str, Any]]:
        """Pass a prompt, or take it out for everyone, and get the next."""

        def work(connection: Connection) -> dict[str, Any]:
            answers.skip(connection, prompt_id, name, seconds, reason, flag)
            self.queue.release(connection, prompt_id, name)
            return self._next(connection, name, None)

        return self._about(prompt_id, work)

    def undo(self, name: str) -> Future[dict[str, Any]]:
        """Take a person's last step back; ``item`` is the prompt it was about, None when there was none."""

        def work(connection: Connection) -> dict[str, Any]:
            prompt_id = answers.undo(connection, name, self.queue)
            item = None if prompt_id is None else self._item(connection, prompt_id, name, take=True)
            return {"item": item, "counts": self.queue.counts(connection)}

        return self._do(work)

    # --- looking around ---------------------------------------------------------------------------------------------

    def find(self, name: str, query: str, state: str) -> Future[dict[str, Any]]:
        """Prompts by their words, id or one's own answer, and by state (``all``, ``open``, ``mine``, ``skipped``)."""
        return self._reader.submit(lambda connection: self._find(connection, name, query, state))

    def trail(self, name: str) -> Future[list[str]]:
        """Prompts that a person answered or passed, in the order in which they did: the way back."""

        def work(connection: Connection) -> list[str]:
            rows = connection.execute(
                "SELECT prompt_id FROM annotations WHERE annotator = ? AND source = 'human' AND review = 0 "
                "AND replaced IS NULL ORDER BY id DESC",
                (name,),
            )
            return [*islice((i for (i,) in rows if i in self.queue), _TRAIL)][::-1]

        return self._reader.submit(work)

    def names(self) -> Future[list[str]]:
        """Who has worked on the study so far, as of a moment ago."""

        def work(connection: Connection) -> list[str]:
            # This reads every answer, so it may take a twentieth of the time and no more.
            began = time.monotonic()
            if began >= self._names[0]:
                found = connection.execute(
                    "SELECT annotator FROM annotations WHERE source = 'human' AND annotator != '' "
                    "UNION SELECT annotator FROM drafts ORDER BY 1"
                ).fetchall()
                ended = time.monotonic()
                self._names = (ended + _REST * (ended - began), [name for (name,) in found])
            return self._names[1]

        return self._reader.submit(work)

    def standing(self) -> Future[dict[str, Any]]:
        """See `standing.standing`."""
        return self._reader.submit(lambda c: standing.standing(c, self.queue, self._count().result()))

    # --- review -----------------------------------------------------------------------------------------------------

    def reviews(self) -> Future[dict[str, Any]]:
        """What there is to review, with agreement figures."""

        def work(connection: Connection) -> dict[str, Any]:
            items = review.to_review(connection, self.queue.rank_of)
            for item in items:
                item["snippet"] = self._prompts.snippet(item["rank"])
            return {"items": items, "agreement": review.figures(connection, self.queue.rank_of)}

        return self._reader.submit(work)

    def side_by_side(self, prompt_id: str) -> Future[dict[str, Any]]:
        """Answers to one prompt beside each other."""
        return self._about(prompt_id, lambda connection: self._sides(connection, prompt_id))

    def decide(self, name: str, prompt_id: str, text: str, seen: int | None) -> Future[dict[str, Any]]:
        """Take or merge; see `review.decide`."""

        def work(connection: Connection) -> dict[str, Any]:
            review.decide(connection, prompt_id, name, text, seen)
            return self._sides(connection, prompt_id)

        return self._about(prompt_id, work)

    def reopen(self, prompt_id: str, what: str) -> Future[dict[str, Any]]:
        """Take back a ``decision``, or take off the ``flags``."""

        def work(connection: Connection) -> dict[str, Any]:
            (review.reopen if what == "decision" else answers.put_back)(connection, prompt_id)
            return self._sides(connection, prompt_id)

        return self._about(prompt_id, work)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[Connection], Result]) -> Future[Result]:
        def prepared(connection: Connection) -> Result:
            self.queue.refresh(connection)
            return work(connection)

        return self._writer.submit(prepared)

    def _about(self, prompt_id: str, work: Callable[[Connection], Result]) -> Future[Result]:
        if prompt_id not in self.queue:
            raise AnnotationError(f"prompt {prompt_id[:80]!r} is not in selection {self.selection!r}")
        return self._do(work)

    def _next(self, connection: Connection, name: str, after: str | None) -> dict[str, Any]:
        found = self.queue.assign(connection, name, time.time(), after=after)
        item = None if found is None else self._item(connection, found, name, take=False)
        return {"item": item, "counts": self.queue.counts(connection)}

    def _count(self) -> Future[dict[str, int]]:
        return self._do(self.queue.counts)

    def _item(self, connection: Connection, prompt_id: str, name: str, *, take: bool) -> dict[str, Any]:
        held_by = self.queue.take(connection, prompt_id, name, time.time()) if take else []
        page = answers.page(connection, prompt_id, name)
        rank = self.queue.rank_of[prompt_id]
        return {
            "id": prompt_id,
            "rank": rank,
            "reserve": rank > self.queue.terms.target,
            **self._prompts(rank),
            "held_by": held_by,
            "text": page.text,
            "revision": page.revision,
            "seconds": page.seconds,
            "status": page.status,
            "unsent": page.unsent,
            "flag": page.flag,
            "reason": page.reason,
        }

    def _sides(self, connection: Connection, prompt_id: str) -> dict[str, Any]:
        rank = self.queue.rank_of[prompt_id]
        prompt = self._prompts(rank)
        return {
            "id": prompt_id,
            "rank": rank,
            "task": prompt["task"],
            "turns": prompt["turns"],
            **review.side_by_side(connection, prompt_id),
        }

    def _find(self, connection: Connection, name: str, query: str, state: str) -> dict[str, Any]:
        own = {
            row[0]: row[1:]
            for row in connection.execute(
                "SELECT prompt_id, status, flag, response FROM annotations WHERE annotator = ? AND source = 'human' "
                "AND review = 0 AND replaced IS NULL",
                (name,),
            )
        }
        begun = {
            row[0]: row[1]
            for row in connection.execute(
                "SELECT prompt_id, response FROM drafts WHERE annotator = ? AND response IS NOT NULL", (name,)
            )
        }
        counts = self._count().result()
        end = len(self.queue.ids) - counts["reserve"]
        words = query.casefold().split()
        searchable = self._prompts.searchable(end) if words else repeat("")
        found: list[dict[str, Any]] = []
        total = 0
        for rank, (prompt_id, prompt) in enumerate(zip(islice(self.queue.ids, end), searchable, strict=False), 1):
            status, flag, response = own.get(prompt_id, ("draft" if prompt_id in begun else "new", None, ""))
            if not _in_state(state, status):
                continue
            if words:
                text = "\n".join((prompt_id.casefold(), prompt, (begun.get(prompt_id) or response).casefold()))
                if not all(word in text for word in words):
                    continue
            total += 1
            if len(found) < _SHOWN:
                snippet = self._prompts.snippet(rank)
                found.append({"id": prompt_id, "rank": rank, "status": status, "flag": flag, "snippet": snippet})
        return {"items": found, "total": total}


def _in_state(state: str, status: str) -> bool:
    wanted = {"open": ("new", "draft"), "mine": ("final", "draft"), "skipped": ("skipped",)}
    return state not in wanted or status in wanted[state]
