"""Which prompt of the study a row of an answer file belongs to: by id, or by text where the id was spoilt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from thriftune.annotation.export import prompts_of
from thriftune.annotation.parse import Answer, Broken, Told
from thriftune.study import Study
from thriftune.types import Message

_BATCH = 1 << 16


@dataclass(frozen=True)
class Placed:
    """Rows held against the prompts of a study.

    Args:
        rows: in file order, ids those of the study; a row that belongs to no prompt, or to two, is broken.
        edited: ids of prompts whose text in the file is no prompt of the study.
        by_text: how many rows got their id from their prompt's text.
    """

    rows: list[Answer | Broken]
    edited: list[str]
    by_text: int


def place(study: Study, parsed: Sequence[Answer | Broken]) -> Placed:
    """Hold rows against the study's prompts.

    An id counts, unless the row's prompt is exactly another prompt of the study. An id that the study does not have, as
    a spreadsheet makes of one that looks like a number, is found by the prompt where exactly one is it.

    Args:
        study: whose prompts.
        parsed: the rows.

    Returns:
        The rows with their prompts' ids.
    """
    prompts = prompts_of(study, [row.id for row in parsed if isinstance(row, Answer)])
    own = {identifier: _forms(text, turns) for identifier, (text, turns, _) in prompts.items()}
    told = [row.prompt for row in parsed if isinstance(row, Answer) and _form(row.prompt) not in own.get(row.id, ())]
    elsewhere = _ids_by_form(study, {form for form in map(_form, told) if form is not None})
    rows: list[Answer | Broken] = []
    edited, by_text = [], 0
    for row in parsed:
        if isinstance(row, Broken):
            rows.append(row)
            continue
        form = _form(row.prompt)
        there = elsewhere.get(form, [])
        if row.id in own:
            if form is None or form in own[row.id]:
                rows.append(row)
            elif there:
                rows.append(Broken(row.line, f"id {short(row.id)} beside the prompt of id {short(there[0])}"))
            else:
                edited.append(row.id)
                rows.append(row)
        elif len(there) == 1:
            by_text += 1
            rows.append(replace(row, id=there[0]))
        else:
            several = f", and {len(there)} prompts have its text" if there else ""
            rows.append(Broken(row.line, f"id {short(row.id)} is not in {study.path}{several}"))
    return Placed(rows, edited, by_text)


def _ids_by_form(study: Study, wanted: Collection[Told]) -> dict[Told, list[str]]:
    found: dict[Told, list[str]] = {}
    if not wanted:
        return found
    table = study.pool(["id", "text", "messages"], split=None)
    for batch in table.to_batches(max_chunksize=_BATCH):  # a pool may have a million rows
        for identifier, text, turns in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            for form in _forms(text, turns):
                if form in wanted:
                    found.setdefault(form, []).append(identifier)
    return found


def _forms(text: str, turns: list[Message] | None) -> tuple[Told, Told]:
    """A prompt as files may have it: its text, its turns."""
    own = turns or [Message(role="user", content=text)]
    return _form(text), _form(tuple((t["role"], t["content"]) for t in own))


def _form(told: Told) -> Told:
    if told is None or isinstance(told, str):
        return told if told is None else plain(told)
    return tuple((role, plain(content)) for role, content in told)


def plain(text: str) -> str:
    """A text less what spreadsheets and editors rewrite: kinds of line ends, space around it."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def short(identifier: str) -> str:
    """An id for a message."""
    return repr(identifier if len(identifier) <= 100 else f"{identifier[:100]}...")
