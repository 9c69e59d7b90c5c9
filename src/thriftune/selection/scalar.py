"""Statistics of one column that describing a selection needs."""

from __future__ import annotations

import math

import numpy as np

from thriftune.types import FloatArray, IntArray


def ranks(values: FloatArray | IntArray) -> FloatArray:
    """(n,) float64 ranks from 1, equal values sharing the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(a: FloatArray | IntArray, b: FloatArray | IntArray) -> float | None:
    """Spearman's rank correlation of two columns (n,), ties averaged; None where one of them is constant."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else None


def effective(counts: IntArray) -> float:
    """How many equally frequent kinds are as varied as these counts: the exponential of their entropy.

    Args:
        counts: (c,) how often each kind occurs; at least one is not 0.

    Returns:
        The effective number, at most that of kinds that occur (Hill 1973, Diversity and Evenness, order 1).
    """
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def expected_touched(sizes: IntArray, draws: int) -> float:
    """How many clusters a random selection touches on average.

    Args:
        sizes: (c,) members of each cluster.
        draws: how many members are drawn from all of them together, without replacement.

    Returns:
        The expectation: sum over clusters of 1 - C(n - size, draws) / C(n, draws).
    """
    n = int(sizes.sum())

    def log_choose(total: int) -> float:
        return math.lgamma(total + 1) - math.lgamma(draws + 1) - math.lgamma(total - draws + 1)

    missed = [math.exp(log_choose(n - int(s)) - log_choose(n)) if n - s >= draws else 0.0 for s in sizes]
    return len(sizes) - sum(missed)
