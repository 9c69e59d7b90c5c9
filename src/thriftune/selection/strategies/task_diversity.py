"""Task diversity: a budget for each task, and random prompts within it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.errors import StrategyError
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, FloatArray, IntArray, Picks

_SOURCE = "Arabelly et al. 2025, Improving Task Diversity in Label Efficient SFT, arXiv 2507.21482"
Clusters = Annotated[int, Field(ge=1)]


@strategy(
    name="task_diversity",
    uses=("tasks", "embeddings"),
    source=_SOURCE,
    prefix=True,
    randomised=True,
)
def task_diversity(candidates: Candidates, budget: int, rng: np.random.Generator, *, clusters: Clusters = 100) -> Picks:
    """The same number of prompts from every task, annotated ones counted, at random within a task. Use it where the
    pool mixes many tasks of very different sizes.

    Prompts without a task label are grouped by their embeddings instead, into at most ``clusters`` clusters.
    """
    tasks = _tasks(candidates, clusters, "task_diversity", rng)
    return _share_out(candidates, tasks, np.ones(int(tasks.max()) + 1), budget, rng)


@strategy(
    name="weighted_task_diversity",
    needs=("scores:{score}",),
    uses=("tasks", "embeddings"),
    source=_SOURCE,
    prefix=True,
    randomised=True,
)
def weighted_task_diversity(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    score: str = "mean_nll",
    clusters: Clusters = 100,
) -> Picks:
    """More prompts from the tasks that the model is less confident in, annotated ones counted, at random within a task.
    Use it where tasks differ in how well the model knows them.

    A task's share is in proportion to 1 / its mean confidence, that of a prompt being exp(-score): with mean_nll, the
    probability of a token of its draft answer. Prompts without a task label are grouped by their embeddings instead.
    """
    tasks = _tasks(candidates, clusters, "weighted_task_diversity", rng)
    values = candidates.scores[score].astype(np.float64)
    # Relative to the most confident prompt, so that no scale of scores runs out of numbers.
    confidence = np.exp(np.maximum(float(values.min()) - values, -50.0))
    mean = np.bincount(tasks, confidence) / np.maximum(np.bincount(tasks), 1)
    return _share_out(candidates, tasks, 1 / np.where(mean > 0, mean, 1), budget, rng)


def _tasks(candidates: Candidates, clusters: int, name: str, rng: np.random.Generator) -> IntArray:
    """(n,) int64 task numbers; rows without a label are numbered by cluster, behind the tasks."""
    n = len(candidates)
    labels = np.full(n, "", object) if candidates.tasks is None else candidates.tasks
    known = labels != ""
    numbers = np.zeros(n, np.int64)
    found, numbers[known] = np.unique(labels[known].astype(str), return_inverse=True)
    if known.all():
        return numbers
    if candidates.embeddings is None:
        if not known.any():
            raise StrategyError(f"{name} needs task labels, or embeddings to cluster by: give tasks= or embeddings=")
        numbers[~known] = len(found)
        return numbers
    from thriftune.selection.engine.lloyd import k_means

    unknown = np.flatnonzero(~known)
    clustering = k_means(candidates.embeddings[unknown], min(clusters, len(unknown)), rng)
    if clustering.partial:
        raise KeyboardInterrupt  # nothing is picked yet
    numbers[unknown] = len(found) + clustering.labels
    return np.unique(numbers, return_inverse=True)[1]


def _share_out(
    candidates: Candidates, tasks: IntArray, share: FloatArray, budget: int, rng: np.random.Generator
) -> Picks:
    """Picks one after the other, each from the task that is farthest behind its share (Sainte-Laguë 1910).

    Args:
        candidates: the pool.
        tasks: (n,) task numbers.
        share: (tasks,) > 0, relative shares.
        budget: how many.
        rng: draws the prompts within a task, and the order of tasks that are equally far behind.

    Returns:
        Picks; the first ones are the picks at any smaller budget.
    """
    free = rng.permutation(np.flatnonzero(~candidates.annotated))
    turn = rng.permutation(len(share))
    have = np.bincount(tasks[candidates.annotated], minlength=len(share))
    by_task = np.argsort(tasks[free], kind="stable")
    starts = np.searchsorted(tasks[free][by_task], np.arange(len(share)))
    place = np.empty(len(free), np.int64)
    place[by_task] = np.arange(len(free)) - starts[tasks[free][by_task]]
    behind = (have[tasks[free]] + place + 0.5) / share[tasks[free]]
    rows = free[np.lexsort((turn[tasks[free]], behind))][:budget]
    return Picks(rows, notes={"tasks": len(np.unique(tasks))})
