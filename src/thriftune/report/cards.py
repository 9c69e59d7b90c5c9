"""The top picks, ready for the template: prompt, draft answer with its uncertain tokens, scores, reason."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import escape

from thriftune.report.material import Chosen, Material
from thriftune.report.reasons import SCORE_WORDS, neighbourhoods, number, percent, reasons, standing
from thriftune.types import Message

FIRST = 20
# Marks get stronger where a token's entropy is that of an even choice among this many.
CHOICES = (3, 10, 30, 100)
LEVELS = tuple(float(np.log(k)) for k in CHOICES)
_TEXT_BYTES = 1_800_000  # what all prompts on the page may take together
_MARKED_TOKENS = 24_000
_FEWEST_MARKED = 32
_HEAD_LINES, _HEAD_CHARS = 14, 900
_LAST_TURNS = 3
_MOST_TURNS = 40
_EXAMPLE_CHARS = 140


@dataclass(frozen=True)
class Turn:
    """One turn of a chat, shortened: ``head`` is shown, ``rest`` on demand, ``cut`` characters are left out."""

    role: str
    head: str
    rest: str
    cut: int


@dataclass(frozen=True)
class Token:
    """A piece of a draft answer; ``level`` 0 is unmarked, 4 the most uncertain; ``entropy`` None where unknown."""

    text: str
    level: int = 0
    entropy: float | None = None
    margin: float | None = None
    stop: bool = False


def water_level(sizes: Sequence[int], budget: int) -> int:
    """The largest cap at which ``sizes``, each cut to the cap, add up to at most ``budget``."""
    left, remaining = budget, len(sizes)
    for size in sorted(sizes):
        if size * remaining > left:
            return left // remaining
        left -= size
        remaining -= 1
    return max(sizes, default=0)


def shorten(text: str, most: int) -> tuple[str, str, int]:
    """A text's head, the rest up to ``most`` bytes of escaped UTF-8, and how many characters are left out."""
    size = _size(text)
    kept = text if size <= most else text[: len(text) * most // size]
    lines = kept.splitlines(keepends=True)
    head = "".join(lines[:_HEAD_LINES])[:_HEAD_CHARS]
    # A few hidden characters are not worth a click.
    if len(kept) - len(head) < 80 and kept.count("\n", len(head)) < 6:
        head = kept
    return head, kept[len(head) :], len(text) - len(kept)


def _size(text: str) -> int:
    return len(str(escape(text)).encode())


def tokens(draft: dict[str, Any], most: int) -> list[Token]:
    """A draft answer cut at its token boundaries and marked by entropy.

    Args:
        draft: ``response``, ``token_ends``, ``token_entropies``, ``token_margins`` as in scores.parquet.
        most: tokens after this many are left unmarked.

    Returns:
        Pieces that join to the response; steps without text (parts of a character) lend their uncertainty to the
        next piece, and the step that ended the answer comes last, with ``stop``.
    """
    response = draft.get("response") or ""
    ends = draft.get("token_ends") or []
    entropies = draft.get("token_entropies") or []
    margins = draft.get("token_margins") or []
    pieces: list[Token] = []
    begin, entropy, margin, pending = 0, 0.0, 0.0, False
    for end, h, m in list(zip(ends, entropies, margins, strict=False))[:most]:
        entropy, margin = (max(entropy, h), max(margin, m)) if pending else (h, m)
        pending = end <= begin
        if not pending:
            pieces.append(Token(response[begin:end], bisect.bisect_right(LEVELS, entropy), entropy, margin))
            begin = end
    if begin < len(response):
        pieces.append(Token(response[begin:]))
    elif pending and len(ends) <= most:
        pieces.append(Token("", bisect.bisect_right(LEVELS, entropy), entropy, margin, stop=True))
    return pieces


def cards(material: Material) -> dict[str, list[dict[str, Any]]]:
    """The first picks of every selection, by its name.

    Returns:
        For each pick what the template shows: plain values and text, nothing escaped yet.
    """
    heads = {c.name: c.rows[:FIRST] for c in material.chosen}
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *heads.values()]))
    chats = dict(zip(rows.tolist(), material.turns(rows), strict=True))
    drafts = dict(zip(rows.tolist(), material.drafts(rows), strict=True))
    shown = [int(row) for head in heads.values() for row in head]
    cap = water_level([_size(turn["content"]) for row in shown for turn in chats[row][-_MOST_TURNS:]], _TEXT_BYTES)
    marked = max(_MARKED_TOKENS // max(len(shown), 1), _FEWEST_MARKED)
    sorted_scores = {name: np.sort(column[np.isfinite(column)]) for name, column in material.scores.items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for chosen in material.chosen:
        why = reasons(material, chosen, FIRST)
        stands_for = _stands_for(material, chosen)
        starts = material.starts(heads[chosen.name], _EXAMPLE_CHARS)
        found[chosen.name] = [
            {
                "rank": position + 1,
                "id": material.ids[row],
                "start": starts[position],
                "task": "" if material.tasks is None else material.tasks[row],
                "length": int(material.lengths[row]),
                "answered": bool(material.annotated[row]),
                "truncated": material.truncated is not None and bool(material.truncated[row]),
                "why": why[position],
                "stands_for": stands_for[position] if stands_for else None,
                **_turns(chats[row], cap),
                **_draft(drafts[row], marked),
                "scores": [_score(material, name, row, ordered) for name, ordered in sorted_scores.items()],
            }
            for position, row in enumerate(heads[chosen.name].tolist())
        ]
    return found


def _turns(chat: list[Message], cap: int) -> dict[str, Any]:
    turns = [Turn(m["role"], *shorten(m["content"], cap)) for m in chat[-_MOST_TURNS:]]
    return {
        "left_out": len(chat) - len(turns),
        "earlier": turns[:-_LAST_TURNS],
        "turns": turns[-_LAST_TURNS:],
    }


def _draft(draft: dict[str, Any], marked: int) -> dict[str, Any]:
    if not draft.get("n_steps"):
        return {"tokens": [], "drafted": False}
    return {
        "drafted": True,
        "tokens": tokens(draft, marked),
        "steps": draft["n_steps"],
        "unmarked": max(0, draft["n_steps"] - marked),
        "hit_limit": draft["hit_limit"],
    }


def _score(material: Material, name: str, row: int, ordered: Any) -> dict[str, Any]:
    value = float(material.scores[name][row])
    label, unit, _ = SCORE_WORDS[name]
    if not np.isfinite(value):
        return {"name": name, "label": label, "value": "", "above": "", "bar": 0}
    _, below = standing(ordered, value)
    return {
        "name": name,
        "label": label,
        "value": f"{number(value)} {unit}".strip(),
        "above": percent(below),
        "bar": round(100 * below),
    }


def _stands_for(material: Material, chosen: Chosen) -> list[dict[str, Any]]:
    found = neighbourhoods(material, chosen, FIRST)
    return [
        {
            "count": f"{'about ' if n.sampled else ''}{n.count:,}",
            "share": percent(n.share, 1),
            "examples": material.starts(np.array(n.examples, np.int64), _EXAMPLE_CHARS),
        }
        for n in found
    ]
