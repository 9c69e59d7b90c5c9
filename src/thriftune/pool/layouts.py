"""Which columns of a source hold the prompt, and a row as a prompt.

The prompt's columns are settled by the first rows; the response, task and id columns by the first row that has one, so
that a few answers deep in the file are not overlooked.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from thriftune.config import InitConfig
from thriftune.errors import PoolError
from thriftune.pool.turns import Unusable, as_list, read_turns, turn_keys
from thriftune.types import Message

SAMPLE = 100  # rows that settle the prompt's columns
_LISTED = 20  # columns named in a message
NO_COLUMN = "none"  # given as a column's name: do not look for one

_CONVERSATIONS = ("messages", "conversations", "conversation", "chat", "prompt")
_TEXTS = ("prompt", "question", "instruction", "query", "inputs", "input", "text")
_COMPANIONS = {"instruction": ("input", "context"), "question": ("context",)}
_SYSTEMS = ("system", "system_prompt")
_RESPONSES = ("response", "completion", "output", "answer", "target", "targets", "reference")
_TASKS = ("task", "task_name", "category")


@dataclass(slots=True)
class Draft:
    """A row understood: its id where it has one, the turns that ask, the response, the task and the other columns."""

    id: str | None
    turns: list[Message]
    response: str | None
    task: str | None
    meta: str | None


class Layout:
    """How the rows of one source become prompts.

    Args:
        sample: its first rows.
        config: columns named by the user win.
        source: for messages.

    Raises:
        PoolError: no column of the sample can be a prompt.
    """

    def __init__(self, sample: list[dict[str, Any]], config: InitConfig, source: str) -> None:
        self.columns = list(dict.fromkeys(itertools.chain.from_iterable(sample)))
        self.prompts = [config.prompt_column] if config.prompt_column else _prompt_columns(sample, self.columns)
        if not any(p in self.columns for p in self.prompts):
            wanted = (
                f"no column {config.prompt_column!r}" if config.prompt_column else "no column that can be the prompt"
            )
            hint, known = "name it with --prompt-column", [c for c in (*_CONVERSATIONS, *_TEXTS) if c in self.columns]
            if config.prompt_column is None and known:
                empty = not _any(sample, known[0], lambda value: value not in (None, "", []) and str(value).strip())
                what = "is empty" if empty else "is neither text nor a list of turns with role and content"
                hint = f"{known[0]!r} {what} in the first {len(sample)} rows: mend it, or {hint}"
            elif any(c.strip('"').startswith("sep=") for c in self.columns):
                hint = "delete the line sep=, which only Excel reads"
            raise PoolError(f"{source}: {wanted} (columns: {listed(self.columns)}): {hint}")
        self.companions: tuple[str, ...] = ()
        if config.prompt_column is None:
            wanted_too = _COMPANIONS.get(self.prompts[-1], ())
            self.companions = tuple(c for c in wanted_too if _any(sample, c, _is_text))[:1]
        self.system = None if config.prompt_column else _first(_SYSTEMS, lambda c: _any(sample, c, _is_text))
        self.turn_keys = next((k for row in sample if (k := turn_keys(row.get(self.prompts[0])))), None)
        self.response = _Column(config.response_column, _RESPONSES, self.prompts, _is_answer)
        self.task = _Column(config.task_column, _TASKS, self.prompts, _is_label)
        self.id = _Column(config.id_column, ("id",), self.prompts, _is_label)

    def draft(self, values: dict[str, Any]) -> Draft:
        """Understand a row.

        Raises:
            Unusable: it has no prompt, or a value of the wrong type.
        """
        used = [self.response.of(values), self.task.of(values), self.id.of(values)]
        column = next((p for p in self.prompts if values.get(p) not in (None, "", [])), None)
        if column is None:
            raise Unusable("empty prompt", self._absent(values))
        used.append(column)
        turns, response = self._turns(values, column, used)
        response = response if response and response.strip() else None
        # A final assistant turn is the response, unless the user named a column.
        if self.response.name and (response is None or self.response.wanted):
            answer = _label(values.get(self.response.name), "response")
            response = response if answer is None else answer
        draft = Draft(
            id=_label(values.get(self.id.name), "id") if self.id.name else None,
            turns=turns,
            response=response,
            task=_label(values.get(self.task.name), "task") if self.task.name else None,
            meta=_meta({k: v for k, v in values.items() if k not in used and v is not None}),
        )
        for what, text in (("id", draft.id), ("response", draft.response), ("task", draft.task)):
            _check_characters(text, what)
        for turn in turns:
            _check_characters(turn["content"], "prompt")
        return draft

    def _absent(self, values: dict[str, Any]) -> str:
        there = [p for p in self.prompts if p in values]
        return f"{there[0]} is empty" if there else f"the row has no {' or '.join(self.prompts)}"

    def _turns(self, values: dict[str, Any], column: str, used: list[str | None]) -> tuple[list[Message], str | None]:
        value = values[column]
        system: list[Message] = []
        if self.system and _is_text(values.get(self.system)):
            used.append(self.system)
            system = [Message(role="system", content=values[self.system])]
        if isinstance(value, (list, dict)) or (self.turn_keys and column == self.prompts[0] and as_list(value)):
            turns, response = read_turns(value)
            return (turns if turns[0]["role"] == "system" else system + turns), response
        if not isinstance(value, str):
            raise Unusable("wrong type", f"{column} is a {type(value).__name__}, neither text nor a list of turns")
        if not value.strip():
            raise Unusable("empty prompt", f"{column} is empty")
        parts = [value]
        for companion in self.companions if column == self.prompts[-1] else ():
            used.append(companion)
            addition = values.get(companion)
            if addition is not None and not isinstance(addition, str):
                raise Unusable("wrong type", f"{companion} is a {type(addition).__name__}, not text")
            if addition and addition.strip():
                parts.append(addition)
        return [*system, Message(role="user", content="\n\n".join(parts))], None

    def described(self) -> str:
        """What was understood, for people."""
        first, last = self.prompts[0], self.prompts[-1]
        said = []
        if self.turn_keys:
            name = "ShareGPT turns" if self.turn_keys.startswith("from") else "chat messages"
            said.append(f"{name} ({first}: {self.turn_keys}; a final assistant turn is the response)")
        if last != first or not self.turn_keys:
            columns = " + ".join((last, *self.companions))
            alpaca = last == "instruction" and ("input" in self.companions or self.response.name == "output")
            form = "alpaca" if alpaca else "dolly" if columns == "instruction + context" else "plain text"
            said.append(f"{form} ({columns})")
        described = " or ".join(said)
        extras = {"system": self.system, "response": self.response.name, "task": self.task.name, "id": self.id.name}
        return "; ".join([described, *(f"{what}: {column}" for what, column in extras.items() if column)])


class _Column:
    """An optional column: the user's, or the first of ``names`` that is seen to hold what it should."""

    def __init__(
        self, wanted: str | None, names: tuple[str, ...], taken: list[str], accepts: Callable[[Any], bool]
    ) -> None:
        self.wanted = wanted is not None
        self.name = wanted
        self.seen = wanted is None
        self.names = [] if wanted is not None else [n for n in names if n not in taken]
        self.accepts = accepts
        if wanted == NO_COLUMN:
            self.name, self.seen = None, True

    def of(self, values: dict[str, Any]) -> str | None:
        """The column's name, settled by this row if not before."""
        if self.name is None:
            self.name = next((n for n in self.names if self.accepts(values.get(n))), None)
        elif not self.seen:
            self.seen = self.name in values
        return self.name


def _prompt_columns(sample: list[dict[str, Any]], columns: list[str]) -> list[str]:
    turns = _first(_CONVERSATIONS, lambda c: _any(sample, c, turn_keys))
    texts: list[str] = list(_TEXTS)
    if "instruction" in columns and any(c in columns for c in ("input", "context", "output")):
        # Alpaca and dolly rows may carry a rendered copy of themselves in `text` or `prompt`.
        texts.insert(0, "instruction")
    text = _first(tuple(t for t in texts if t != turns), lambda c: _any(sample, c, _is_text))
    return [c for c in (turns, text) if c]


def listed(columns: Iterable[str]) -> str:
    """Names of columns for a message; the first of them, where there are very many."""
    names = [c if len(c) <= 40 else c[:37] + "..." for c in columns]
    return (
        ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "") or "none"
    )


def _first(names: tuple[str, ...], fits: Callable[[str], bool]) -> str | None:
    return next((n for n in names if fits(n)), None)


def _any(sample: list[dict[str, Any]], column: str, fits: Callable[[Any], Any]) -> bool:
    return any(fits(row.get(column)) for row in sample)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_label(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def _is_answer(value: Any) -> bool:
    return _is_label(value) or isinstance(value, float) or turn_keys(value) is not None


def _label(value: Any, what: str) -> str | None:
    """A value as text; None where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list) and what == "response":
        if all(isinstance(v, str) for v in value):
            value = value[0] if len(value) == 1 else value or None
        elif turn_keys(value):
            value = as_list(value)[-1]  # type: ignore[index]
            value = value.get("content", value.get("value"))
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    if isinstance(value, float) and value.is_integer() and what == "id":
        value = int(value)  # what a column of integers becomes where a value is missing
    if isinstance(value, (int, float)):
        return str(value)
    raise Unusable("wrong type", f"the {what} is a {type(value).__name__}, not text")


def _check_characters(text: str | None, what: str) -> None:
    if text is None:
        return
    if "\x00" in text:
        raise Unusable("unusable characters", f"NUL in the {what}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        detail = f"lone surrogate U+{ord(text[error.start]):04X} in the {what}, character {error.start + 1}"
        raise Unusable("unusable characters", detail) from None


def _meta(values: dict[str, Any]) -> str | None:
    if not values:
        return None
    try:
        return as_json(values)
    except RecursionError:
        raise Unusable("wrong type", "nested too deeply") from None


def as_json(value: Any) -> str:
    """JSON that any reader takes: no NaN, no lone surrogates, everything that JSON lacks as text."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(_finite(value), default=_plain)
    return text


def _plain(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, (bytes, bytearray)) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
