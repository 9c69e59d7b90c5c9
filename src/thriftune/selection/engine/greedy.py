"""The state of a greedy search, and lazy greedy on lists of pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from thriftune.selection.engine.blocks import Run
from thriftune.types import BoolArray, FloatArray, IntArray

Array = npt.NDArray[Any]
# Pairs (candidate, row) by candidate: start (n,) int64, length (n,) int32, row int32, similarity float32.
Lists = tuple[IntArray, IntArray, IntArray, FloatArray]
_BLOCK = 1024
_STRETCH = 1000  # picks between signs of life
_CHECKPOINTS = 8  # stretches of the search; between them everyone's gain is computed afresh for the certificate


@dataclass
class Greedy:
    """Picks so far and the state they lead to.

    Args:
        cover: (n,) float32, the best similarity of each row to what is chosen.
        taken: (n,) bool, rows that are chosen.
        rows, gains: picks and what each added.
        value: sum of gains.
        bound: no ``budget`` rows can add more than this to the start.
    """

    cover: FloatArray
    taken: BoolArray
    rows: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    value: float = 0.0
    bound: float = np.inf
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, row: int, gain: float, similarity: FloatArray) -> None:
        """Take ``row``, whose (n,) similarities with all rows are given."""
        self.rows.append(row)
        self.gains.append(gain)
        self.value += gain
        self.taken[row] = True
        np.maximum(self.cover, similarity, out=self.cover)

    def took(self, rows: IntArray, gains: FloatArray) -> None:
        """Record picks that ``cover`` reflects already."""
        self.taken[rows] = True
        self.rows += rows.tolist()
        self.gains += gains.tolist()
        self.value += float(gains.sum())

    def bound_by(self, gains: FloatArray, budget: int) -> None:
        """Tighten the bound: at any state the best set adds at most its value and the ``budget`` largest gains."""
        k = min(budget, len(gains))
        self.bound = min(self.bound, self.value + float(np.partition(gains, len(gains) - k)[len(gains) - k :].sum()))


def finish(
    lists: Lists, u: FloatArray, state: Greedy, budget: int, run: Run[Any], advance: Callable[[float], None]
) -> None:
    """Lazy greedy on lists of pairs until ``budget`` picks or until nothing gains.

    Args:
        lists: the pairs that matter; they shrink on the way.
        u: (n,) float32 weights.
        state: picks so far, extended.
        budget: how many picks there should be in the end.
        run: threads.
        advance: called with the number of picks made.
    """
    n = len(u)
    weights = u.astype(np.float64)
    gains = np.empty(n)
    state.notes["pairs"] = len(lists[2])
    begun = len(state.rows)

    def compute(first: int) -> None:
        list_gains(first, min(first + _BLOCK, n), *lists, weights, state.cover, gains)

    for stop in [begun + (budget - begun) * e // _CHECKPOINTS for e in range(1, _CHECKPOINTS + 1)] + [budget]:
        run(compute, range(0, n, _BLOCK))
        left = np.flatnonzero(~state.taken)
        state.bound_by(gains[left], budget)
        row = left[np.argsort(-gains[left], kind="stable")].astype(np.int32)
        gain = gains[row]
        size = len(row)
        fresh = np.full(n, -1, np.int32)
        fresh[row] = len(state.rows)
        while len(state.rows) < stop and size > 0:
            some = min(_STRETCH, stop - len(state.rows))
            out_row, out_gain = np.empty(some, np.int32), np.empty(some)
            before = len(state.rows)
            made, size = lazy_greedy(
                gain, row, size, fresh, *lists, weights, state.cover, before, some, out_row, out_gain
            )
            state.took(out_row[:made], out_gain[:made])
            advance(made)
            if made < some:
                state.bound = min(state.bound, state.value)  # nothing gains any more: this is the best there is
                return


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
    gain: Array,
    row: Array,
    size: int,
    fresh: Array,
    start: Array,
    length: Array,
    index: Array,
    value: Array,
    u: Array,
    cover: Array,
    before: int,
    picks: int,
    out_row: Array,
    out_gain: Array,
) -> tuple[int, int]:
    """Lazy greedy over lists of pairs, until ``picks`` picks or nothing gains.

    Args:
        gain, row: (n,) heap of upper bounds, best first, lowest row on ties; ``size`` entries.
        fresh: (n,) int32, after how many picks a candidate's gain was last computed.
        start, length, index, value: pairs by candidate; lists shrink.
        before: picks made earlier.

    Returns:
        (picks made, heap size).
    """
    made = 0
    while made < picks and size > 0:
        best = row[0]
        if fresh[best] != before + made:
            gain[0] = _gain(best, start, length, index, value, u, cover)
            fresh[best] = before + made
            _sink(gain, row, size, 0)
            continue
        if gain[0] <= 0:
            break
        out_row[made] = best
        out_gain[made] = gain[0]
        for p in range(start[best], start[best] + length[best]):
            v = index[p]
            cover[v] = max(cover[v], value[p])
        made += 1
        size -= 1
        gain[0], row[0] = gain[size], row[size]
        _sink(gain, row, size, 0)
    return made, size
