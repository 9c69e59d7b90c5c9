"""Random choice: the baseline that every other strategy has to beat, and its controls."""

from __future__ import annotations

import numpy as np

from thriftune.selection.registry import Rows, strategy
from thriftune.types import Candidates, FloatArray, IntArray, Picks

_STRATA = 20


@strategy(name="random", source="the baseline of every comparison", prefix=True, randomised=True)
def random(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """Prompts drawn uniformly without replacement. The baseline: a strategy that does not beat it is not worth its
    trouble."""
    return Picks(rng.permutation(np.flatnonzero(~candidates.annotated))[:budget])


@strategy(
    name="random_within_task",
    needs=("tasks",),
    source="stratified sampling with equal allocation, Cochran 1977, chapter 5",
    prefix=True,
    randomised=True,
)
def random_within_task(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """The same number of prompts from every task, drawn at random within each; a task that runs out leaves its share
    to the others. Use it where task labels are there and rare tasks matter as much as common ones."""
    assert candidates.tasks is not None
    free = rng.permutation(np.flatnonzero(~candidates.annotated))
    _, task = np.unique(candidates.tasks[free].astype(str), return_inverse=True)
    # One prompt of every task per round; within a round the tasks come in an order drawn once.
    turn = rng.permutation(task.max() + 1)[task]
    by_task = np.argsort(task, kind="stable")
    starts = np.searchsorted(task[by_task], np.arange(task.max() + 1))
    round_of = np.empty(len(free), np.int64)
    round_of[by_task] = np.arange(len(free)) - starts[task[by_task]]
    return Picks(free[np.lexsort((turn, round_of))[:budget]])


@strategy(
    name="length_matched_random",
    needs=("lengths",),
    source="matching on a confounder, Rosenbaum 2002, chapter 3",
    randomised=True,
)
def length_matched_random(candidates: Candidates, budget: int, rng: np.random.Generator, *, reference: Rows) -> Picks:
    """Random prompts with the same distribution of lengths as a reference selection. The control for a strategy whose
    score drifts with length: what the strategy gains over this is not owed to length alone."""
    assert candidates.lengths is not None
    wanted = candidates.lengths[reference].astype(np.float64)
    lengths = candidates.lengths.astype(np.float64)
    edges = np.unique(np.quantile(wanted, np.linspace(0, 1, _STRATA + 1)))
    share = np.bincount(_stratum(wanted, edges), minlength=max(len(edges) - 1, 1))
    # Systematic allocation: the shares of the reference, rounded to whole prompts that add up to the budget.
    quota = np.diff(np.floor(np.concatenate([[0], np.cumsum(share)]) * budget / share.sum()).astype(np.int64))
    free = rng.permutation(np.flatnonzero(~candidates.annotated))
    picked: list[IntArray] = []
    missing: list[tuple[float, float, int]] = []
    inside = (lengths[free] >= edges[0]) & (lengths[free] <= edges[-1])
    stratum = np.where(inside, _stratum(lengths[free], edges), -1)
    for s, count in enumerate(quota):
        drawn = free[stratum == s][:count]
        picked.append(drawn)
        missing.append((edges[s], edges[min(s + 1, len(edges) - 1)], int(count) - len(drawn)))
    left = free[~np.isin(free, np.concatenate(picked))]
    for low, high, count in missing:
        if count:
            nearest = np.argsort(_outside(lengths[left], low, high), kind="stable")[:count]
            picked.append(left[nearest])
            left = np.delete(left, nearest)
    return Picks(rng.permutation(np.concatenate(picked)))


def _stratum(lengths: FloatArray, edges: FloatArray) -> IntArray:
    """Which of the intervals between ``edges``, closed on the left, the last one on both sides."""
    return np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(len(edges) - 2, 0))


def _outside(lengths: FloatArray, low: float, high: float) -> FloatArray:
    return np.maximum(np.maximum(low - lengths, lengths - high), 0)
