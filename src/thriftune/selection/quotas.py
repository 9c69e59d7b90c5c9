"""Quotas: at least, and at most, so many picks of every task."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thriftune.errors import StrategyError
from thriftune.types import Candidates, IntArray, ObjectArray, Picks

Pass = Callable[[IntArray, Candidates, int, int], Picks]
"""(rows of the pool, those rows as candidates, budget, number of the pass) -> verified picks in rows of the latter."""
NAMES = ("at_least", "at_most")
EVERY = "task"  # a quota's name that stands for every task
Quotas = Mapping[str, Mapping[str, int]]
_LISTED = 10  # tasks named in a message


def quotas(at_least: Any, at_most: Any) -> dict[str, dict[str, int]]:
    """Quotas as given, e.g. ``{"task": 5, "poetry": 20}`` or ``None``, by name.

    Raises:
        StrategyError: they are no whole numbers by task, or contradict each other.
    """
    found: dict[str, dict[str, int]] = {}
    for name, given in zip(NAMES, (at_least, at_most), strict=True):
        if given is None or given == {}:
            continue
        if not isinstance(given, Mapping):
            raise StrategyError(f"{name} is {given!r}: write it by task, e.g. {EVERY}=5 for every one")
        for task, value in given.items():
            if not str(value).isdecimal() or int(str(value)) < 1:
                raise StrategyError(f"{name} {task}={value!r}: give a whole number of at least 1")
        found[name] = {str(task): int(str(value)) for task, value in given.items()}
    least, most = found.get("at_least", {}), found.get("at_most", {})
    for task in dict.fromkeys((*least, *most)):
        low, high = least.get(task, least.get(EVERY)), most.get(task, most.get(EVERY))
        if low is not None and high is not None and low > high:
            raise StrategyError(f"at least {low} of {_named(task)} and at most {high}: swap them")
    return found


def _named(task: str) -> str:
    return "every task" if task == EVERY else task


def parse_quotas(texts: Sequence[str] | None, flag: str) -> dict[str, str] | None:
    """``task=5`` or ``LABEL=20`` as typed after ``flag``, e.g. ``--at-least``, any number of them.

    Raises:
        StrategyError: one has no ``=``, or a task comes twice.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        task, equals, value = (part.strip() for part in text.rpartition("="))
        if not equals:
            raise StrategyError(f"{flag} {text!r}: write it as TASK=NUMBER, or {EVERY}=NUMBER for every task")
        if task in found:
            raise StrategyError(f"{flag} names {task!r} twice: give it once")
        found[task] = value
    return found or None


def groups_of(tasks: ObjectArray | None, limits: Quotas) -> tuple[ObjectArray, IntArray]:
    """Names of the tasks in order, and (n,) int64 number of each row's, -1 without a label: quotas leave those alone.

    Raises:
        StrategyError: there are no labels, or a quota names a task that is not there.
    """
    if tasks is None or not (tasks != "").any():
        raise StrategyError("quotas are per task, and there are no task labels: leave them out, or give tasks")
    known = tasks != ""
    numbers = np.full(len(tasks), -1, np.int64)
    names, numbers[known] = np.unique(tasks[known].astype(str), return_inverse=True)
    for task in itertools.chain.from_iterable(limits.values()):
        if task != EVERY and task not in names:
            near = difflib.get_close_matches(task, names.tolist(), 1)
            hint = f"did you mean {near[0]}?" if near else f"take one of {', '.join(names[:_LISTED])}"
            raise StrategyError(f"a quota names the task {task!r}, which no prompt has: {hint}")
    return names.astype(object), numbers


def with_quotas(
    ask: Pass, candidates: Candidates, names: ObjectArray, groups: IntArray, budget: int, limits: Quotas
) -> Picks:
    """Picks that keep quotas, by asking a strategy several times.

    First every task is served on its own: the strategy picks ``at_least`` of its prompts (all, where there are fewer).
    Then it picks from the whole pool, what was picked counting as annotated. Picks beyond ``at_most`` of a task are
    dropped and the strategy is asked for others, from a pool that the tasks with all their picks have left.

    Args:
        ask: runs the strategy on a part of the pool.
        candidates: n rows.
        names, groups: see `groups_of`.
        budget: how many to pick.
        limits: ``at_least``, ``at_most`` or both, by task; a task's own number goes before every task's.

    Returns:
        Picks in rows of ``candidates``, without gains and certificate: those of several runs do not add up.

    Raises:
        StrategyError: no selection of ``budget`` prompts keeps the quotas.
    """
    count = len(names)
    free = ~candidates.annotated
    there = np.bincount(groups[free & (groups >= 0)], minlength=count)
    for task, number in limits.get("at_least", {}).items():
        if task != EVERY and (left := int(there[names == task].sum())) < number:
            raise StrategyError(f"at least {number} of {task} are asked for and {left} are not annotated: lower it")
    least = np.minimum(there, _of_each(limits.get("at_least", {}), names, 0))
    most = np.minimum(there, _of_each(limits.get("at_most", {}), names, len(groups)))
    room = int(most.sum()) + int((free & (groups < 0)).sum())
    if least.sum() > budget:
        raise StrategyError(
            f"at least {_told(limits['at_least'])} takes {least.sum()} picks and the budget is {budget}: "
            "raise one or lower the other"
        )
    if room < budget:
        raise StrategyError(
            f"at most {_told(limits['at_most'])} leaves room for {room} picks and the budget is {budget}: "
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


def _of_each(given: Mapping[str, int], names: ObjectArray, otherwise: int) -> IntArray:
    return np.array([given.get(task, given.get(EVERY, otherwise)) for task in names], np.int64)


def _told(given: Mapping[str, int]) -> str:
    return ", ".join(f"{number} of {_named(task)}" for task, number in given.items())
