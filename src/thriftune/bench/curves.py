"""Learning curves as arrays: one metric's values by arm, budget, seed and item, paired, and how far their means err."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thriftune.errors import BenchError
from thriftune.types import BoolArray, FloatArray, IntArray, ObjectArray

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Curves:
    """One metric of an experiment, larger is better.

    Args:
        metric: its name.
        arms: (a,) names of strategies.
        budgets: (k,) int64, increasing.
        seeds: (r,) int64.
        values: (a, k, r, n) float64, NaN where missing: a cell lacks all items or those that its seed's others lack.
        tasks: (n,) int64, code of each item's task.
        items: (n,) int64, number of each item among all metrics' items.
        base: the untouched model's mean, in the metric's own direction, or None.
    """

    metric: str
    arms: tuple[str, ...]
    budgets: IntArray
    seeds: IntArray
    values: FloatArray
    tasks: IntArray
    items: IntArray
    base: float | None = None


@dataclass(frozen=True)
class Moments:
    """Means of cells and the covariance of their errors.

    Args:
        mean: (c,) float64, each cell's metric averaged over items, then tasks, then seeds.
        seed: (c, c) float64, covariance of the means that shows between seeds.
        item: (c, c) float64, covariance that seeds share because they share items; not always positive definite.
        df_seed: (c,) int64, seeds of the cell less one.
        df_item: items less tasks.
    """

    mean: FloatArray
    seed: FloatArray
    item: FloatArray
    df_seed: IntArray
    df_item: int


def by_seed(values: FloatArray, tasks: IntArray) -> tuple[FloatArray, FloatArray]:
    """Each seed's mean over tasks, and what every item contributes to its error.

    Args:
        values: (c, r, n) float64. NaN where missing: a cell lacks a seed wholly, or has all items of that seed.
        tasks: (n,) int64, from 0.

    Returns:
        means (c, r) float64, NaN where the cell lacks the seed: items are weighted equally in a task, tasks equally in
        a seed; and contributions (c, r, n) float64: weight times distance from the task's mean, 0 where missing.
    """
    cells, seeds, items = values.shape
    count = int(tasks.max()) + 1
    member = np.zeros((items, count))
    member[np.arange(items), tasks] = 1.0
    present, taken = _some(values, 2), _some(values, 0)
    means, contributions = np.full((cells, seeds), np.nan), np.zeros((cells, seeds, items))
    for seed in range(seeds):
        rows, columns = np.flatnonzero(present[:, seed]), np.flatnonzero(taken[seed])
        if not len(rows):
            continue
        x, inside = values[np.ix_(rows, np.array([seed]), columns)][:, 0], member[columns]
        size = inside.sum(axis=0)
        weight = inside @ np.divide(1.0, size * (size > 0).sum(), out=np.zeros(count), where=size > 0)
        means[rows, seed] = x @ weight
        # A task of one item has no spread of its own: such tasks are taken together, which can only widen.
        alone = size == 1
        inside = np.concatenate([inside[:, ~alone], inside[:, alone].sum(axis=1, keepdims=True)], axis=1)
        size = inside.sum(axis=0)
        distance = x - (x @ inside / np.maximum(size, 1)) @ inside.T
        factor = inside @ np.sqrt(size / np.maximum(size - 1, 1))
        contributions[np.ix_(rows, np.array([seed]), columns)] = (distance * (weight * factor))[:, None]
    return means, contributions


def _some(values: FloatArray, axis: int) -> BoolArray:
    return np.asarray(~np.isnan(values).all(axis=axis))


def moments(means: FloatArray, contributions: FloatArray, tasks: IntArray) -> Moments:
    """Means and two-way error covariance of cells that share seeds and items.

    Seeds are a sample, and items a sample within fixed tasks. The covariance is what shows between seeds (which
    contains what is left after seed and item) plus what items add to every seed alike, estimated from products of
    different seeds only. With the same items in all seeds that is the usual V(seed) + V(item) - V(rest) (Cameron,
    Gelbach, Miller 2011); with other items in each seed it is V(seed) alone.

    Args:
        means: (c, r) float64, NaN where the cell lacks the seed.
        contributions: (c, r, n) float64, as `by_seed` gives them.
        tasks: (n,) int64, task of each item.
    """
    number = (~np.isnan(means)).sum(axis=1)
    mean = np.nansum(means, axis=1) / np.maximum(number, 1)
    # Each cell's own correction R / (R - 1), so that cells which lack seeds are not believed too much.
    scale = 1 / np.sqrt(np.maximum(number, 1) * np.maximum(number - 1.0, 1.0))
    between = np.nan_to_num(means - mean[:, None]) * scale[:, None]
    scaled = contributions * scale[:, None, None]
    together, apart = scaled.sum(axis=1), scaled.reshape(len(scaled), -1)
    used = (contributions != 0).any(axis=(0, 1))
    df_item = int(used.sum()) - len(np.unique(tasks[used]))
    item = together @ together.T - apart @ apart.T
    return Moments(mean, between @ between.T, item, np.maximum(number - 1, 0), max(df_item, 1))


@dataclass(frozen=True)
class Pair:
    """A strategy and the baseline.

    Args:
        metric: by which they are compared.
        strategy: which.
        budgets: (k,) int64, those that both have.
        seeds: pairs at the budget that has fewest.
        cells: (2 k,) int64, places of the strategy's, then the baseline's cells among all cells.
    """

    metric: str
    strategy: str
    budgets: IntArray
    seeds: int
    cells: IntArray


def pairs_of(curves: Sequence[Curves]) -> tuple[list[Pair], Moments]:
    """Every strategy beside the baseline, with the moments of all their cells.

    Args:
        curves: the metrics; the first arm of each is the baseline.

    Returns:
        The pairs, and moments over the seeds and budgets that both of a pair have; a budget with a single pair of seeds
        is left out where others have more.
    """
    items = np.unique(np.concatenate([curve.items for curve in curves])) if curves else np.zeros(0, np.int64)
    tasks = np.zeros(len(items), np.int64)
    pairs: list[Pair] = []
    means: list[FloatArray] = []
    contributions: list[FloatArray] = []
    known: dict[tuple[str, int, bytes, bytes], IntArray] = {}
    for curve in curves:
        arms, budgets, seeds, _ = curve.values.shape
        columns = np.searchsorted(items, curve.items)
        tasks[columns] = curve.tasks
        mean, part = by_seed(curve.values.reshape(arms * budgets, seeds, -1), curve.tasks)
        mean, part = mean.reshape(arms, budgets, seeds), part.reshape(arms, budgets, seeds, -1)
        for arm in range(1, arms):
            both = ~np.isnan(mean[arm]) & ~np.isnan(mean[0])
            number = both.sum(axis=1)
            # Two seeds are the least that an error can be told from; one is still worth a point on the curve.
            kept = np.flatnonzero(number >= min(2, max(int(number.max()), 1)))
            if not len(kept):
                continue
            cells = []
            for one in (arm, 0):
                # Comparisons that have the same pairs share the baseline's cells.
                key = (curve.metric, one, kept.tobytes(), both[kept].tobytes())
                if key not in known:
                    known[key] = np.arange(len(kept)) + sum(len(rows) for rows in means)
                    means.append(np.where(both[kept], mean[one][kept], np.nan))
                    spread = np.zeros((len(kept), seeds, len(items)))
                    spread[..., columns] = part[one][kept] * both[kept][..., None]
                    contributions.append(spread)
                cells.append(known[key])
            pairs.append(
                Pair(curve.metric, curve.arms[arm], curve.budgets[kept], int(number[kept].min()), np.concatenate(cells))
            )
    if not pairs:
        empty = np.zeros((0, 0))
        return [], Moments(np.zeros(0), empty, empty, np.zeros(0, np.int64), 1)
    return pairs, moments(np.concatenate(means), np.concatenate(contributions), tasks)


def read(
    results: pa.Table, metrics: Mapping[str, bool], baseline: str, base: str = "base"
) -> tuple[list[Curves], list[str]]:
    """Learning curves of each metric in an experiment's results.

    Args:
        results: columns strategy, budget, seed, task, item, metric, value; one row an item of a cell.
        metrics: the metrics to take, and whether higher is better.
        baseline: the strategy that the rest are compared with.
        base: the name under which the untouched model stands.

    Returns:
        The curves, and warnings about what is missing.

    Raises:
        BenchError: no rows, none of the baseline, or a row given twice.
    """
    columns = {name: results[name].to_numpy() for name in ("budget", "seed", "value")}
    coded = {name: _coded(results[name]) for name in ("strategy", "task", "item", "metric")}
    (strategy, names), (metric, found) = coded["strategy"], coded["metric"]
    (task, _), (item, _) = coded["task"], coded["item"]
    if baseline not in names:
        raise BenchError(
            f"the results have no rows of {baseline!r}, without which nothing can be compared: they have "
            f"{', '.join(map(repr, names)) or 'none at all'}"
        )
    _, first, item = np.unique(task * (item.max() + 1) + item, return_index=True, return_inverse=True)
    item_task = task[first]
    untouched = np.isin(strategy, np.flatnonzero(names == base))
    arms = (baseline, *(str(n) for n in names if n not in (baseline, base)))
    number = np.array([arms.index(str(n)) if n in arms else -1 for n in names])[strategy]
    budgets, at_budget = _levels(columns["budget"], ~untouched)
    seeds, at_seed = _levels(columns["seed"], ~untouched)
    curves, warnings = [], []
    for name, higher in metrics.items():
        chosen = np.isin(metric, np.flatnonzero(found == name))
        rows = np.flatnonzero(chosen & ~untouched)
        if not (number[rows] == 0).any():
            warnings.append(f"{name}: the results have no rows of {baseline}, so it is left out")
            continue
        items = np.flatnonzero(np.bincount(item[rows]))  # as np.unique, which takes seconds for a million rows
        at = np.searchsorted(items, item[rows])
        shape = (len(arms), len(budgets), len(seeds), len(items))
        place = np.ravel_multi_index((number[rows], at_budget[rows], at_seed[rows], at), shape)
        if np.bincount(place).max() > 1:
            raise BenchError(f"the results give {name} of an item of a cell twice: remove the copies")
        values = np.full(shape, np.nan)
        values.reshape(-1)[place] = columns["value"][rows] * (1.0 if higher else -1.0)
        values[~np.isfinite(values)] = np.nan
        warnings += _pair(values, name, arms, budgets, seeds)
        before = _macro(columns["value"], item, item_task, columns["seed"], np.flatnonzero(chosen & untouched))
        kept = ~np.isnan(values).all(axis=(0, 1, 2))
        curves.append(
            Curves(name, arms, budgets, seeds, values[..., kept], item_task[items[kept]], items[kept], before)
        )
    return curves, warnings


def _coded(column: pa.ChunkedArray) -> tuple[IntArray, ObjectArray]:
    # Tasks without a label are one task.
    encoded = column.combine_chunks().cast("string").fill_null("").dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_numpy(zero_copy_only=False)


def _levels(column: IntArray, chosen: BoolArray) -> tuple[IntArray, IntArray]:
    levels = np.unique(column[chosen])
    return levels, np.searchsorted(levels, column)


def _pair(values: FloatArray, metric: str, arms: Sequence[str], budgets: IntArray, seeds: IntArray) -> list[str]:
    """Leave out, in place, items that not all cells of their seed have; say so, and which cells are missing."""
    warnings = []
    present = _some(values, 3)
    lost = 0
    for seed in range(len(seeds)):
        cells = values[:, :, seed]
        shared = ~np.isnan(cells[present[:, :, seed]]).any(axis=0)
        lost += int((~np.isnan(cells)).any(axis=(0, 1)).sum() - shared.sum())
        cells[..., ~shared] = np.nan
    if lost:
        warnings.append(f"{metric}: {lost} items that not all cells of their seed have are left out")
    for arm, name in enumerate(arms):
        # Seeds that only the baseline has are extra.
        wanted = np.asarray(present[1:].any(axis=(0, 1)) | (present[0].any(axis=0) & (arm == 0)))
        missing = int((~present[arm][:, wanted]).sum())
        if missing:
            total = present.shape[1] * int(wanted.sum())
            warnings.append(f"{metric}: {missing} of {total} cells of {name} are missing, so fewer seeds are compared")
    return warnings


def _macro(value: FloatArray, item: IntArray, item_task: IntArray, seed: IntArray, rows: IntArray) -> float | None:
    """Mean over seeds of the mean over tasks, or None without rows."""
    rows = rows[np.isfinite(value[rows])]
    if not len(rows):
        return None
    means = []
    for one in np.unique(seed[rows]):
        inside = rows[seed[rows] == one]
        task = item_task[item[inside]]
        means.append(np.mean([value[inside][task == t].mean() for t in np.unique(task)]))
    return float(np.mean(means))
