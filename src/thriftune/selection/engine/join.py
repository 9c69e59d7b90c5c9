"""Neighbours found by comparing the rows of clusters with those of the clusters near them; here and elsewhere."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.sharing import helped
from thriftune.types import FloatArray, IntArray

Array = npt.NDArray[Any]
_TILE = 1024
_ZERO = np.float32(0)
_NONE = np.float32(-3e38)
_SHARE = 2**15  # rows whose neighbours another machine is to find, and is sent the rows near them for


def pairs_of(near: Sequence[IntArray]) -> IntArray:
    """Which clusters are joined: the lower and the higher number, whether for the one and whether for the other."""
    c, q = np.repeat(np.arange(len(near)), [len(of_c) for of_c in near]), np.concatenate(near)
    both, place = np.unique(np.minimum(c, q) * len(near) + np.maximum(c, q), return_inverse=True)
    pairs = np.zeros((len(both), 4), np.int64)
    pairs[:, 0], pairs[:, 1] = np.divmod(both, len(near))
    pairs[place[c <= q], 2] = 1
    pairs[place[c > q], 3] = 1
    return pairs


def join(
    a: FloatArray,
    half: FloatArray,
    bounds: IntArray,
    shift: IntArray,
    owned: int,
    pairs: IntArray,
    degree: int,
    run: Run[Any],
) -> tuple[IntArray, FloatArray]:
    """Neighbours of rows, each from the clusters near its own; nothing depends on what else is joined with them.

    Args:
        a: (m, d) float32, rows of some clusters, cluster after cluster.
        half: (m,) float32, half their squared lengths.
        bounds: (c + 1,) where each cluster's rows begin.
        shift: (c,) what a row's number is above its place in ``a``, by cluster.
        owned: of how many clusters, the first ones, neighbours are sought.
        pairs: (p, 4) of clusters, by place, see `pairs_of`; the one with the lower number first.
        degree: neighbours per row.
        run: threads.

    Returns:
        (rows, degree) int32 numbers, -1 where fewer were found, and products less half lengths; in no order.
    """
    n = int(bounds[owned])
    value = np.full((n, degree), _NONE, np.float32)
    index = np.full((n, degree), -1, np.int32)
    worst = np.full(n, _NONE, np.float32)
    locks = [threading.Lock() for _ in range(owned)]
    by_first: dict[int, list[tuple[int, int, int]]] = {}
    for c, q, for_c, for_q in pairs.tolist():
        by_first.setdefault(c, []).append((q, for_c, for_q))
    local = threading.local()

    def of_cluster(c: int) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = np.empty(_TILE * _TILE, np.float32)
        tiles = itertools.product(by_first[c], _slices(bounds[c], bounds[c + 1]))
        for (q, for_c, for_q), i in tiles:
            for j in _slices(bounds[q], bounds[q + 1]):
                left, right = a[i], a[j]
                g = local.buffer[: len(left) * len(right)].reshape(len(left), len(right))
                np.dot(left, right.T, out=g)
                if for_c:
                    with locks[c]:
                        join_rows(g, half[i], half[j], j.start + int(shift[q]), value[i], index[i], worst[i])
                if for_q:
                    with locks[q]:
                        join_columns(g, half[i], half[j], i.start + int(shift[c]), value[j], index[j], worst[j])

    run(of_cluster, list(by_first))
    return index, value


def join_by_shares(
    a: FloatArray,
    half: FloatArray,
    order: IntArray,
    bounds: IntArray,
    group: IntArray,
    pairs: IntArray,
    degree: int,
    run: Run[Any],
) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """`join` of all clusters in shares, by helpers where there are any.

    Args:
        a: (n, d) float32; half: (n,).
        order: (n,) rows, cluster after cluster; bounds: where in that each cluster begins.
        group: (c,) of each cluster; the same number means that they are near each other.
        pairs, degree, run: see `join`.

    Yields:
        Places (m,) in ``order``, and what `join` returns for them; in any order.
    """
    shares = _shares(group, bounds)
    share_of = np.empty(len(group), np.int64)
    for number, share in enumerate(shares):
        share_of[share] = number

    def tasks() -> Iterator[tuple[Any, ...]]:
        for number, share in enumerate(shares):
            mine = pairs.copy()
            mine[:, 2] &= share_of[pairs[:, 0]] == number
            mine[:, 3] &= share_of[pairs[:, 1]] == number
            mine = mine[(mine[:, 2] | mine[:, 3]) > 0]
            there = np.concatenate([share, np.setdiff1d(mine[:, :2], share)])
            place = np.zeros(len(group), np.int64)
            place[there] = np.arange(len(there))
            rows, size = _rows_of(there, bounds), np.diff(bounds)[there]
            begin = np.concatenate([[0], np.cumsum(size)])
            mine[:, :2] = place[mine[:, :2]]
            yield a[order[rows]], half[order[rows]], begin, bounds[there] - begin[:-1], len(share), mine, degree

    for number, (found, product) in helped(join, tasks(), run):
        yield _rows_of(shares[number], bounds), found, product


def _shares(group: IntArray, bounds: IntArray) -> list[IntArray]:
    """Clusters divided into shares of about as many rows, those of a group together; ascending in each."""
    by_group = np.argsort(group, kind="stable")
    before = np.cumsum(np.diff(bounds)[by_group]) - np.diff(bounds)[by_group]
    number = before // _SHARE
    return [np.sort(by_group[number == s]) for s in np.unique(number)]


def _rows_of(some: IntArray, bounds: IntArray) -> IntArray:
    return np.concatenate([np.arange(bounds[c], bounds[c + 1]) for c in some])


def _slices(begin: int, end: int) -> list[slice]:
    return [slice(b, min(b + _TILE, end)) for b in range(int(begin), int(end), _TILE)]


@numba.njit(cache=True, nogil=True)
def _keep(value: Array, index: Array, v: float, i: int) -> None:
    """Put a neighbour into a full heap whose root is the worst: the smallest value, the highest index on ties."""
    size = len(value)
    p = 0
    while True:
        c = 2 * p + 1
        if c >= size:
            break
        if c + 1 < size and (value[c + 1] < value[c] or (value[c + 1] == value[c] and index[c + 1] > index[c])):
            c += 1
        if value[c] < v or (value[c] == v and index[c] > i):
            value[p], index[p] = value[c], index[c]
            p = c
        else:
            break
    value[p], index[p] = v, i


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "contract"}, error_model="numpy")
def join_rows(g: Array, half_i: Array, half_j: Array, first_j: int, value: Array, index: Array, worst: Array) -> None:
    """Offer the columns of a tile of products to its rows as neighbours.

    Args:
        g: (b, c) products; half_i, half_j: half the squared lengths.
        first_j: number of the first column.
        value, index: (b, t) heaps of minus half the squared distance; worst: (b,) float32, their roots.
    """
    rows, columns = g.shape
    buffer = np.empty(32, np.float32)
    for i in range(rows):
        h = half_i[i]
        for begin in range(0, columns, 32):
            first = np.uint64(begin)
            run = np.uint64(min(32, columns - begin))
            most = np.float32(-3e38)
            for j in range(run):
                v = min(g[i, first + j] - h - half_j[first + j], _ZERO)
                buffer[j] = v
                most = v if v > most else most
            if most < worst[i]:
                continue
            for j in range(run):
                v = buffer[j]
                if v > worst[i] or (v == worst[i] and first_j + begin + np.int64(j) < index[i, 0]):
                    _keep(value[i], index[i], v, np.int32(first_j + begin + np.int64(j)))
                    worst[i] = value[i, 0]


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "contract"}, error_model="numpy")
def join_columns(
    g: Array, half_i: Array, half_j: Array, first_i: int, value: Array, index: Array, worst: Array
) -> None:
    """Offer the rows of a tile of products to its columns as neighbours; see ``join_rows``."""
    rows, columns = g.shape
    buffer = np.empty(32, np.float32)
    for i in range(rows):
        h = half_i[i]
        for begin in range(0, columns, 32):
            first = np.uint64(begin)
            run = np.uint64(min(32, columns - begin))
            most = np.float32(-3e38)
            for j in range(run):
                v = min(g[i, first + j] - h - half_j[first + j], _ZERO)
                buffer[j] = v
                v -= worst[first + j]
                most = v if v > most else most
            if most < _ZERO:
                continue
            for j in range(run):
                v, q = buffer[j], first + j
                if v > worst[q] or (v == worst[q] and first_i + i < index[q, 0]):
                    _keep(value[q], index[q], v, np.int32(first_i + i))
                    worst[q] = value[q, 0]
