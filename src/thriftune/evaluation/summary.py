"""Means of per-item results with intervals, over items and over tasks, and paired differences of two models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thriftune.types import FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

RESAMPLES = 2000
_DRAWS = 1 << 20  # numbers drawn at once

Key = tuple[str, str, str]
"""Suite, task, item."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; the interval is None where nothing can be said about it.

    Args:
        mean: in the metric's unit.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Summary:
    """One metric of one suite.

    Args:
        items: mean over items: large tasks count more.
        tasks: mean of the tasks' means: every task counts alike.
        n_items: how many items.
        n_tasks: how many tasks.
    """

    items: Estimate
    tasks: Estimate
    n_items: int
    n_tasks: int


def summarise(
    tasks: Sequence[str], values: FloatArray, *, share: bool = False, level: float = 0.95, seed: int = 0
) -> Summary:
    """Mean over items and over tasks, with bootstrap percentile intervals over items within tasks.

    The interval says how far the mean of other items of the same tasks may lie; it knows nothing of other
    fine-tuning seeds. Of a task's m items m - 1 are drawn, with replacement, which makes the variance of the resampled
    mean the unbiased s^2/m (McCarthy and Snowden 1985; m draws would understate it, by half for pairs). Tasks of a
    single item are drawn from together, since one item alone shows no spread; a lone one gets the spread that items of
    the other tasks have within theirs.

    Args:
        tasks: (n,) task of each item.
        values: (n,) one value an item.
        share: values are 0 or 1. When all are equal a bootstrap sees no spread; the interval over items is then the
            exact binomial one (Clopper and Pearson 1934), the one over tasks unknown.
        level: coverage aimed at.
        seed: of the resampling.

    Returns:
        The summary.
    """
    values = np.asarray(values, np.float64)
    labels, inverse, counts = np.unique(np.asarray(tasks, dtype=str), return_inverse=True, return_counts=True)
    n, count = len(values), len(labels)
    mean = float(values.mean())
    by_task = float((np.bincount(inverse, values) / counts).mean())
    rng = np.random.default_rng(seed)
    over_items, over_tasks = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    spread = False
    for rows, owners in _strata(inverse, counts):
        inside = values[rows]
        spread = spread or bool(np.ptp(inside) > 0)
        means = _resampled(inside, rng)
        if len(rows) == 1 and n > 1:
            others = np.flatnonzero(counts[inverse] > 1)
            sizes = counts[inverse[others]]
            residuals = values[others] - (np.bincount(inverse, values) / counts)[inverse[others]]
            means += rng.choice(residuals * np.sqrt(sizes / (sizes - 1)), RESAMPLES)
        over_items += means * len(rows) / n
        over_tasks += means * owners / count
    tail = (1 - level) / 2
    if spread:
        low, high = (float(q) for q in np.quantile(over_items, [tail, 1 - tail]))
        task_low, task_high = (float(q) for q in np.quantile(over_tasks, [tail, 1 - tail]))
        return Summary(Estimate(mean, low, high), Estimate(by_task, task_low, task_high), n, count)
    items = Estimate(mean, None, None)
    if share and mean in (0.0, 1.0):
        reach = 1 - tail ** (1 / n)
        items = Estimate(mean, max(mean - reach, 0.0), min(mean + reach, 1.0))
    return Summary(items, Estimate(by_task, None, None), n, count)


def _strata(inverse: IntArray, counts: IntArray) -> list[tuple[IntArray, int]]:
    """Rows that are resampled together, and how many tasks they are."""
    strata: list[tuple[IntArray, int]] = [(np.flatnonzero(inverse == task), 1) for task in np.flatnonzero(counts > 1)]
    single = np.flatnonzero(counts[inverse] == 1)
    return [*strata, (single, len(single))] if len(single) else strata


def _resampled(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(RESAMPLES,) means of one draw less than there are values."""
    size = len(values) - 1
    if not size or np.ptp(values) == 0:
        return np.full(RESAMPLES, values.mean())
    step = max(1, _DRAWS // size)
    parts = []
    for start in range(0, RESAMPLES, step):
        draws = rng.integers(0, len(values), (min(step, RESAMPLES - start), size))
        parts.append(values[draws].mean(axis=1))
    return np.concatenate(parts)


def columns(rows: pa.Table) -> dict[tuple[str, str], dict[Key, float]]:
    """Per-item results by suite and metric.

    Args:
        rows: ``suite``, ``task``, ``item``, ``metric``, ``value``.

    Returns:
        (suite, metric) -> (suite, task, item) -> value, in the order of the rows.
    """
    found: dict[tuple[str, str], dict[Key, float]] = defaultdict(dict)
    names = ("suite", "task", "item", "metric", "value")
    for suite, task, item, metric, value in zip(*(rows[n].to_pylist() for n in names), strict=True):
        found[suite, metric][suite, task, item] = value
    return dict(found)


def summary_of(values: Mapping[Key, float], *, seed: int = 0) -> Summary:
    """`summarise` for one entry of `columns`."""
    array = np.fromiter(values.values(), np.float64, len(values))
    return summarise([task for _, task, _ in values], array, share=bool(np.isin(array, (0, 1)).all()), seed=seed)


def paired(values: Mapping[Key, float], base: Mapping[Key, float], *, seed: int = 0) -> Summary | None:
    """The difference ``values`` - ``base`` on the items that both have; None where they share none."""
    shared = [key for key in values if key in base]
    if not shared:
        return None
    differences = np.array([values[key] - base[key] for key in shared])
    return summarise([task for _, task, _ in shared], differences, seed=seed)


def changes(values: Mapping[Key, float], base: Mapping[Key, float]) -> Counter[str]:
    """How many shared items went ``up``, ``down`` or stayed the ``same`` against ``base``."""
    signs = (np.sign(values[key] - base[key]) for key in values if key in base)
    return Counter({1: "up", -1: "down"}.get(int(s), "same") for s in signs)
