"""k-center by farthest-first traversal (Gonzalez 1985), exact and without a distance matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thriftune.types import FloatArray, IntArray

_BLOCK = 4096


@dataclass(frozen=True)
class FarthestResult:
    """What the traversal chose.

    Args:
        rows: (budget,) int64 in pick order.
        distances: (budget,) float64, Euclidean distance to the nearest earlier centre when picked; infinite for the
            first pick when nothing was chosen before.
        radius: the largest distance of any row to its nearest centre. Half of it bounds from below what any choice
            of as many centres can reach.
        partial: True when interrupted.
    """

    rows: IntArray
    distances: FloatArray
    radius: float
    partial: bool


def k_center(
    x: FloatArray, budget: int, *, chosen: IntArray, start: int | None, advance: Callable[[float], None]
) -> FarthestResult:
    """Pick the row farthest from everything picked, ``budget`` times.

    Args:
        x: (n, d) float32, C order.
        budget: how many rows to pick, at most n - m.
        chosen: (m,) rows that count as centres already.
        start: the first pick when ``chosen`` is empty; None: the row nearest the mean.
        advance: called with the number of picks made since the last call.

    Returns:
        Picks; ties go to the lowest row, and rows that coincide with a centre come last.
    """
    n = len(x)
    rows = np.empty(budget, np.int64)
    distances = np.empty(budget)
    nearest = np.full(n, np.inf)
    taken = np.zeros(n, bool)
    taken[chosen] = True
    for row in chosen:
        np.minimum(nearest, _squared_distances(x, int(row)), out=nearest)
    done = 0
    try:
        while done < budget:
            if done == 0 and len(chosen) == 0:
                pick = nearest_to_mean(x) if start is None else start
            else:
                pick = int(np.where(taken, -1.0, nearest).argmax())
            rows[done], distances[done] = pick, np.sqrt(nearest[pick])
            taken[pick] = True
            np.minimum(nearest, _squared_distances(x, pick), out=nearest)
            done += 1
            advance(1)
    except KeyboardInterrupt:
        pass
    return FarthestResult(rows[:done], distances[:done], float(np.sqrt(nearest.max())), done < budget)


def nearest_to_mean(x: FloatArray) -> int:
    """The row nearest the mean of all rows, the lowest on ties."""
    mean = x.mean(axis=0, dtype=np.float64)
    best, best_row = np.inf, 0
    for begin in range(0, len(x), _BLOCK):
        difference = x[begin : begin + _BLOCK] - mean
        squared = np.einsum("ij,ij->i", difference, difference)
        row = int(squared.argmin())
        if squared[row] < best:
            best, best_row = squared[row], begin + row
    return best_row


def _squared_distances(x: FloatArray, row: int) -> FloatArray:
    result = np.empty(len(x))
    for begin in range(0, len(x), _BLOCK):
        difference = x[begin : begin + _BLOCK] - x[row]
        result[begin : begin + _BLOCK] = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return result
