"""The work on one selection: its prompts, its queue and its answers, as the page asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar

from thriftune.annotation import answers, review, standing
from thriftune.annotation.material import material
from thriftune.annotation.queue import Queue, Terms
from thriftune.annotation.writer import Writer
from thriftune.annotations import Flag
from thriftune.errors import AnnotationError
from thriftune.study import HOLDOUT, Study

Result = TypeVar("Result")
_SHOWN = 60
_COUNT_REST = 20


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
        self._prompts: dict[str, dict[str, Any]] = {}
        self._load([*ids, *reserve])
        self.queue = Queue([*ids, *reserve], Terms(len(ids), overlap, lease))
        self._writer = Writer(study.annotations)
        self._counts: tuple[float, dict[str, Any]] = (-1e9, {})

    def close(self) -> None:
        """Finish what was begun."""
        self._writer.close()

    def extend(self, ids: Sequence[str]) -> None:
        """Add to the reserve."""
        self._load([i for i in ids if i not in self._prompts])
        self._do(lambda connection: self.queue.extend(ids)).result()

    def reserve_left(self) -> int:
        """How many prompts are there to take the place of flagged ones."""
        return self._do(lambda connection: len(self.queue.ids) - self.queue.window(connection)).result()

    # --- one prompt -------------------------------------------------------------------------------------------------

    def next(self, name: str, after: str | None = None) -> Future[dict[str, Any]]:
        """What a person is to answer now; see `Queue.assign`. ``item`` is None when there is nothing for them."""
        return self._do(lambda connection: self._next(connection, name, after))

    def open(self, name: str, prompt_id: str) -> Future[dict[str, Any]]:
        """A prompt that a person chose to look at; leased to them if it is free."""

        def work(connection: Connection) -> dict[str, Any]:
            return {"item": self._item(connection, prompt_id, name, take=True), "counts": self._count(connection)}

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
            self.queue.reopened(connection)  # a skip may take an answer back
            return self._next(connection, name, None)

        return self._about(prompt_id, work)

    def undo(self, name: str) -> Future[dict[str, Any]]:
        """Take a person's last step back; ``item`` is the prompt it was about, None when there was none."""

        def work(connection: Connection) -> dict[str, Any]:
            prompt_id = answers.undo(connection, name)
            self.queue.reopened(connection)
            item = None if prompt_id is None else self._item(connection, prompt_id, name, take=True)
            return {"item": item, "counts": self._count(connection, fresh=True)}

        return self._do(work)

    # --- looking around ---------------------------------------------------------------------------------------------

    def find(self, name: str, query: str, state: str) -> Future[dict[str, Any]]:
        """Prompts by their words, id or one's own answer, and by state (``all``, ``open``, ``mine``, ``skipped``)."""
        return self._do(lambda connection: self._find(connection, name, query, state))

    def trail(self, name: str) -> Future[list[str]]:
        """Prompts that a person answered or passed, in the order in which they did: the way back."""
        return self._do(
            lambda connection: [
                prompt_id
                for (prompt_id,) in connection.execute(
                    "SELECT prompt_id FROM annotations JOIN ranking USING (prompt_id) WHERE annotator = ? AND "
                    "source = 'human' AND review = 0 AND replaced IS NULL ORDER BY id DESC LIMIT 500",
                    (name,),
                )
            ][::-1]
        )

    def names(self) -> Future[list[str]]:
        """Who has worked on the study so far."""
        return self._do(
            lambda connection: [
                name
                for (name,) in connection.execute(
                    "SELECT annotator FROM annotations WHERE source = 'human' AND annotator != '' "
                    "UNION SELECT annotator FROM drafts ORDER BY 1"
                )
            ]
        )

    def standing(self) -> Future[dict[str, Any]]:
        """See `standing.standing`."""
        return self._do(lambda connection: standing.standing(connection, self.queue))

    # --- review -----------------------------------------------------------------------------------------------------

    def reviews(self) -> Future[dict[str, Any]]:
        """What there is to review, with agreement figures."""

        def work(connection: Connection) -> dict[str, Any]:
            items = review.to_review(connection)
            for item in items:
                item["snippet"] = self._prompts[item["id"]]["snippet"]
            return {"items": items, "agreement": review.figures(connection)}

        return self._do(work)

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
            self.queue.reopened(connection)
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
        return {"item": item, "counts": self._count(connection, fresh=found is None)}

    def _count(self, connection: Connection, *, fresh: bool = False) -> dict[str, Any]:
        # Counting reads every answer, so it may take a twentieth of the time and no more.
        began = time.monotonic()
        if fresh or began >= self._counts[0]:
            found = standing.counts(connection, self.queue)
            ended = time.monotonic()
            self._counts = (ended + _COUNT_REST * (ended - began), found)
        return self._counts[1]

    def _item(self, connection: Connection, prompt_id: str, name: str, *, take: bool) -> dict[str, Any]:
        held_by = self.queue.take(connection, prompt_id, name, time.time()) if take else []
        page = answers.page(connection, prompt_id, name)
        prompt = self._prompts[prompt_id]
        return {
            "id": prompt_id,
            "rank": self.queue.rank_of[prompt_id],
            "reserve": self.queue.rank_of[prompt_id] > self.queue.terms.target,
            "task": prompt["task"],
            "turns": prompt["turns"],
            "draft": prompt["draft"],
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
        prompt = self._prompts[prompt_id]
        return {
            "id": prompt_id,
            "rank": self.queue.rank_of[prompt_id],
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
        end = self.queue.window(connection)
        words = query.casefold().split()
        found: list[dict[str, Any]] = []
        total = 0
        for rank, prompt_id in enumerate(self.queue.ids[:end], 1):
            status, flag, response = own.get(prompt_id, ("draft" if prompt_id in begun else "new", None, ""))
            if not _in_state(state, status):
                continue
            prompt = self._prompts[prompt_id]
            if words:
                text = "\n".join((prompt_id, prompt["search"], (begun.get(prompt_id) or response).casefold()))
                if not all(word in text for word in words):
                    continue
            total += 1
            if len(found) < _SHOWN:
                found.append(
                    {"id": prompt_id, "rank": rank, "status": status, "flag": flag, "snippet": prompt["snippet"]}
                )
        return {"items": found, "total": total}

    def _load(self, ids: Sequence[str]) -> None:
        if ids:
            self._prompts.update(material(self.study, self.record.get("run"), ids, drafts=self.show_drafts))


def _in_state(state: str, status: str) -> bool:
    wanted = {"open": ("new", "draft"), "mine": ("final", "draft"), "skipped": ("skipped",)}
    return state not in wanted or status in wanted[state]
