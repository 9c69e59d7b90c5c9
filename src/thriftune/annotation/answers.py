"""What a person does with one prompt on the page: write, answer, skip, flag, undo. Inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Container
from dataclasses import asdict, dataclass
from typing import Any

from thriftune.annotations import Flag, now, put, withdraw
from thriftune.errors import AnnotationError
from thriftune.types import Annotation

_MINE = "prompt_id = ? AND annotator = ? AND source = 'human' AND review = 0 AND replaced IS NULL"


@dataclass(frozen=True)
class Page:
    """One person's page for one prompt.

    Args:
        text: what stands in the editor: the half-written text, else the answer given.
        revision: of the half-written text; grows with every change.
        seconds: spent on it so far.
        status: ``new``, ``draft``, ``final`` or ``skipped``.
        unsent: there is text that is not (yet) the answer.
        flag: ``unanswerable`` or ``duplicate``.
        reason: why it was skipped.
    """

    text: str
    revision: int
    seconds: float
    status: str
    unsent: bool
    flag: str | None
    reason: str | None


class Conflict(AnnotationError):
    """The text was changed elsewhere since it was read.

    Args:
        page: as it is now.
    """

    def __init__(self, page: Page) -> None:
        super().__init__("this answer was changed in another window: look at both texts, then save again")
        self.page = page

    def detail(self) -> dict[str, Any]:
        """The page as JSON values."""
        return asdict(self.page)


def page(connection: sqlite3.Connection, prompt_id: str, annotator: str) -> Page:
    """A person's page for a prompt as it stands."""
    draft = connection.execute(
        "SELECT response, seconds, revision FROM drafts WHERE prompt_id = ? AND annotator = ?", (prompt_id, annotator)
    ).fetchone()
    given = connection.execute(
        f"SELECT response, seconds, status, flag, reason FROM annotations WHERE {_MINE}", (prompt_id, annotator)
    ).fetchone()
    text, seconds, status, flag, reason = given or ("", 0.0, "new", None, None)
    if draft is None:
        return Page(text, 0, seconds or 0.0, status, False, flag, reason)
    unsent = draft[0] is not None
    if unsent and given is None:
        status = "draft"
    seconds = max(seconds or 0.0, draft[1])
    return Page(draft[0] if unsent else text, draft[2], seconds, status, unsent, flag, reason)


def save(
    connection: sqlite3.Connection, prompt_id: str, annotator: str, text: str, seconds: float, revision: int
) -> int:
    """Keep a half-written text; an answer given before stays in force until the new one is given.

    Args:
        connection: in a transaction.
        prompt_id: the prompt.
        annotator: whose text.
        text: what stands in the editor.
        seconds: spent on the prompt so far.
        revision: of the text that this one was made from.

    Returns:
        The new revision.

    Raises:
        Conflict: another window changed the text meanwhile.
    """
    seen = _checked(connection, prompt_id, annotator, text, revision)
    if seen is None:
        return page(connection, prompt_id, annotator).revision
    _keep(connection, prompt_id, annotator, text, max(seconds, seen.seconds), seen.revision + 1)
    return seen.revision + 1


def answer(
    connection: sqlite3.Connection, prompt_id: str, annotator: str, text: str, seconds: float, revision: int
) -> None:
    """Make a text the person's answer; see `save`.

    Raises:
        AnnotationError: the text is empty.
        Conflict: another window changed the text meanwhile.
    """
    if not text.strip():
        raise AnnotationError("the answer is empty: write one, or skip the prompt")
    seen = _checked(connection, prompt_id, annotator, text, revision)
    given = page(connection, prompt_id, annotator) if seen is None else seen
    if seen is None and not given.unsent and given.status == "final":
        return  # the same request again: its first reply was lost on the way
    spent = max(seconds, given.seconds)
    put(
        connection,
        Annotation(prompt_id, text, annotator=annotator, seconds=round(spent, 1)),
        now(),
        replace=True,
    )
    _keep(connection, prompt_id, annotator, None, spent, given.revision + 1)


def skip(
    connection: sqlite3.Connection,
    prompt_id: str,
    annotator: str,
    seconds: float,
    reason: str,
    flag: Flag | None = None,
) -> None:
    """Pass a prompt, or with ``flag`` take it out for everyone; what was written is kept."""
    seen = page(connection, prompt_id, annotator)
    if seen.status == "skipped" and (seen.flag, seen.reason or "") == (flag, reason):
        return
    spent = max(seconds, seen.seconds)
    skipped = Annotation(prompt_id, "", annotator=annotator, seconds=round(spent, 1), status="skipped")
    put(connection, skipped, now(), replace=True, flag=flag, reason=reason or None)
    if seen.status == "final" and not seen.unsent:
        # An answer given before stays at hand: the editor goes on showing it.
        _keep(connection, prompt_id, annotator, seen.text, spent, seen.revision + 1)


def undo(connection: sqlite3.Connection, annotator: str, ranking: Container[str]) -> str | None:
    """Take back the last answer, skip or flag of a person that is in force and about a prompt of ``ranking``.

    What it replaced is in force again, and a text taken back stays in the editor.

    Returns:
        The prompt, or None when there is nothing to take back.
    """
    rows = connection.execute(
        "SELECT id, prompt_id, response, status, seconds FROM annotations "
        "WHERE annotator = ? AND source = 'human' AND review = 0 AND replaced IS NULL ORDER BY id DESC",
        (annotator,),
    )
    row = next((row for row in rows if row[1] in ranking), None)
    rows.close()
    if row is None:
        return None
    identifier, prompt_id, response, status, seconds = row
    seen = page(connection, prompt_id, annotator)
    withdraw(connection, identifier, now())
    if status == "final" and not seen.unsent:
        _keep(connection, prompt_id, annotator, response, seconds or 0.0, seen.revision + 1)
    return str(prompt_id)


def put_back(connection: sqlite3.Connection, prompt_id: str) -> None:
    """Take everybody's flags off a prompt, so that it is to be answered after all."""
    rows = connection.execute(
        "SELECT id FROM annotations WHERE prompt_id = ? AND flag IS NOT NULL AND replaced IS NULL", (prompt_id,)
    ).fetchall()
    for (identifier,) in rows:
        withdraw(connection, identifier, now())


def _checked(connection: sqlite3.Connection, prompt_id: str, annotator: str, text: str, revision: int) -> Page | None:
    """The page if ``revision`` is its own; None if it is not but the text is there already."""
    seen = page(connection, prompt_id, annotator)
    if seen.revision == revision:
        return seen
    if seen.text == text:
        return None
    raise Conflict(seen)


def _keep(
    connection: sqlite3.Connection, prompt_id: str, annotator: str, text: str | None, seconds: float, revision: int
) -> None:
    connection.execute(
        "INSERT INTO drafts (prompt_id, annotator, response, seconds, revision, saved) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (prompt_id, annotator) DO UPDATE SET response = excluded.response, seconds = excluded.seconds, "
        "revision = excluded.revision, saved = excluded.saved",
        (prompt_id, annotator, text, seconds, revision, now()),
    )
