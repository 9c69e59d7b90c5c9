"""Similarities of single candidates with all rows: computed once and kept while there is room."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.lookahead import most_together
from thriftune.selection.engine.tiles import row_gains
from thriftune.selection.engine.width import Similarity
from thriftune.types import FloatArray, IntArray

Array = npt.NDArray[Any]
_ROOM = 2**30  # bytes; not by free memory, so that the same batches are formed everywhere
_COLUMNS = 8192


class Lines:
    """Lines of the similarity matrix.

    Args:
        sim: the similarities.
        run: threads.

    Attributes:
        kept: (capacity, n) float32; those of the pool's rows that are asked for most recently.
    """

    def __init__(self, sim: Similarity, run: Run[Any]) -> None:
        n = len(sim)
        self.sim, self.run = sim, run
        # As many as one batch at least, whatever memory says.
        self.kept = np.empty((min(n, max(_ROOM // (4 * max(n, 1)), most_together(n))), n), np.float32)
        self._row = np.full(len(self.kept), -1, np.int64)
        self._used = np.zeros(len(self.kept), np.int64)
        self._place = np.full(n, -1, np.int64)
        self._calls = self._size = 0

    def places(self, rows: IntArray) -> IntArray:
        """(b,) where in ``kept`` the lines of ``rows`` (b,) are, until the next call; b <= `most_together`."""
        self._calls += 1
        found = self._place[rows]
        self._used[found[found >= 0]] = self._calls
        new = rows[found < 0]
        if len(new):
            if self._size + len(new) <= len(self.kept):
                free = np.arange(self._size, self._size + len(new))
                similarities(self.sim, new, self.run, self.kept[self._size : self._size + len(new)])
                self._size += len(new)
            else:
                free = np.argpartition(self._used, len(new) - 1)[: len(new)]
                gone = self._row[free]
                self._place[gone[gone >= 0]] = -1
                self.kept[free] = similarities(self.sim, new, self.run)
            self._row[free], self._place[new], self._used[free] = new, free, self._calls
        return self._place[rows]

    def above(self, places: IntArray, weights: FloatArray, cover: FloatArray) -> FloatArray:
        """(b,) float64 sum of weights times how much each line exceeds ``cover``; weights and cover (n,) float32."""
        return self._sums(row_gains, places, weights, cover)

    def within(self, places: IntArray, weights: FloatArray, room: FloatArray) -> FloatArray:
        """(b,) float64 sum of weights times the lesser of each line and ``room``; weights and room (n,) float32."""
        return self._sums(row_sums, places, weights, room)

    def _sums(self, kernel: Any, places: IntArray, weights: FloatArray, level: FloatArray) -> FloatArray:
        found = np.empty(len(self.kept))
        parts = np.array_split(places, max(1, min(8, len(places) // 4)))
        self.run(lambda part: kernel(self.kept, part, weights, level, found), parts)
        return found[places]


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "contract", "reassoc"}, error_model="numpy")
def row_sums(s: Array, rows: Array, u: Array, room: Array, sums: Array) -> None:
    """sums[r] = sum_j u_j min(s[r, j], room_j) for the rows named, in double precision over runs of 256."""
    columns = s.shape[1]
    for r in rows:
        total = np.float64(0)
        for begin in range(0, columns, 256):
            first = np.uint64(begin)
            a = np.float32(0)
            for j in range(np.uint64(min(256, columns - begin))):
                v, most = s[r, first + j], room[first + j]
                a += u[first + j] * (v if v < most else most)
            total += a
        sums[r] = total


def similarities(sim: Similarity, rows: IntArray, run: Run[Any], out: FloatArray | None = None) -> FloatArray:
    """(b, n) float32 similarities of the rows ``rows`` (b,) with all rows, in ``out`` if given."""
    n = len(sim)
    found = np.empty((len(rows), n), np.float32) if out is None else out

    def part(begin: int) -> None:
        columns = slice(begin, min(begin + _COLUMNS, n))
        found[:, columns] = sim.block(rows, columns)

    run(part, range(0, n, _COLUMNS))
    found[np.arange(len(rows)), rows] = sim.own(rows)
    return found
