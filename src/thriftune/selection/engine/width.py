"""Similarities between rows: their kernel and its width."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from thriftune.errors import StrategyError
from thriftune.selection.engine.device import Rows
from thriftune.selection.engine.tiles import row_hashes, to_similarity
from thriftune.types import FloatArray, IntArray

_FLOOR = 0.01  # narrower, and a pool of near duplicates would leave everything else without any similarity
_ROUNDING = 1e-4  # of the mean squared distance: shorter ones are products' rounding errors
_SAMPLE = 512
_BLOCK = 8192
_NEIGHBOUR = 7  # Zelnik-Manor and Perona 2004
_CROWD = 8192  # rows among which it is looked for


class Similarity:
    """Blocks of the similarity matrix, computed when asked for.

    Every kernel is a function of a product: w_ij = exp(min(0, c r_i r_j (<a_i, a_j> - h_i - h_j))) for ``rbf`` and
    ``local``, and max(0, <a_i, a_j>) for ``cosine``.

    Args:
        a: (n, d) float32, rows shifted (rbf, local) or scaled to unit length (cosine).
        half: (n,) float32, half the squared length of each row; zeros for cosine.
        scale: c = 2 / (gamma * width) for rbf, 1 / gamma for local, 0 for cosine.
        gamma: as resolved; None for cosine.
        floored: the automatic gamma met its floor.
        width: mean squared distance between different rows of the pool; for local the median of what stands for it.
        rate: (n,) float32, 1 / the distance of each row to its 7th neighbour, for local; None for the others.
    """

    def __init__(
        self,
        a: FloatArray,
        half: FloatArray,
        scale: float,
        gamma: float | None,
        floored: bool,
        width: float,
        rate: FloatArray | None = None,
    ) -> None:
        self.a, self.half, self.scale, self.gamma, self.floored, self.width = a, half, scale, gamma, floored, width
        self.local = rate is not None
        self.rate = np.ones(len(a), np.float32) if rate is None else rate
        self.on_device: Rows | None = None

    def __len__(self) -> int:
        return len(self.a)

    def block(self, left: IntArray | slice, right: IntArray | slice, out: FloatArray | None = None) -> FloatArray:
        """(b, c) float32 similarities of the rows ``left`` with the rows ``right``; may use ``out`` (b * c,)."""
        if self.on_device is not None:
            product = self.on_device.products(left, right)
        else:
            a, b = self.a[left], self.a[right]
            product = np.dot(a, b.T, out=None if out is None else out[: len(a) * len(b)].reshape(len(a), len(b)))
        halves, rates = (self.half[left], self.half[right]), (self.rate[left], self.rate[right])
        to_similarity(product, *halves, *rates, np.float32(self.scale))
        return product

    def take(self, rows: IntArray) -> Similarity:
        """The same kernel over some of the rows."""
        rate = self.rate[rows] if self.local else None
        return Similarity(self.a[rows], self.half[rows], self.scale, self.gamma, self.floored, self.width, rate)

    def own(self, rows: IntArray) -> FloatArray:
        """(len(rows),) similarity of each row with itself: 1, or 0 for a vector of length zero under cosine."""
        if self.gamma is None:
            return np.asarray(np.any(self.a[rows], axis=1), np.float32)
        return np.ones(len(rows), np.float32)

    def notes(self) -> dict[str, Any]:
        """What was decided, for the record of the selection."""
        if self.gamma is None:
            return {"kernel": "cosine"}
        notes: dict[str, Any] = {"kernel": "local" if self.local else "rbf", "gamma": self.gamma, "width": self.width}
        if self.floored:
            notes["gamma_floored"] = True
        return notes


def similarity(x: FloatArray, kernel: str, gamma: float | Literal["auto"], centres: int) -> Similarity:
    """Resolve a kernel for a pool.

    Args:
        x: (n, d) float32.
        kernel: ``rbf``: exp(-squared distance / (gamma * mean squared distance)); ``local``: exp(-squared distance /
            (2 gamma s_i s_j)) with the distances s of the two rows to their 7th neighbour, with ``gamma`` 0.5 the
            affinity of Zelnik-Manor and Perona 2004; ``cosine``: clipped at 0.
        gamma: width of ``rbf`` and ``local``; ``auto``, for ``rbf``: the one at which a typical row's similarity to
            its ceil(n / centres)-th distinct neighbour is one half.
        centres: how many rows will cover the pool, those already chosen included.

    Raises:
        StrategyError: ``gamma`` is not a positive number, or ``auto`` for ``local``.
    """
    if kernel == "cosine":
        lengths = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
        lengths[lengths == 0] = 1
        unit = x / lengths[:, None].astype(np.float32)
        return Similarity(unit, np.zeros(len(x), np.float32), 0.0, None, False, 0.0)
    if gamma != "auto" and not (math.isfinite(gamma) and gamma > 0):
        raise StrategyError(f"gamma is {gamma!r}: give a positive number or 'auto'")
    if gamma == "auto" and kernel == "local":
        raise StrategyError("kernel=local has a width for every prompt: leave gamma=auto out")
    a = shifted(x)
    squared = np.einsum("ij,ij->i", a, a, dtype=np.float64)
    width = _mean_squared_distance(a, squared)
    half = (squared / 2).astype(np.float32)
    if kernel == "local":
        assert gamma != "auto"
        near = _to_neighbour(a, half)
        near = np.maximum(near, max(_FLOOR * float(np.median(near)), _ROUNDING * width))
        rate = (1 / np.sqrt(near)).astype(np.float32)
        return Similarity(a, half, 1 / gamma, float(gamma), False, 2 * float(np.median(near)), rate)
    if gamma != "auto":
        return Similarity(a, half, 2 / (gamma * width), float(gamma), False, width)
    typical = _typical_squared_distance(a, half, math.ceil(len(a) / max(centres, 1)))
    fitted = typical / (width * math.log(2))
    used = max(fitted, _FLOOR)
    return Similarity(a, half, 2 / (used * width), used, fitted < _FLOOR, width)


def shifted(x: FloatArray) -> FloatArray:
    """Rows relative to the row nearest the mean where the mean dominates: products of far-off rows lose digits."""
    mean = x.mean(axis=0, dtype=np.float64)
    if mean @ mean * len(x) <= 0.25 * float(np.einsum("ij,ij->", x, x, dtype=np.float64)):
        return x
    return x - x[nearest_to_mean(x)]


def nearest_to_mean(x: FloatArray) -> int:
    """The row nearest the mean of all rows, the lowest on ties."""
    mean = x.mean(axis=0, dtype=np.float64)
    squared = np.empty(len(x))
    for begin in range(0, len(x), _BLOCK):
        difference = x[begin : begin + _BLOCK] - mean
        squared[begin : begin + _BLOCK] = np.einsum("ij,ij->i", difference, difference)
    # Rows at the same distance differ in the last digit by the order in which their coordinates are added.
    return int(np.flatnonzero(squared <= squared.min() * (1 + 1e-12))[0])


def _mean_squared_distance(a: FloatArray, squared: FloatArray) -> float:
    n = len(a)
    mean = a.mean(axis=0, dtype=np.float64)
    width = 2 * (float(squared.sum()) - n * float(mean @ mean)) / max(n - 1, 1)
    # Identical rows: every similarity is 1 whatever the width.
    return width if width > 1e-12 * float(squared.sum() / n) + 1e-300 else 1.0


def _typical_squared_distance(a: FloatArray, half: FloatArray, rank: int) -> float:
    first, _ = distinct(a)
    base, base_half = (a, half) if len(first) == len(a) else (a[first], half[first])
    rank = min(rank, len(base) - 1)
    if rank == 0:
        return 0.0
    sample = np.sort(np.random.default_rng(0).choice(len(a), min(len(a), _SAMPLE), replace=False))
    # A row of the pool is one of its own distinct neighbours, at distance 0: hence position ``rank``, not rank - 1.
    return float(np.median(_at_rank(a, half, sample, base, base_half, rank)))


def _to_neighbour(a: FloatArray, half: FloatArray) -> FloatArray:
    """(n,) squared distance of each row to its 7th distinct neighbour, in a sample of the pool where it is large."""
    first, group = distinct(a)
    rows, halves = (a, half) if len(first) == len(a) else (a[first], half[first])
    base = np.arange(len(rows))
    if len(rows) > _CROWD:
        base = np.sort(np.random.default_rng(0).choice(len(rows), _CROWD, replace=False))
    rank = min(_NEIGHBOUR, len(base) - 1)
    found = np.zeros(len(rows))
    if rank:
        outside = np.setdiff1d(np.arange(len(rows)), base)
        for some, place in ((base, rank), (outside, rank - 1)):  # a row of the sample is its own nearest
            found[some] = _at_rank(rows, halves, some, rows[base], halves[base], place)
    return found[group]


def _at_rank(
    a: FloatArray, half: FloatArray, rows: IntArray, base: FloatArray, base_half: FloatArray, rank: int
) -> FloatArray:
    """(len(rows),) squared distance of each of the rows of ``a`` to its nearest but ``rank`` of the rows ``base``."""
    distances = np.empty(len(rows))
    for begin in range(0, len(rows), 64):
        some = rows[begin : begin + 64]
        product = a[some] @ base.T
        product -= base_half
        closest = np.partition(product, -1 - rank, axis=1)[:, -1 - rank]
        distances[begin : begin + 64] = np.maximum(2 * (half[some] - closest), 0)
    return distances


def distinct(a: FloatArray) -> tuple[IntArray, IntArray]:
    """The first row of each set of identical rows, ascending, and for each row which of those it equals."""
    factors = np.random.default_rng(0).integers(1, 2**63, a.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(a), np.uint64)
    row_hashes(np.ascontiguousarray(a).view(np.uint32), factors, hashes)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return first[order], rank[group]
