"""k-means by Lloyd's algorithm (1982), seeded by k-means++ (Arthur and Vassilvitskii 2007), in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftune.selection.engine.blocks import Run, workers
from thriftune.types import FloatArray, IntArray

_ROWS = 1024
_CENTRES = 4096
_SEEDS = 256  # chosen between two passes over the pool
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Clustering:
    """Clusters and where they lie.

    Args:
        centres: (c, d) float32, the fixed ones first.
        labels: (n,) int64, each row's nearest centre.
        squared: (n,) float32, squared distance to it.
        iterations: how often the centres were moved.
        partial: True when interrupted: there may be fewer centres, or they have not settled.
    """

    centres: FloatArray
    labels: IntArray
    squared: FloatArray
    iterations: int
    partial: bool = False

    @property
    def inertia(self) -> float:
        """Sum of squared distances to the nearest centre."""
        return float(self.squared.sum(dtype=np.float64))


def _ignore(amount: float) -> None:
    pass


def k_means(
    x: FloatArray,
    k: int,
    rng: np.random.Generator,
    *,
    fixed: FloatArray | None = None,
    iterations: int = 20,
    advance: Callable[[float], None] = _ignore,
) -> Clustering:
    """Cluster rows, starting from rows drawn in proportion to their squared distance to the centres there are.

    Args:
        x: (n, d) float32, C order.
        k: how many centres; fewer where there are fewer different rows.
        rng: draws the first centres.
        fixed: (m, d) centres that do not move, or None.
        iterations: at most; it ends sooner when the inertia falls by less than 1e-4 of itself.
        advance: called with 1 when the first centres are drawn and whenever they have moved.

    Returns:
        The clusters; some may be empty. Ctrl-C gives those there are.
    """
    # Distances are small against far-off coordinates, and single precision would lose them.
    origin = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    a = x - origin
    still = np.empty((0, x.shape[1]), np.float32) if fixed is None else fixed - origin
    m = len(still)
    with workers() as run:
        seeds, partial = _seeds(a, min(k, len(a)), still, rng, run)
        centres = np.concatenate([still, a[seeds]])
        labels, squared = nearest_centre(a, centres, run)
        made, before = 0, np.inf
        try:
            advance(1)
            while made < iterations and not partial:
                inertia = float(squared.sum(dtype=np.float64))
                if inertia >= before * (1 - _TOLERANCE):
                    break
                before = inertia
                moved = _means(a, labels, centres)
                moved[:m] = still
                # Together, so that Ctrl-C finds centres and labels that belong to each other.
                (labels, squared), centres, made = nearest_centre(a, moved, run), moved, made + 1
                advance(1)
        except KeyboardInterrupt:
            partial = True
    return Clustering(centres + origin, labels, squared, made, partial)


def nearest_centre(a: FloatArray, centres: FloatArray, run: Run[Any]) -> tuple[IntArray, FloatArray]:
    """(n,) int64 nearest centre of each row, the lowest on ties, and (n,) float32 squared distance to it."""
    half = np.einsum("ij,ij->i", centres, centres) / 2
    labels, squared = np.zeros(len(a), np.int64), np.empty(len(a), np.float32)

    def part(begin: int) -> None:
        rows = a[begin : begin + _ROWS]
        best = np.full(len(rows), -np.inf, np.float32)
        for first in range(0, len(centres), _CENTRES):
            product = rows @ centres[first : first + _CENTRES].T - half[first : first + _CENTRES]
            where = product.argmax(axis=1)
            value = product[np.arange(len(rows)), where]
            nearer = value > best
            labels[begin : begin + _ROWS][nearer] = first + where[nearer]
            best[nearer] = value[nearer]
        # Products tell which is nearest; how far it is, among far-off coordinates, only the difference tells.
        apart = rows - centres[labels[begin : begin + _ROWS]]
        squared[begin : begin + _ROWS] = np.einsum("ij,ij->i", apart, apart)

    run(part, range(0, len(a), _ROWS))
    return labels, squared


def _means(a: FloatArray, labels: IntArray, centres: FloatArray) -> FloatArray:
    """Means of the clusters; an empty one stays where it is."""
    sums = np.zeros(centres.shape)
    for begin in range(0, len(a), 8 * _ROWS):
        some = labels[begin : begin + 8 * _ROWS]
        order = np.argsort(some, kind="stable")
        found, starts = np.unique(some[order], return_index=True)
        sums[found] += np.add.reduceat(a[begin : begin + 8 * _ROWS][order].astype(np.float64), starts, axis=0)
    counts = np.bincount(labels, minlength=len(centres))
    moved = centres.copy()
    used = counts > 0
    moved[used] = sums[used] / counts[used, None]
    return moved


def _seeds(a: FloatArray, k: int, still: FloatArray, rng: np.random.Generator, run: Run[Any]) -> tuple[list[int], bool]:
    """Up to ``k`` different rows, each drawn in proportion to its squared distance to the nearest one before.

    The second value is True when Ctrl-C ended it with those drawn so far, at least one.

    Distances are brought up to date once for many draws. A row drawn by its old distance is kept with the chance that
    its true one has of the old one, which leaves the distribution as it should be.
    """
    rows: list[int] = []
    if len(still):
        weight = nearest_centre(a, still, run)[1].astype(np.float64)
    else:
        rows.append(int(rng.integers(len(a))))
        weight = nearest_centre(a, a[rows], run)[1].astype(np.float64)
    # What is nearer than single precision can tell is the same place.
    noise = 1e-6 * float(np.einsum("ij,ij->i", a, a).max(initial=0))
    try:
        while len(rows) < k:
            weight[weight <= noise] = 0
            weight[rows] = 0
            sums = np.cumsum(weight)
            if sums[-1] <= 0:
                break
            drawn: list[int] = []
            tries = 0
            while len(drawn) < min(_SEEDS, k - len(rows)) and tries < 16 + 2 * len(drawn):
                tries += 1
                row = min(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")), len(a) - 1)
                true = weight[row]
                if drawn:
                    true = min(true, float(((a[drawn] - a[row]) ** 2).sum(axis=1).min()))
                if rng.random() * weight[row] < true and true > noise:
                    drawn.append(row)
            rows += drawn
            weight = np.minimum(weight, nearest_centre(a, a[drawn], run)[1])
    except KeyboardInterrupt:
        if not rows:
            raise
        return rows, True
    return rows, False
