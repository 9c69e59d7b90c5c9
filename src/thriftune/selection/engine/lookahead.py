"""Lazy greedy by batches: the likeliest next picks are brought up to date together, by matrix products.

Gains only shrink as picks are made, so old ones are upper bounds. Picks are made within a batch for as long as the
best of it gains at least the largest bound outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.width import Similarity
from thriftune.types import BoolArray, FloatArray, IntArray

Array = npt.NDArray[Any]
_CELLS = 2**22  # of a block: 16 MiB of float32
FEWEST = 8  # candidates of a batch


class Objective(Protocol):
    """A set function with shrinking gains, and the state that picks leave it in."""

    def block(self, rows: IntArray) -> Array:
        """(b, ...): what the gains of the candidates ``rows`` (b,) need, or where it is kept, until the next block."""

    def gains(self, block: Array, rows: IntArray) -> FloatArray:
        """(b,) float64: what each candidate adds now, given its row of a block."""

    def take(self, line: Any, row: int) -> None:
        """Pick ``row``, whose entry of a block is given."""


class Lead:
    """The candidates with the largest upper bounds, the lower rows on ties.

    Args:
        bound: (n,) float64, -inf for rows that cannot be picked.
        width: how many.

    Attributes:
        rows: (width,) ascending, those that cannot be picked left out.
    """

    def __init__(self, bound: FloatArray, width: int) -> None:
        n = len(bound)
        if width >= n:
            self.rows = np.arange(n)
            self._outside = (-np.inf, 0)
        else:
            last = np.partition(bound, n - width)[n - width]
            above, level = np.flatnonzero(bound > last), np.flatnonzero(bound == last)
            self.rows = np.sort(np.concatenate([above, level[: width - len(above)]]))
            rest = bound.copy()
            rest[self.rows] = -np.inf
            best = int(rest.argmax())
            self._outside = (float(rest[best]), -best)
        self.rows = self.rows[bound[self.rows] > -np.inf]

    def holds(self, gain: float, row: int) -> bool:
        """Whether a row of the batch that gains so much is certainly the next pick."""
        return gain > -np.inf and (float(gain), -int(row)) >= self._outside


def most_together(n: int) -> int:
    """How many of n candidates to bring up to date together at most, by memory."""
    return int(np.clip(_CELLS // max(n, 1), 8, 256))


def next_width(width: int, made: int, most: int) -> int:
    """How many candidates to take next time, given how many picks a batch of ``width`` gave."""
    if made == 0:
        return min(2 * width, most)
    return max(width // 2, FEWEST) if made < width // 8 else width


def first_gains(objective: Objective, free: BoolArray) -> FloatArray:
    """(n,) float64 gains of all candidates before any pick, -inf for rows that are not ``free``."""
    bound = np.full(len(free), -np.inf)
    rows, width = np.flatnonzero(free), most_together(len(free))
    for begin in range(0, len(rows), width):
        some = rows[begin : begin + width]
        bound[some] = objective.gains(objective.block(some), some)
    return bound


def pick_by_batches(
    objective: Objective,
    bound: FloatArray,
    budget: int,
    advance: Callable[[float], None],
    *,
    least: float = -np.inf,
) -> tuple[list[int], list[float], bool]:
    """Greedy picks.

    Args:
        objective: what is maximised.
        bound: (n,) float64, upper bounds of the gains, -inf for rows that cannot be picked; changed.
        budget: how many picks, at most.
        advance: called with the number of picks made.
        least: end when nothing gains more than this.

    Returns:
        Rows in pick order, gains, and whether Ctrl-C ended it.
    """
    rows: list[int] = []
    gained: list[float] = []
    most = most_together(len(bound))
    width = min(32, most)
    try:
        while len(rows) < budget:
            lead = Lead(bound, width)
            if len(lead.rows) == 0:
                break
            block = objective.block(lead.rows)
            gains = np.asarray(objective.gains(block, lead.rows), np.float64)
            fresh = np.ones(len(gains), bool)
            before = len(rows)
            while len(rows) < budget:
                best = int(gains.argmax())
                row = int(lead.rows[best])
                if not lead.holds(gains[best], row):
                    break
                if not fresh[best]:
                    gains[best] = objective.gains(block[best : best + 1], lead.rows[best : best + 1])[0]
                    fresh[best] = True
                    continue
                if gains[best] <= least:
                    return rows, gained, False
                objective.take(block[best], row)
                rows.append(row)
                gained.append(float(gains[best]))
                gains[best] = -np.inf
                fresh[:] = False
                advance(1)
            bound[lead.rows] = gains
            width = next_width(width, len(rows) - before, most)
    except KeyboardInterrupt:
        return rows[: len(gained)], gained, True
    return rows, gained, False


def total_similarity(sim: Similarity, weights: FloatArray, run: Run[Any]) -> FloatArray:
    """(n,) float64: for each row, the weighted sum of its similarities to all rows, itself included."""
    n = len(sim)
    total = np.zeros(n)

    def part(begin: int) -> None:
        rows = slice(begin, min(begin + 1024, n))
        for first in range(0, n, 1024):
            columns = slice(first, min(first + 1024, n))
            block = sim.block(rows, columns)
            if begin == first:
                np.fill_diagonal(block, sim.own(np.arange(begin, rows.stop)))
            total[rows] += np.einsum("ij,j->i", block, weights[columns], dtype=np.float64)

    run(part, range(0, n, 1024))
    return total
