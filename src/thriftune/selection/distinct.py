"""Duplicates last: a text that was picked or annotated comes again only when every other text is used up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from thriftune.types import Candidates, IntArray, Picks

Ask = Callable[[Candidates, int, Mapping[str, IntArray], int], Picks]
"""(candidates, budget, parameters that hold rows, number of the part) -> verified picks of the strategy."""


def distinct_first(
    ask: Ask,
    candidates: Candidates,
    groups: IntArray,
    budget: int,
    named: Mapping[str, IntArray],
    *,
    once: bool = False,
) -> Picks:
    """Run a strategy on the distinct texts, then, only where the budget goes beyond them, on the remaining rows.

    The first part sees one row of each text that has no annotated row, and all annotated rows. The second part sees
    everything, with the first part's picks counted as annotated. Cut anywhere, the result of a prefix-closed strategy
    is its result at the smaller budget. Where prompts have costs, the cheapest row stands for its text.

    Args:
        ask: runs the strategy.
        candidates: n rows in order of id.
        groups: (n,) rows with the same number are the same text.
        budget: how many to pick.
        named: parameters of the strategy that hold rows.
        once: leave the second part out.

    Returns:
        Picks in rows of ``candidates``. The certificate speaks of the distinct texts, and is None beyond them.
    """
    n = len(candidates)
    _, first, text = np.unique(groups, return_index=True, return_inverse=True)
    if candidates.costs is not None:
        by_cost = np.lexsort((candidates.costs, text))
        first = by_cost[np.searchsorted(text[by_cost], np.arange(len(first)))]
    has_answer = np.zeros(len(first), bool)
    has_answer[text[candidates.annotated]] = True
    kept = candidates.annotated.copy()
    kept[first[~has_answer]] = True
    if kept.all():
        return ask(candidates, budget, named, 0)
    rows = np.flatnonzero(kept)
    distinct = int((~candidates.annotated[rows]).sum())
    if distinct == 0:
        return ask(candidates, budget, named, 1)

    # Where each row's text is found among the kept rows.
    _, first_kept = np.unique(text[rows], return_index=True)
    place = first_kept[text]
    place[rows] = np.arange(len(rows))
    answer = ask(candidates.take(rows), min(budget, distinct), {k: place[v] for k, v in named.items()}, 0)
    picked = rows[answer.rows]
    notes = {**answer.notes, "distinct_prompts": len(first)}
    if answer.partial or budget <= distinct or once:
        return Picks(picked, answer.gains, answer.certificate, notes, answer.partial)

    annotated = candidates.annotated.copy()
    annotated[picked] = True
    rest = ask(candidates.with_annotated(annotated), budget - distinct, named, 1)
    both = answer.gains is not None and rest.gains is not None
    gains = np.concatenate([answer.gains, rest.gains]) if both else None
    assert n >= len(picked) + len(rest.rows)
    notes["repeated_prompts"] = len(rest.rows)
    return Picks(np.concatenate([picked, rest.rows]), gains, None, notes, rest.partial)
