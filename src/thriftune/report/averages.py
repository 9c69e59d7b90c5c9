"""Macro averages with intervals, computed from arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thriftune.types import FloatArray, IntArray, ObjectArray

LEVEL = 0.95
_Z = 1.959964  # of a normal distribution, at LEVEL


@dataclass(frozen=True)
class Average:
    """A mean over tasks of the mean over each task's items.

    Args:
        mean: the average.
        low: lower end of its interval over items, None where one item alone is no basis for one.
        high: upper end.
        items: values that went in.
        tasks: how many tasks they are of.
    """

    mean: float
    low: float | None
    high: float | None
    items: int
    tasks: int


def macro_average(tasks: ObjectArray, values: FloatArray) -> Average | None:
    """The average that counts every task alike, with its 95 % interval over items.

    The tasks are taken as given, the items of each as drawn at random: the standard error is that of a stratified
    mean, tasks of a single item taken together. Where all values are the same 0 or the same 1 the
    variance says nothing, and the exact binomial bound stands in for it.

    Args:
        tasks: (n,) object, task of each value.
        values: (n,) float; those that are not finite are left out.

    Returns:
        The average, or None where no value is finite.
    """
    known = np.isfinite(values)
    x = values[known].astype(np.float64)
    if not len(x):
        return None
    _, of = np.unique(tasks[known].astype(str), return_inverse=True)
    counts = np.bincount(of)
    means = np.bincount(of, x) / counts
    mean = float(means.mean())
    low, high = _interval(x, of, mean, counts, np.asarray(np.bincount(of, (x - means[of]) ** 2), np.float64))
    return Average(mean, low, high, len(x), len(counts))


def _interval(
    x: FloatArray, of: IntArray, mean: float, counts: IntArray, squares: FloatArray
) -> tuple[float, float] | tuple[None, None]:
    n, groups = len(x), len(counts)
    if n < 2:
        return None, None
    if x.min() == x.max() and x[0] in (0, 1):
        reach = 1 - ((1 - LEVEL) / 2) ** (1 / n)
        return (0.0, reach) if x[0] == 0 else (1 - reach, 1.0)
    several = counts > 1
    variances = np.zeros(groups)
    variances[several] = squares[several] / (counts[several] - 1)
    alone = x[counts[of] == 1]
    if len(alone) > 1:  # tasks of one item each show no spread but among themselves
        variances[~several] = float(alone.var(ddof=1))
    elif len(alone):
        variances[~several] = squares.sum() / (counts[several] - 1).sum()
    reach = _Z * math.sqrt(float((variances / counts).sum())) / groups
    low, high = mean - reach, mean + reach
    if x.min() >= 0 and x.max() <= 1:  # a share stays one
        low, high = max(low, 0.0), min(high, 1.0)
    return low, high
