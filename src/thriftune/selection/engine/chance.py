"""What picks are worth beyond random ones: beside as many of those, every method looks less good than beside none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.width import Similarity
from thriftune.types import FloatArray, IntArray

_ALL = 1024  # rows that are few enough to need no sample
_PAIRS = 2**23  # of rows of a sample with picks, about
_LEAST, _MOST = 512, 16_384  # rows of a sample
_PICKS = 1000  # random picks in all, at least
_COLUMNS = 4096


def ahead_of_random(
    sim: Similarity,
    u: FloatArray,
    before: FloatArray,
    cover: FloatArray,
    draw: Callable[[np.random.Generator], IntArray],
    run: Run[Any],
) -> float:
    """f(A ∪ S) - E f(A ∪ R) for picks S and random picks R, where A was chosen before; estimated, the seed being fixed.

    Args:
        sim: the pool.
        u: (n,) float32 weights.
        before, cover: (n,) float32, what each row is covered by after A, and after A and S.
        draw: random picks, some rows of ``sim``.
        run: threads.
    """
    rng = np.random.default_rng(0)
    n, total = len(sim), float(u.sum(dtype=np.float64))
    first = draw(rng)
    sets = [first] + [draw(rng) for _ in range(min(31, _PICKS // max(len(first), 1)))]
    if n <= _ALL:
        rows, weight = np.arange(n), u.astype(np.float64)
    else:
        size = int(np.clip(_PAIRS // max(len(first), 1), _LEAST, _MOST))
        rows = np.sort(rng.choice(n, size, p=u.astype(np.float64) / total))
        weight = np.full(size, total / size)
    ahead = 0.0
    for picks in sets:
        parts = range(0, len(picks), _COLUMNS)
        best = np.empty((len(parts), len(rows)), np.float32)

        def part(begin: int, picks: IntArray = picks, best: FloatArray = best) -> None:
            sim.block(rows, picks[begin : begin + _COLUMNS]).max(axis=1, out=best[begin // _COLUMNS])

        run(part, parts)
        ahead += float(weight @ (cover[rows] - np.maximum(before[rows], best.max(axis=0, initial=0))))
    return ahead / len(sets)


def share_above_random(ahead: float, gap: float) -> float:
    """(f - random) / (bound - random), from f - random and bound - f; 1 where there is nothing to be gained."""
    return max(0.0, ahead / (ahead + gap)) if ahead + gap > 0 else 1.0
