"""Quotas: at least, and at most, so many picks of every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thriftune.errors import StrategyError
from thriftune.types import Candidates, IntArray, ObjectArray, Picks

Pass = Callable[[IntArray, Candidates, int, int], Picks]
"""(rows of the pool, those rows as candidates, budget, number of the pass) -> verified picks in rows of the latter."""
NAMES = ("at_least", "at_most")
_COLUMN = "task"


def quotas(at_least: Any, at_most: Any) -> dict[str, int]:
    """Quotas as given, e.g. ``{"task": 5}`` or ``None``, by name.

    Raises:
        StrategyError: they name another column, or no whole number, or contradict each other.
    """
    found: dict[str, int] = {}
    for name, given in zip(NAMES, (at_least, at_most), strict=True):
        if given is None or given == {}:
            continue
        if not isinstance(given, Mapping) or list(given) != [_COLUMN]:
            raise StrategyError(f"{name} is {given!r}: quotas are per task, e.g. {_COLUMN}=5")
        text = str(given[_COLUMN])
        if not text.isdecimal() or int(text) < 1:
            raise StrategyError(f"{name} {_COLUMN}={given[_COLUMN]!r}: give a whole number of at least 1")
        found[name] = int(text)
    if len(found) == 2 and found["at_least"] > found["at_most"]:
        raise StrategyError(f"at least {found['at_least']} of every task and at most {found['at_most']}: swap them")
    return found


def parse_quota(text: str, flag: str) -> dict[str, str]:
    """``task=5`` as typed after ``flag``, e.g. ``--at-least``.

    Raises:
        StrategyError: it has no ``=``.
    """
    column, equals, value = text.partition("=")
    if not equals:
        raise StrategyError(f"{flag} {text!r}: write it as {_COLUMN}=NUMBER, e.g. {flag} {_COLUMN}=5")
    return {column.strip(): value.strip()}


def groups_of(tasks: ObjectArray | None) -> IntArray:
    """(n,) int64 number of each row's task, -1 for rows without a label: quotas leave those alone.

    Raises:
        StrategyError: there are no labels.
    """
    if tasks is None or not (tasks != "").any():
        raise StrategyError("quotas are per task, and there are no task labels: leave them out, or give tasks")
    known = tasks != ""
    numbers = np.full(len(tasks), -1, np.int64)
    numbers[known] = np.unique(tasks[known].astype(str), return_inverse=True)[1]
    return numbers


def with_quotas(ask: Pass, candidates: Candidates, groups: IntArray, budget: int, limits: Mapping[str, int]) -> Picks:
    """Picks that keep quotas, by asking a strategy several times.

    First every task is served on its own: the strategy picks ``at_least`` of its prompts (all, where there are fewer).
    Then it picks from the whole pool, what was picked counting as annotated. Picks beyond ``at_most`` of a task are
    dropped and the strategy is asked for others, from a pool that the tasks with all their picks have left.

    Args:
        ask: runs the strategy on a part of the pool.
        candidates: n rows.
        groups: (n,) see `groups_of`.
        budget: how many to pick.
        limits: ``at_least``, ``at_most`` or both.

    Returns:
        Picks in rows of ``candidates``, without gains and certificate: those of several runs do not add up.

    Raises:
        StrategyError: no selection of ``budget`` prompts keeps the quotas.
    """
    count = int(groups.max()) + 1
    free = ~candidates.annotated
    there = np.bincount(groups[free & (groups >= 0)], minlength=count)
    least = np.minimum(there, limits.get("at_least", 0))
    most = np.minimum(there, limits.get("at_most", len(groups)))
    room = int(most.sum()) + int((free & (groups < 0)).sum())
    if least.sum() > budget:
        raise StrategyError(
            f"at least {limits['at_least']} of every task takes {least.sum()} picks and the budget is {budget}: "
            "raise one or lower the other"
        )
    if room < budget:
        raise StrategyError(
            f"at most {limits['at_most']} of every task leaves room for {room} picks and the budget is {budget}: "
            "raise one or lower the other"
        )
    picked: list[int] = []
    notes: dict[str, Any] = {}
    passes = 0
    taken = candidates.annotated.copy()
    have = np.zeros(count, np.int64)

    def more(pool: IntArray, wanted: int) -> bool:
        """Ask for picks from some rows and keep what the quotas allow; False when interrupted."""
        nonlocal passes, notes
        some = candidates.with_annotated(taken)
        some = some if len(pool) == len(some) else some.take(pool)  # not a copy of everything
        answer = ask(pool, some, wanted, passes)
        passes += 1
        notes = {**notes, **answer.notes}
        for row in pool[answer.rows].tolist():
            group = groups[row]
            if group >= 0 and have[group] >= most[group]:
                continue
            picked.append(row)
            taken[row] = True
            if group >= 0:
                have[group] += 1
        return not answer.partial

    going = True
    for group in np.flatnonzero(least):
        # What is annotated of other tasks counts too: a prompt near it has less to add.
        going = going and more(np.flatnonzero((groups == group) | taken), int(least[group]))
    while going and len(picked) < budget:
        full = np.append(have >= most, False)[groups]  # rows of no task find the False at the end
        going = more(np.flatnonzero(taken | ~full), budget - len(picked))
    return Picks(np.array(picked, np.int64), None, None, {**notes, "passes": passes}, len(picked) < budget)
