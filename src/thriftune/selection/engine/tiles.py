"""Compiled loops over tiles of the similarity matrix; only engines import numba, which takes a while to load."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_VECTORISE = {"nnan", "nsz", "contract"}
_SUM = {"nnan", "nsz", "contract", "reassoc"}

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding and subtracting it rounds to an integer
_LOWEST = np.float32(-87.0)
_C = [np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)]
_C0, _C1, _C2, _C3, _C4, _C5 = _C
_RUN = 256
_ONE = np.float32(1)
_ZERO = np.float32(0)


@numba.njit(cache=True, nogil=True, fastmath=_VECTORISE, error_model="numpy")
def to_similarity(g: Array, half_i: Array, half_j: Array, rate_i: Array, rate_j: Array, scale: float) -> None:
    """Products (b, c) to similarities in place, for a ``scale`` of 0 max(0, g) and else

    exp(min(0, scale * rate_i * rate_j * (g - half_i - half_j))).

    The exponential is Cephes' polynomial (relative error 2e-7), because calls into libm do not vectorise.
    """
    rows, columns = g.shape
    if scale == 0:
        for i in range(rows):
            for j in range(columns):
                g[i, j] = max(g[i, j], _ZERO)
        return
    for i in range(rows):
        h, r_i = half_i[i], scale * rate_i[i]
        for j in range(columns):
            y = r_i * rate_j[j] * (g[i, j] - h - half_j[j])
            y = min(max(y, _LOWEST), _ZERO)
            k = (y * _LOG2E + _ROUND) - _ROUND
            r = y - k * _LN2_HIGH - k * _LN2_LOW
            p = ((((_C0 * r + _C1) * r + _C2) * r + _C3) * r + _C4) * r + _C5
            p = p * r * r + r + _ONE
            bits = (np.int32(k) + np.int32(127)) << np.int32(23)
            g[i, j] = p * np.int32(bits).view(np.float32)


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def tile_gains(
    s: Array, both: bool, u_i: Array, u_j: Array, cover_i: Array, cover_j: Array, gain_i: Array, gain_j: Array
) -> None:
    """Gains of a tile's rows and columns as candidates, under several states of cover.

    Args:
        s: (b, c) similarities.
        both: False on the diagonal, where rows and columns are the same candidates.
        u_i, u_j: (b,), (c,) float32 weights.
        cover_i, cover_j: (states, b), (states, c) float32, the best similarity so far of each row.
        gain_i, gain_j: (states, b), (states, c) float64, added to.
    """
    rows, columns = s.shape
    states = len(cover_i)
    total = np.empty((states, _RUN), np.float32)
    for begin in range(0, columns, _RUN):
        width = np.uint64(min(_RUN, columns - begin))  # unsigned: no check for negative indices, so loops vectorise
        first = np.uint64(begin)
        total[:] = 0
        for i in range(rows):
            w = u_i[i]
            for t in range(states):
                c = cover_i[t, i]
                a = _ZERO
                for j in range(width):
                    v = s[i, first + j] - cover_j[t, first + j]
                    a += u_j[first + j] * (v if v > _ZERO else _ZERO)
                gain_i[t, i] += a
                if both:
                    for j in range(width):
                        v = s[i, first + j] - c
                        total[t, j] += w * (v if v > _ZERO else _ZERO)
        if both:
            for t in range(states):
                for j in range(width):
                    gain_j[t, first + j] += total[t, j]


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def row_gains(s: Array, rows: Array, u: Array, cover: Array, gains: Array) -> None:
    """gains[r] = sum_j u_j max(0, s[r, j] - cover_j) for the rows named, in double precision over runs of 256."""
    columns = s.shape[1]
    for r in rows:
        total = np.float64(0)
        for begin in range(0, columns, _RUN):
            first = np.uint64(begin)
            a = _ZERO
            for j in range(np.uint64(min(_RUN, columns - begin))):
                v = s[r, first + j] - cover[first + j]
                a += u[first + j] * (v if v > _ZERO else _ZERO)
            total += a
        gains[r] = total


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def row_losses(s: Array, u: Array, before: Array, at: Array, after: Array, lost: Array) -> None:
    """lost[r] += sum_j u_j max(0, min(s[r, j], after_j) - before[at[r], j]): what gains fell by as cover rose.

    Args:
        s: (b, c) similarities; u, after: (c,); before: (states, c).
        at: (b,) the state at which each candidate's gain was last known.
        lost: (b,) float64.
    """
    rows, columns = s.shape
    for r in range(rows):
        t = at[r]
        for begin in range(0, columns, _RUN):
            first = np.uint64(begin)
            a = _ZERO
            for j in range(np.uint64(min(_RUN, columns - begin))):
                v = min(s[r, first + j], after[first + j]) - before[t, first + j]
                a += u[first + j] * (v if v > _ZERO else _ZERO)
            lost[r] += a


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def column_changes(s: Array, rows: Array, u: Array, before: Array, after: Array, gains: Array, counts: Array) -> None:
    """Change estimated gains sum_i u_i max(0, s_ij - cover_i) and their numbers of terms as cover rises.

    Args:
        s: (b, c) similarities; u, before, after: (b,).
        rows: which of the b have changed; ``before`` above 1: nothing was added for that row yet.
        gains, counts: (c,).
    """
    columns = np.uint64(s.shape[1])
    for i in rows:
        w, b, a = u[i], before[i], after[i]
        for j in range(columns):
            v = s[i, j]
            old, new = v - b, v - a
            gains[j] += w * ((new if new > _ZERO else _ZERO) - (old if old > _ZERO else _ZERO))
            counts[j] += np.int32(new > _ZERO) - np.int32(old > _ZERO)


@numba.njit(cache=True, nogil=True, fastmath=_SUM, error_model="numpy")
def tile_pairs(s: Array, both: bool, cover_i: Array, cover_j: Array, column: Array, value: Array, end: Array) -> None:
    """Compact the similarities of a tile that exceed what its row or its column is covered by, row by row.

    Args:
        s: (b, c) similarities; both: False on the diagonal, where only the columns' cover counts.
        column, value: at least b * c + 1 long, uint16 and float32; filled.
        end: (b,) int64, where each row's run ends.
    """
    rows, columns = s.shape
    p = 0
    for i in range(rows):
        c = cover_i[i] if both else np.float32(4)
        for begin in range(0, columns, 32):
            first = np.uint64(begin)
            width = np.uint64(min(32, columns - begin))
            most = _LOWEST
            for j in range(width):
                v = s[i, first + j] - min(cover_j[first + j], c)
                most = v if v > most else most
            if most <= _ZERO:
                continue
            for j in range(width):
                v = s[i, first + j]
                # Written in any case, and kept by moving on: a branch that is hard to predict costs more.
                column[p] = first + j
                value[p] = v
                p += v > min(cover_j[first + j], c)
        end[i] = p


@numba.njit(cache=True, nogil=True)
def side_counts(
    column: Array, value: Array, end: Array, cover_i: Array, cover_j: Array, count_i: Array, count_j: Array
) -> None:
    """How many compacted pairs count for each row (as candidate), and for each column."""
    p = 0
    for i in range(len(end)):
        c = cover_i[i]
        count = 0
        while p < end[i]:
            j = column[p]
            count += value[p] > cover_j[j]
            count_j[j] += value[p] > c
            p += 1
        count_i[i] = count


@numba.njit(cache=True, nogil=True)
def side_pairs(
    column: Array,
    value: Array,
    end: Array,
    cover_i: Array,
    cover_j: Array,
    start_j: Array,
    index_i: Array,
    value_i: Array,
    index_j: Array,
    value_j: Array,
) -> None:
    """Lay the compacted pairs out by row and by column; outputs have one place to spare at the end.

    Args:
        start_j: (c,) where each column's run begins; advanced to where it ends.
    """
    spare = len(index_j) - 1
    p = w = 0
    for i in range(len(end)):
        c = cover_i[i]
        while p < end[i]:
            j, v = column[p], value[p]
            index_i[w] = j
            value_i[w] = v
            w += v > cover_j[j]
            counts = v > c
            q = start_j[j] if counts else spare
            index_j[q] = i
            value_j[q] = v
            start_j[j] += counts
            p += 1


@numba.njit(cache=True, nogil=True)
def row_hashes(bits: Array, factors: Array, hashes: Array) -> None:
    """hashes[i] = sum_j bits[i, j] factors[j] modulo 2^64, minus zero counting as zero."""
    for i in range(bits.shape[0]):
        total = np.uint64(0)
        for j in range(bits.shape[1]):
            b = bits[i, j]
            total += np.uint64(np.uint32(0) if b == np.uint32(0x80000000) else b) * factors[j]
        hashes[i] = total
