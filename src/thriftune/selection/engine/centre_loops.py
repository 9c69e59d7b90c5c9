"""Compiled loops of k-center."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_ZERO = np.float32(0)


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "contract", "reassoc"}, error_model="numpy")
def nearer(g: Array, half_row: Array, half_centre: Array, first: int, squared: Array, nearest: Array) -> None:
    """Lower rows' squared distances to their nearest centre by a tile of products with centres ``first ..``."""
    rows, columns = g.shape
    for i in range(rows):
        best = np.float32(-3e38)
        for j in range(np.uint64(columns)):
            v = g[i, j] - half_centre[j]
            best = v if v > best else best
        d = max(np.float32(2) * (half_row[i] - best), _ZERO)
        if d < squared[i]:
            squared[i] = d
            for j in range(columns):
                if g[i, j] - half_centre[j] == best:
                    nearest[i] = first + j
                    break


@numba.njit(cache=True, nogil=True)
def _precise(x: Array, y: Array) -> float:
    total = 0.0
    for j in range(len(x)):
        difference = np.float64(x[j]) - np.float64(y[j])
        total += difference * difference
    return total


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "contract"}, error_model="numpy")
def farthest_in_batch(
    x: Array,
    half: Array,
    g: Array,
    line: Array,
    squared: Array,
    nearest: Array,
    centres: Array,
    count: int,
    outside: float,
    noise: float,
    limit: int,
    out_row: Array,
    out_squared: Array,
) -> tuple[int, int]:
    """Farthest-first picks among a batch, as long as they are farther than anything outside it.

    Args:
        x: (b, d) the batch, rows in ascending order; half: (b,) half the squared lengths.
        g: products of some of the batch with all of it; line: (b,) which line of ``g`` is whose, or -1.
        squared, nearest: (b,) squared distance to the nearest centre, and which; updated.
        centres: (capacity, d), ``count`` of them filled; picks are appended.
        outside: no row outside the batch is farther than this.
        noise: squared distances that differ by less are compared in double precision.
        limit: picks at most.

    Returns:
        How many were picked into ``out_row`` and ``out_squared``; whose products the next pick needs, or -1.
    """
    size = len(x)
    picks = 0
    while picks < limit:
        most = np.float32(-1)
        for i in range(np.uint64(size)):
            most = squared[i] if squared[i] > most else most
        if most < 0 or most <= outside + noise:
            break
        best, pick = -1.0, -1
        for i in range(size):
            if squared[i] >= most - noise and squared[i] >= 0:
                exact = _precise(x[i], centres[nearest[i]])
                if exact > best:
                    best, pick = exact, i
        if line[pick] < 0:
            return picks, pick
        out_row[picks], out_squared[picks] = pick, best
        centres[count] = x[pick]
        h = half[pick]
        for i in range(size):
            d = max(np.float32(2) * (half[i] + h - g[line[pick], i]), _ZERO)
            if d < squared[i]:
                squared[i] = d
                nearest[i] = count
        squared[pick] = np.float32(-1)
        picks += 1
        count += 1
    return picks, -1


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "contract", "reassoc"}, error_model="numpy")
def nearer_members(
    a: Array,
    half: Array,
    members: Array,
    bounds: Array,
    labels: Array,
    centres: Array,
    centre_half: Array,
    new: Array,
    squared: Array,
    nearest: Array,
) -> None:
    """Lower the squared distances of the members of the clusters ``labels`` by their ``new`` centres."""
    d = np.uint64(a.shape[1])
    for p in range(len(new)):
        c = new[p]
        for m in range(bounds[labels[p]], bounds[labels[p] + 1]):
            row = members[m]
            if squared[row] < 0:
                continue
            product = _ZERO
            for j in range(d):
                product += a[row, j] * centres[c, j]
            s = max(np.float32(2) * (half[row] + centre_half[c] - product), _ZERO)
            if s < squared[row]:
                squared[row] = s
                nearest[row] = c
