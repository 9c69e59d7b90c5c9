"""Compiled loops over lists of pairs (candidate, row): gains, and lazy greedy."""

from __future__ import annotations

from typing import Any

import numba
import numpy.typing as npt

Array = npt.NDArray[Any]


@numba.njit(cache=True, nogil=True, inline="never")
def _gain(row: int, start: Array, length: Array, index: Array, value: Array, u: Array, cover: Array) -> float:
    """Gain of a candidate; drops the pairs that can never count again from its list."""
    read = write = start[row]
    end = read + length[row]
    total = 0.0
    while read < end:
        v = index[read]
        more = value[read] - cover[v]
        if more > 0:
            total += u[v] * more
            index[write] = v
            value[write] = value[read]
            write += 1
        read += 1
    length[row] = write - start[row]
    return total


@numba.njit(cache=True, nogil=True)
def list_gains(
    first: int, last: int, start: Array, length: Array, index: Array, value: Array, u: Array, cover: Array, gains: Array
) -> None:
    """Exact gains of the candidates ``first`` .. ``last - 1``."""
    for row in range(first, last):
        gains[row] = _gain(row, start, length, index, value, u, cover)


@numba.njit(cache=True, nogil=True)
def later_gains(
    first: int, last: int, start: Array, length: Array, index: Array, value: Array, u: Array, cover: Array, gains: Array
) -> None:
    """As `list_gains`, under a cover that is above the present one: lists keep their pairs."""
    for row in range(first, last):
        total = 0.0
        for p in range(start[row], start[row] + length[row]):
            v = index[p]
            total += u[v] * max(value[p] - cover[v], 0.0)
        gains[row] = total


@numba.njit(cache=True, nogil=True)
def _sink(gain: Array, row: Array, size: int, i: int) -> None:
    g, r = gain[i], row[i]
    while True:
        c = 2 * i + 1
        if c >= size:
            break
        if c + 1 < size and (gain[c + 1] > gain[c] or (gain[c + 1] == gain[c] and row[c + 1] < row[c])):
            c += 1
        if gain[c] > g or (gain[c] == g and row[c] < r):
            gain[i], row[i] = gain[c], row[c]
            i = c
        else:
            break
    gain[i], row[i] = g, r


@numba.njit(cache=True, nogil=True)
def lazy_greedy(
    key: Array,
    row: Array,
    size: int,
    fresh: Array,
    start: Array,
    length: Array,
    index: Array,
    value: Array,
    u: Array,
    cover: Array,
    merit: Array,
    price: Array,
    cost: Array,
    left: float,
    before: int,
    picks: int,
    out_row: Array,
    out_gain: Array,
) -> tuple[int, int]:
    """Lazy greedy over lists of pairs, until ``picks`` picks, until nothing gains, or until nothing can be paid.

    Args:
        key, row: (n,) heap of upper bounds of (gain + merit) / price, best first, lowest row on ties; ``size`` entries.
        fresh: (n,) int32, after how many picks a candidate's key was last computed.
        start, length, index, value: pairs by candidate; lists shrink.
        left: money; a candidate of a higher cost is dropped.
        before: picks made earlier.

    Returns:
        (picks made, heap size).
    """
    made = 0
    while made < picks and size > 0:
        best = row[0]
        dear = cost[best] > left
        if not dear and fresh[best] != before + made:
            gain = _gain(best, start, length, index, value, u, cover) + merit[best]
            key[0] = gain / price[best]
            fresh[best] = before + made
            _sink(key, row, size, 0)
            continue
        if not dear:
            if key[0] <= 0:
                break
            out_row[made] = best
            out_gain[made] = key[0] * price[best]
            for p in range(start[best], start[best] + length[best]):
                v = index[p]
                cover[v] = max(cover[v], value[p])
            left -= cost[best]
            made += 1
        size -= 1
        key[0], row[0] = key[size], row[size]
        _sink(key, row, size, 0)
    return made, size
