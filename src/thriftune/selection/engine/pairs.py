"""One pass over all pairs, tile by tile: everyone's gain, and the pairs that still matter."""

from __future__ import annotations

import threading
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from thriftune.selection.engine import tiles
from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.greedy import Lists
from thriftune.selection.engine.width import Similarity
from thriftune.types import FloatArray, IntArray

Array = npt.NDArray[Any]
_TILE = 1024


def all_pairs(
    sim: Similarity,
    u: FloatArray,
    covers: list[FloatArray],
    at: IntArray,
    run: Run[Any],
    threshold: FloatArray | None,
) -> tuple[dict[int, FloatArray], Pairs | None]:
    """Over all pairs: everyone's gain under the covers ``at``, and the pairs above the rows' ``threshold``, if any."""
    n = len(sim)
    # Sums in fixed point do not depend on the order in which threads add to them.
    unit = 2.0 ** (61 - int(np.ceil(np.log2(max(float(u.sum()), 1e-300)))))
    totals = np.zeros((len(at), n), np.int64)
    lock = threading.Lock()
    local = threading.local()
    pairs = None if threshold is None else Pairs(n)

    def tile(corner: tuple[int, int]) -> None:
        i, j = (slice(c, min(c + _TILE, n)) for c in corner)
        if not hasattr(local, "buffer"):
            local.buffer = np.empty(_TILE * _TILE, np.float32)
            if pairs is not None:
                local.scratch = np.empty(_TILE * _TILE + 1, np.uint16), np.empty(_TILE * _TILE + 1, np.float32)
        s = sim.block(i, j, local.buffer)
        both = corner[0] != corner[1]
        if not both:
            np.fill_diagonal(s, sim.own(np.arange(i.start, i.stop)))
        if len(at):
            gain_i, gain_j = np.zeros((len(at), s.shape[0])), np.zeros((len(at), s.shape[1]))
            cover_i, cover_j = (np.stack([covers[t][part] for t in at]) for part in (i, j))
            tiles.tile_gains(s, both, u[i], u[j], cover_i, cover_j, gain_i, gain_j)
            fixed_i, fixed_j = np.rint(gain_i * unit).astype(np.int64), np.rint(gain_j * unit).astype(np.int64)
            with lock:
                totals[:, i] += fixed_i
                if both:
                    totals[:, j] += fixed_j
        if pairs is not None and threshold is not None:
            pairs.add(corner, s, both, threshold[i], threshold[j], local.scratch)

    run(tile, [(i, j) for i in range(0, n, _TILE) for j in range(i, n, _TILE)])
    return {int(t): totals[r] / unit for r, t in enumerate(at)}, pairs


class Pairs:
    """The pairs (candidate, row) that still matter, collected by tile and then laid out by candidate."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.tiles: dict[tuple[int, int], tuple[IntArray, IntArray, FloatArray]] = {}
        self.dropped = np.zeros(n, bool)
        self.extra: dict[int, tuple[IntArray, IntArray, FloatArray]] = {}

    def add(
        self,
        corner: tuple[int, int],
        s: FloatArray,
        both: bool,
        cover_i: FloatArray,
        cover_j: FloatArray,
        scratch: tuple[IntArray, FloatArray],
    ) -> None:
        """Keep what matters of a tile of similarities; ``scratch`` has a place for each of them and one more."""
        column, value = scratch
        end = np.empty(s.shape[0], np.int64)
        tiles.tile_pairs(s, both, cover_i, cover_j, column, value, end)
        size = int(end[-1])
        if not both:
            self.tiles[corner] = (np.diff(end, prepend=0).astype(np.int32), column[:size].copy(), value[:size].copy())
            return
        count_i, count_j = np.zeros(s.shape[0], np.int32), np.zeros(s.shape[1], np.int32)
        tiles.side_counts(column, value, end, cover_i, cover_j, count_i, count_j)
        total_i, total_j = int(count_i.sum()), int(count_j.sum())
        index_i, value_i = np.empty(total_i + 1, np.uint16), np.empty(total_i + 1, np.float32)
        index_j, value_j = np.empty(total_j + 1, np.uint16), np.empty(total_j + 1, np.float32)
        start_j = np.cumsum(count_j, dtype=np.int64) - count_j
        tiles.side_pairs(column, value, end, cover_i, cover_j, start_j, index_i, value_i, index_j, value_j)
        self.tiles[corner] = (count_i, index_i, value_i)
        self.tiles[corner[1], corner[0]] = (count_j, index_j, value_j)

    def complete(self, sim: Similarity, missing: IntArray, cover: FloatArray, run: Run[Any]) -> None:
        """Collect the pairs of the rows ``missing`` again, which need a lower threshold than they had."""
        # Adding only what is new would count pairs at the old threshold twice or never: products differ in the last
        # digit with the shape of the block they are computed in.
        self.dropped[missing] = True

        def part(first: int) -> None:
            i = slice(first, min(first + _TILE, self.n))
            extra = []
            for begin in range(0, len(missing), _TILE):
                columns = missing[begin : begin + _TILE]
                s = sim.block(i, columns)
                r, c = np.nonzero(s > cover[columns])
                extra.append((r, columns[c], s[r, c]))
            r, v, value = (np.concatenate(e) for e in zip(*extra, strict=True)) if extra else (np.empty(0, int),) * 3
            order = np.argsort(r, kind="stable")
            count = np.bincount(r, minlength=i.stop - i.start).astype(np.int32)
            self.extra[first] = (count, v[order].astype(np.int32), value[order].astype(np.float32))

        run(part, range(0, self.n, _TILE))

    def lists(self, run: Run[Any]) -> Lists:
        """(start (n,) int64, length (n,) int32, index int32, value float32); empties this object as it goes."""
        n = self.n
        corners = range(0, n, _TILE)
        kept = np.zeros(n, bool)
        length = np.zeros(n, np.int32)
        for (i, _), (count, _, _) in self.tiles.items():
            length[i : i + _TILE] += count
        for i, (count, _, _) in self.extra.items():
            length[i : i + _TILE] += count
        start = np.zeros(n, np.int64)
        np.cumsum(length[:-1], out=start[1:])
        total = int(start[-1] + length[-1])
        index, value = np.empty(total, np.int32), np.empty(total, np.float32)

        def lay(i: int) -> None:
            position = start[i : i + _TILE].copy()
            for j in corners:
                count, columns, values = self.tiles.pop((i, j))
                place_edges(count, columns, values, j, self.dropped, position, index, value)
            if i in self.extra:
                count, columns, values = self.extra.pop(i)
                place_edges(count, columns, values, 0, kept, position, index, value)

        run(lay, corners)
        return start, length, index, value


@numba.njit(cache=True, nogil=True)
def place_edges(
    count: Array,
    index: Array,
    value: Array,
    offset: int,
    dropped: Array,
    position: Array,
    out_index: Array,
    out_value: Array,
) -> None:
    """Copy each candidate's run of a tile behind what earlier tiles gave it; those of ``dropped`` rows as nothing."""
    read = 0
    for r in range(len(count)):
        write = position[r]
        for _ in range(count[r]):
            v = offset + index[read]
            out_index[write] = v
            out_value[write] = np.float32(0) if dropped[v] else value[read]
            read += 1
            write += 1
        position[r] = write
