"""Each row's nearest rows by cosine."""

from __future__ import annotations

from typing import Any

import numpy as np

from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.effort import all_pairs_are_affordable
from thriftune.selection.engine.neighbours import neighbour_graph
from thriftune.selection.engine.width import similarity
from thriftune.types import FloatArray, IntArray

_TWICE = 2.0  # every pair is computed from either side
_CELLS = 2**23


def nearest(x: FloatArray, degree: int, run: Run[Any]) -> tuple[IntArray, FloatArray]:
    """Each row's nearest other rows.

    Args:
        x: (n, d) float32.
        degree: neighbours per row, at most n - 1.
        run: threads.

    Returns:
        (n, degree) int64 rows, and (n, degree) float32 cosines, clipped at 0; in no order. Where that
        would take minutes, not all pairs are compared, and a row may lack neighbours: -1, with cosine 0.
    """
    n, d = x.shape
    sim = similarity(x, "cosine", "auto", 1)
    if not all_pairs_are_affordable(n, d, times=_TWICE, bytes_each=12.0 * degree)[0]:
        index, value = neighbour_graph(sim, degree + 1, run)
        return _without_self(index.astype(np.int64), value, degree)
    found = np.empty((n, degree), np.int64)
    cosine = np.empty((n, degree), np.float32)
    step = max(16, _CELLS // n)

    def part(begin: int) -> None:
        rows = np.arange(begin, min(begin + step, n))
        block = sim.block(rows, slice(0, n))
        block[np.arange(len(rows)), rows] = -1
        # Stable where it is cheap to be: ties at the border go to the lower row.
        if n <= 4096:
            best = np.argsort(-block, axis=1, kind="stable")[:, :degree]
        else:
            best = np.argpartition(-block, degree - 1, axis=1)[:, :degree]
        found[rows], cosine[rows] = best, np.take_along_axis(block, best, axis=1)

    if degree:
        run(part, range(0, n, step))
    return found, cosine


def _without_self(index: IntArray, value: FloatArray, degree: int) -> tuple[IntArray, FloatArray]:
    """Rows of a graph (n, degree + 1) with themselves, or else their worst neighbour, left out."""
    own = index == np.arange(len(index))[:, None]
    rank = np.where(own, -2.0, np.where(index < 0, -1.0, value))
    kept = np.argsort(-rank, axis=1, kind="stable")[:, :degree]
    found, cosine = np.take_along_axis(index, kept, axis=1), np.take_along_axis(value, kept, axis=1)
    lost = (found < 0) | np.take_along_axis(own, kept, axis=1)
    return np.where(lost, -1, found), np.where(lost, np.float32(0), np.maximum(cosine, 0)).astype(np.float32)
