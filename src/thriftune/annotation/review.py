"""Looking over what several people wrote: side by side, one taken or merged, flags confirmed or taken off."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from thriftune.annotation.agreement import agreement, word_f1
from thriftune.annotations import now, put
from thriftune.errors import AnnotationError
from thriftune.types import Annotation

_ANSWERS = "a.source IN ('human', 'imported') AND a.status = 'final' AND a.review = 0 AND a.replaced IS NULL"
_DECISION = "review = 1 AND replaced IS NULL"


def to_review(connection: sqlite3.Connection, ranks: Mapping[str, int]) -> list[dict[str, Any]]:
    """Prompts of the ranking that several people answered or somebody flagged.

    Args:
        connection: in a transaction.
        ranks: the ranking, by prompt.

    Returns:
        For each, by rank: ``id``, ``rank``, ``answers`` (how many), ``flags``, ``likeness`` (mean word F1 of its
        answers, None for one), ``decided`` (by whom, or None).
    """
    candidates = connection.execute(
        f"""
        SELECT a.prompt_id, SUM({_ANSWERS}), SUM(flag IS NOT NULL), MAX(CASE WHEN review = 1 THEN annotator END)
        FROM annotations a WHERE replaced IS NULL GROUP BY a.prompt_id
        HAVING SUM({_ANSWERS}) > 1 OR SUM(flag IS NOT NULL) > 0 OR SUM(review) > 0
        """
    ).fetchall()
    found = []
    for prompt_id, count, flags, decided in candidates:
        if prompt_id not in ranks:
            continue
        texts = connection.execute(
            f"SELECT response FROM annotations a WHERE a.prompt_id = ? AND {_ANSWERS}", (prompt_id,)
        )
        found.append(
            {
                "id": prompt_id,
                "rank": ranks[prompt_id],
                "answers": count,
                "flags": flags,
                "likeness": _likeness([text for (text,) in texts]) if count > 1 else None,
                "decided": decided,
            }
        )
    return sorted(found, key=lambda item: item["rank"])


def _likeness(answers: list[str]) -> float | None:
    pairs = [(a, b) for i, a in enumerate(answers) for b in answers[i + 1 :]]
    return sum(word_f1(a, b) for a, b in pairs) / len(pairs) if pairs else None


def figures(connection: sqlite3.Connection, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Agreement over all prompts of the ranking with several answers, as JSON values; see `agreement`."""
    answers: dict[str, dict[str, str]] = {}
    for prompt_id, name, response in connection.execute(
        f"SELECT a.prompt_id, a.annotator, a.response FROM annotations a WHERE {_ANSWERS} AND a.prompt_id IN "
        f"(SELECT a.prompt_id FROM annotations a WHERE {_ANSWERS} GROUP BY 1 HAVING COUNT(*) > 1) ORDER BY a.id"
    ):
        answers.setdefault(prompt_id, {})[name] = response
    found = agreement({i: answers[i] for i in sorted(answers.keys() & ranks.keys(), key=ranks.__getitem__)})
    return {
        "prompts": found.prompts,
        "exact": found.exact,
        "overlap": found.overlap,
        "chance": found.chance,
        "alpha": found.alpha,
        "pairs": [
            {"names": list(names), "prompts": n, "overlap": mean} for names, (n, mean) in sorted(found.pairs.items())
        ],
    }


def side_by_side(connection: sqlite3.Connection, prompt_id: str) -> dict[str, Any]:
    """What was said to one prompt.

    Returns:
        ``answers`` (``row``, ``name``, ``source``, ``text``, ``seconds``), ``flags`` and ``skips`` (``name``,
        ``flag``, ``reason``), and the ``decision`` (``row``, ``name``, ``text``) or None.
    """
    rows = connection.execute(
        "SELECT id, annotator, source, response, seconds, status, flag, reason, review FROM annotations "
        "WHERE prompt_id = ? AND replaced IS NULL ORDER BY id",
        (prompt_id,),
    ).fetchall()
    answers, passes, decision = [], [], None
    for row, name, source, text, seconds, status, flag, reason, review in rows:
        if review:
            decision = {"row": row, "name": name, "text": text}
        elif status == "final" and source != "teacher":
            answers.append({"row": row, "name": name, "source": source, "text": text, "seconds": seconds})
        elif status == "skipped":
            passes.append({"name": name, "flag": flag, "reason": reason})
    return {"answers": answers, "passes": passes, "decision": decision}


def decide(connection: sqlite3.Connection, prompt_id: str, reviewer: str, text: str, seen: int | None) -> None:
    """Store what is to count as the answer to a prompt, before everybody's own answers.

    Args:
        connection: in a transaction.
        prompt_id: the prompt.
        reviewer: who decides.
        text: the answer taken, or merged.
        seen: row of the decision that the reviewer saw, None for none.

    Raises:
        AnnotationError: the text is empty, or somebody else decided meanwhile.
    """
    if not text.strip():
        raise AnnotationError("the answer is empty: take one, or write one")
    held = connection.execute(
        f"SELECT id, annotator, response FROM annotations WHERE prompt_id = ? AND {_DECISION}", (prompt_id,)
    ).fetchone()
    if held is not None and (held[1], held[2]) == (reviewer, text):
        return
    if (held[0] if held else None) != seen:
        who = held[1] if held else "Somebody"
        raise AnnotationError(f"{who} decided on this prompt meanwhile: look at it again")
    reopen(connection, prompt_id)  # one decision a prompt, whoever takes it
    put(connection, Annotation(prompt_id, text, annotator=reviewer), now(), replace=True, review=True)


def reopen(connection: sqlite3.Connection, prompt_id: str) -> None:
    """Take the decision on a prompt back: everybody's own answers count again."""
    # All of them: what a decision replaced was one as well.
    connection.execute(f"UPDATE annotations SET replaced = ? WHERE prompt_id = ? AND {_DECISION}", (now(), prompt_id))
