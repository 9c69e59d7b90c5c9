"""The graph of nearest neighbours by an inverted-file self-join, and greedy on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.join import join, join_by_shares, pairs_of
from thriftune.selection.engine.reach import clusters_in_reach
from thriftune.selection.engine.sharing import helpers
from thriftune.selection.engine.tiles import to_similarity as scale_to_similarity
from thriftune.selection.engine.width import Similarity
from thriftune.types import BoolArray, FloatArray, IntArray

Array = npt.NDArray[Any]
_TILE = 1024
_CLUSTER = 256  # rows per cluster aimed at
_FAR = np.float32(-1e30)  # a half squared distance that can be multiplied, where there is no neighbour
_MANY = 1024  # clusters from which a row is not compared with all of them


def neighbour_graph(
    sim: Similarity, degree: int, run: Run[Any], notes: dict[str, Any] | None = None
) -> tuple[IntArray, FloatArray]:
    """Each row's nearest rows, itself included, as far as the join finds them.

    Args:
        sim: the pool.
        degree: neighbours per row.
        run: threads.
        notes: gets ``degree``, ``probes``: how many clusters a cluster is compared with on average, and ``recall``:
            which share of the true neighbours of a sample of rows is among those found.

    Returns:
        (n, degree) int32 rows, -1 where fewer were found, and (n, degree) float32 similarities; in no order.
    """
    n = len(sim)
    index = np.empty((n, degree), np.int32)
    value = np.empty((n, degree), np.float32)
    for rows, found, similarity in neighbours_by_shares(sim, degree, run, notes, whole=helpers.get() is None):
        index[rows], value[rows] = found, similarity
    return index, value


def neighbours_by_shares(
    sim: Similarity, degree: int, run: Run[Any], notes: dict[str, Any] | None = None, *, whole: bool = False
) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """The `neighbour_graph` in shares of rows that are near each other; or as one.

    Yields:
        Rows (m,), and their neighbours and similarities (m, degree); in any order.
    """
    centres, labels = clusters(sim.a, max(1, round(len(sim) / _CLUSTER)), run)
    order, bounds = by_label(labels, len(centres))
    # Under cosine all rows count as unit vectors: minus half the squared distance is then the product less 1.
    half = np.full(len(sim), 0.5, np.float32) if sim.gamma is None else sim.half
    near, recall = clusters_in_reach(sim.a, half, centres, order, bounds, degree, run)
    if notes is not None:
        notes.update(degree=degree, probes=round(sum(map(len, near)) / len(near), 1), recall=round(recall, 4))
    pairs = pairs_of(near)
    if whole:
        found = join(sim.a[order], half[order], bounds, np.zeros_like(bounds), len(centres), pairs, degree, run)
        shares: Iterator[tuple[IntArray, IntArray, FloatArray]] = iter([(np.arange(len(sim)), *found)])
    else:
        _, group = clusters(centres, max(1, round(math.sqrt(len(centres)))), run)
        shares = join_by_shares(sim.a, half, order, bounds, group, pairs, degree, run)
    zeros, ones = np.zeros(max(degree, _TILE), np.float32), np.ones(max(degree, _TILE), np.float32)
    for places, *found_there in shares:
        index, value = (np.require(array, requirements="W") for array in found_there)  # helpers may send them locked

        def to_similarity(
            first: int, index: IntArray = index, value: FloatArray = value, rows: IntArray = order[places]
        ) -> None:
            part = slice(first, first + _TILE)
            index[part] = np.where(index[part] >= 0, order[index[part]], -1)
            if sim.gamma is None:
                value[part] += 1
            if sim.local:
                np.maximum(value[part], _FAR, out=value[part])
                value[part] *= sim.rate[rows[part], None] * sim.rate[index[part]]
            size = len(value[part])
            plain = zeros[:size], zeros[:degree], ones[:size], ones[:degree]
            scale_to_similarity(value[part], *plain, np.float32(sim.scale))

        run(to_similarity, range(0, len(index), _TILE))
        yield order[places], index, value


def clusters(a: FloatArray, count: int, run: Run[Any]) -> tuple[FloatArray, IntArray]:
    """k-means on a sample: (count, d) float32 centres, and each row's nearest centre."""
    rng = np.random.default_rng(0)
    sample = a[np.sort(rng.choice(len(a), min(len(a), count * 32), replace=False))]
    centres = sample[np.sort(rng.choice(len(sample), min(count, len(sample)), replace=False))].copy()
    for _ in range(3):
        labels = _nearest(sample, centres, run)
        order, bounds = by_label(labels, len(centres))
        used = np.flatnonzero(np.diff(bounds))
        centres[used] = np.add.reduceat(sample[order], bounds[used], axis=0) / np.diff(bounds)[used, None]
    return centres, _nearest(a, centres, run)


def by_label(labels: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """Rows ordered by label, and where each label's rows begin (count + 1,)."""
    order = np.argsort(labels, kind="stable")
    return order, np.searchsorted(labels[order], np.arange(count + 1))


def _near_clusters(centres: FloatArray, used: BoolArray, probes: int, run: Run[Any]) -> IntArray:
    """(clusters, probes) the clusters nearest each, itself among them."""
    squared = np.einsum("ij,ij->i", centres, centres)
    near = np.empty((len(centres), min(probes, len(centres))), np.int64)

    def probe(first: int) -> None:
        part = slice(first, first + _TILE)
        distance = squared - 2 * (centres[part] @ centres.T)
        distance[:, ~used] = np.inf
        own = np.arange(first, min(first + _TILE, len(centres)))
        distance[own - first, own] = -np.inf
        near[part] = np.argpartition(distance, near.shape[1] - 1, axis=1)[:, : near.shape[1]]

    run(probe, range(0, len(centres), _TILE))
    return near


def _nearest(a: FloatArray, centres: FloatArray, run: Run[Any]) -> IntArray:
    """Each row's nearest centre; where there are many, among those near the row's nearest group of centres."""
    labels = np.empty(len(a), np.int64)
    half = (np.einsum("ij,ij->i", centres, centres) / 2).astype(np.float32)
    if len(centres) < _MANY:
        run(
            lambda first: _label(np.arange(first, min(first + _TILE, len(a))), slice(None), a, centres, half, labels),
            range(0, len(a), _TILE),
        )
        return labels
    middles, group = clusters(centres, round(math.sqrt(len(centres))), run)
    ordered, bounds = by_label(group, len(middles))
    near = _near_clusters(middles, np.diff(bounds) > 0, 8, run)
    rows, row_bounds = by_label(_nearest(a, middles, run), len(middles))

    def of_group(g: int) -> None:
        among = np.sort(np.concatenate([ordered[bounds[q] : bounds[q + 1]] for q in near[g]]))
        for begin in range(row_bounds[g], row_bounds[g + 1], _TILE):
            _label(rows[begin : min(begin + _TILE, row_bounds[g + 1])], among, a, centres, half, labels)

    run(of_group, range(len(middles)))
    return labels


def _label(
    rows: IntArray, among: IntArray | slice, a: FloatArray, centres: FloatArray, half: FloatArray, labels: IntArray
) -> None:
    product = a[rows] @ centres[among].T
    product -= half[among]
    best = product.argmax(axis=1)
    labels[rows] = best if isinstance(among, slice) else among[best]


def reverse(index: IntArray, value: FloatArray, cover: FloatArray) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Candidates' lists (start, length, index, value) of the rows that have them as neighbours."""
    n = len(index)
    length = np.zeros(n, np.int32)
    start = np.zeros(n, np.int64)
    reverse_lists(index, value, cover, start, length, np.empty(0, np.int32), np.empty(0, np.float32))
    np.cumsum(length[:-1], out=start[1:])
    total = int(length.sum())
    out_index, out_value = np.empty(total, np.int32), np.empty(total, np.float32)
    length[:] = 0
    if total:
        reverse_lists(index, value, cover, start, length, out_index, out_value)
    return start, length, out_index, out_value


@numba.njit(cache=True, nogil=True)
def reverse_lists(
    index: Array, value: Array, cover: Array, start: Array, length: Array, out_index: Array, out_value: Array
) -> None:
    """Neighbour lists (n, t) turned round: for each candidate, the rows that have it as a neighbour.

    Called first with empty outputs, to count into ``length``; then to write behind ``start``.
    """
    n, t = index.shape
    counting = len(out_index) == 0
    for v in range(n):
        for p in range(t):
            a = index[v, p]
            if a >= 0 and value[v, p] > cover[v]:
                if not counting:
                    w = start[a] + length[a]
                    out_index[w] = v
                    out_value[w] = value[v, p]
                length[a] += 1
