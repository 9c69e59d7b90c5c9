"""Which clusters are compared with which, so that nearly all of the nearest neighbours of a sample are found.

Neighbours are in clusters that overlap: whose centres are near for how far their rows lie from them. How near is read
off the true neighbours of a sample, so that pools with clear clusters cost little and others are not left half done.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.join import join_rows
from thriftune.types import BoolArray, FloatArray, IntArray

_RECALL = 0.985  # of the sample's nearest neighbours are to be found
_SAMPLE = 256
_MOST = 6e12  # operations: what the join takes at most, a minute or two of CPU time
_LISTED = 256  # clusters near each that are considered
_MEMBERS = 64  # rows of a cluster that say how far its rows lie from the centre
_TILE = 1024
_COLUMNS = 65_536


def clusters_in_reach(
    a: FloatArray, half: FloatArray, centres: FloatArray, order: IntArray, bounds: IntArray, degree: int, run: Run[Any]
) -> tuple[list[IntArray], float]:
    """The clusters that each is compared with, itself among them.

    Args:
        a: (n, d) float32; half: (n,) float32, half the squared length of each row.
        centres: (c, d) float32.
        order: (n,) rows, cluster after cluster; bounds: (c + 1,) where in that each begins.
        degree: how many nearest neighbours are wanted.
        run: threads.

    Returns:
        (c,) arrays of clusters, and which share of the nearest neighbours of a sample of rows those hold.
    """
    size = np.diff(bounds)
    label = np.empty(len(a), np.int64)
    label[order] = np.repeat(np.arange(len(size)), size)
    spread = _spread(a, half, centres, order, label)
    near, overlap = _nearest_by_overlap(centres, spread, size, run)
    rows = np.sort(np.random.default_rng(1).choice(len(a), min(len(a), _SAMPLE), replace=False))
    true = true_neighbours(a, half, rows, degree, run)
    own, other = label[rows], label[true]
    difference = centres[own][:, None] - centres[other]
    needed = _overlap(np.einsum("ijk,ijk->ij", difference, difference), spread[own][:, None] + spread[other])
    needed[other == own[:, None]] = 0
    needed[needed > overlap[own].max(axis=1)[:, None]] = np.inf  # not among those considered
    limit = float(np.quantile(needed, _RECALL, method="higher"))
    # Both of a pair are looked for in one product: half of the products, two operations each.
    level = np.sort(overlap.ravel())
    work = np.cumsum((size[:, None] * size[near]).ravel()[np.argsort(overlap.ravel(), kind="stable")]) * a.shape[1]
    affordable = int(np.searchsorted(work, _MOST, "right"))
    if affordable < len(level):
        limit = min(limit, float(level[max(affordable - 1, 0)]))
    kept: BoolArray = overlap <= np.float32(min(limit, 3e38))
    kept[:, 0] = True
    return [c[k] for c, k in zip(near, kept, strict=True)], float(np.mean(needed <= limit))


def _overlap(squared: FloatArray, spread: FloatArray) -> FloatArray:
    """How far apart clusters are for how far their rows lie from their centres."""
    return np.maximum(squared, 0) / np.maximum(spread, 1e-30)


def _spread(a: FloatArray, half: FloatArray, centres: FloatArray, order: IntArray, label: IntArray) -> FloatArray:
    """(c,) float32: the mean squared distance of rows to their centre, by some of them."""
    some = order[:: max(1, len(a) // (_MEMBERS * len(centres)))]
    total, count = np.zeros(len(centres)), np.bincount(label[some], minlength=len(centres))
    for begin in range(0, len(some), _TILE):
        rows = some[begin : begin + _TILE]
        difference = a[rows] - centres[label[rows]]
        total += np.bincount(label[rows], np.einsum("ij,ij->i", difference, difference), len(centres))
    return (total / np.maximum(count, 1)).astype(np.float32)


def _nearest_by_overlap(
    centres: FloatArray, spread: FloatArray, size: IntArray, run: Run[Any]
) -> tuple[IntArray, FloatArray]:
    """(c, m) clusters that overlap each most, itself first, and (c, m) float32 how much: 0 is most."""
    squared = np.einsum("ij,ij->i", centres, centres)
    count = min(_LISTED, len(centres))
    near, overlap = np.empty((len(centres), count), np.int64), np.empty((len(centres), count), np.float32)

    def part(first: int) -> None:
        own = np.arange(first, min(first + _TILE, len(centres)))
        distance = squared[own, None] + squared - 2 * (centres[own] @ centres.T)
        found = _overlap(distance, spread[own, None] + spread)
        found[:, size == 0] = np.inf
        found[own - first, own] = -1
        listed = np.argpartition(found, count - 1, axis=1)[:, :count]
        listed = np.take_along_axis(listed, np.argsort(np.take_along_axis(found, listed, 1), axis=1, kind="stable"), 1)
        near[own], overlap[own] = listed, np.maximum(np.take_along_axis(found, listed, 1), 0)

    run(part, range(0, len(centres), _TILE))
    return near, overlap


def true_neighbours(a: FloatArray, half: FloatArray, rows: IntArray, degree: int, run: Run[Any]) -> IntArray:
    """(r, degree) the rows nearest ``rows`` (r,), themselves included, in no order."""
    n = len(a)
    begins = range(0, n, _COLUMNS)
    value = np.full((len(begins), len(rows), degree), -np.inf, np.float32)
    index = np.full((len(begins), len(rows), degree), -1, np.int32)
    mine, half_mine = a[rows], half[rows]

    def part(begin: int) -> None:
        heap, who = value[begin // _COLUMNS], index[begin // _COLUMNS]
        worst = np.full(len(rows), -np.inf, np.float32)
        for first in range(begin, min(begin + _COLUMNS, n), _TILE):
            some = slice(first, min(first + _TILE, begin + _COLUMNS, n))
            join_rows(mine @ a[some].T, half_mine, half[some], first, heap, who, worst)

    run(part, begins)
    values, indices = (np.concatenate(list(found), axis=1) for found in (value, index))
    return np.take_along_axis(indices, np.argpartition(-values, degree - 1, axis=1)[:, :degree], axis=1)
