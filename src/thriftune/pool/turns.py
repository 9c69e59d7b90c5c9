"""Chat turns in the shapes that datasets have them, as role and content."""

from __future__ import annotations

import json
from typing import Any

from thriftune.types import Message

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value", "text")


class Unusable(Exception):
    """A row that is no prompt: why in a few fixed words, and the particulars."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def turn_keys(value: Any) -> str | None:
    """``role/content`` or the like if ``value`` is a list of turns, else None."""
    turns = as_list(value)
    if not turns or not all(isinstance(t, dict) for t in turns):
        return None
    role = next((k for k in _ROLE_KEYS if k in turns[0]), None)
    content = next((k for k in _CONTENT_KEYS if k in turns[0]), None)
    return f"{role}/{content}" if role and content else None


def as_list(value: Any) -> list[Any] | None:
    """Turns as a list: JSON text (csv) is parsed, columns of roles and contents (older hub datasets) are zipped."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        return [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    return value if isinstance(value, list) else None


def read_turns(value: Any) -> tuple[list[Message], str | None]:
    """Split a conversation into the turns that ask and the answer.

    Args:
        value: a list of turns as the dataset has them.

    Returns:
        The turns up to the last user's, and the final assistant turn's content (None where there is none).

    Raises:
        Unusable: a turn has no text or an unknown role, or nothing is asked.
    """
    turns = [_turn(t, number) for number, t in enumerate(as_list(value) or [], 1)]
    # Many datasets carry an empty system prompt; templates would render it.
    turns = [t for t in turns if t["role"] != "system" or t["content"].strip()]
    response = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else None
    if not turns or not any(t["content"].strip() for t in turns):
        raise Unusable("empty prompt", "no turn before the response has text")
    if turns[-1]["role"] != "user":
        raise Unusable("unusable turns", f"the last turn that asks is the {turns[-1]['role']}'s, not the user's")
    if not turns[-1]["content"].strip():
        raise Unusable("empty prompt", "the user's last turn is empty")
    return turns, response


def _turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise Unusable(
            "unusable turns", f"turn {number} is a {type(turn).__name__}, not an object with role and content"
        )
    role = next((turn[k] for k in _ROLE_KEYS if k in turn), None)
    known = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise Unusable("unusable turns", f"turn {number} has role {role!r}, which is none of {', '.join(_ROLES)}")
    content = next((turn[k] for k in _CONTENT_KEYS if turn.get(k) is not None), None)
    if isinstance(content, list):
        content = _joined_parts(content)
    if not isinstance(content, str):
        raise Unusable("unusable turns", f"turn {number} ({role}) has no text")
    return Message(role=known, content=content)


def _joined_parts(parts: list[Any]) -> str | None:
    """The text of multi-part content; None when a part is not text (an image, a sound)."""
    texts = [p.get("text") if isinstance(p, dict) else p for p in parts]
    known = [t for t in texts if isinstance(t, str)]
    return "".join(known) if known and len(known) == len(texts) else None


def readable(turns: list[Message]) -> str:
    """What a person reads: one user turn as it is, several turns under the names of their speakers."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{t['role'].capitalize()}: {t['content']}" for t in turns)
