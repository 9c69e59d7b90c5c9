"""GIST: uncertain prompts, none too near another."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.selection.scalar import ranks
from thriftune.types import Candidates, FloatArray, IntArray, Picks

_BLOCK = 256
_CENTRES = 8192


@strategy(
    name="gist",
    needs=("embeddings", "scores:{score}"),
    source="Fahrbach et al. 2025, GIST, arXiv 2405.18754",
)
def gist(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    score: str = "mean_entropy",
    trade_off: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0,
    step: Annotated[float, Field(gt=0, le=1)] = 0.1,
) -> Picks:
    """The prompts that score highest while all keep a distance from each other, at the distance that pays best. Use it
    where near copies must be kept out strictly, which a sum of gains, as in the other hybrids, does not promise.

    Maximises the mean rank of the score, from 0 to 1, plus trade_off times the least distance between picks (and from
    picks to annotated prompts), relative to the one that k_center reaches. For each of a row of distances, a factor of
    1 + ``step`` apart, prompts are taken in order of their score unless they are too near; the best result is kept.
    Unlike the paper's, a set must have all the picks. The gain of a pick is the rank of its score.
    """
    from thriftune.selection.engine.farthest import k_center

    assert candidates.embeddings is not None
    # From the mean: distances are small against far-off coordinates, and single precision would lose them.
    mean = candidates.embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    points = _Points(candidates.embeddings - mean, np.flatnonzero(candidates.annotated))
    utility = ranks(candidates.scores[score]) / len(candidates)
    free = np.flatnonzero(~candidates.annotated)
    order = free[np.argsort(-utility[free], kind="stable")]

    with progress("gist", 1, "distances") as advance:
        spread = k_center(points.a, budget, chosen=points.annotated, start=None, advance=lambda amount: None)
        if spread.partial:
            return Picks(spread.rows, utility[spread.rows], partial=True)
        # The farthest-first picks keep this distance; no set of as many keeps more than twice as much.
        widest = float(spread.distances[-1]) if np.isfinite(spread.distances[-1]) else 0.0

        def value(rows: IntArray) -> float:
            least = points.least_distance(rows) / widest if widest > 0 else 0.0
            return float(utility[rows].mean()) + trade_off * (least if np.isfinite(least) else 0.0)

        best: IntArray = order[:budget]
        partial = False
        most = value(best)
        if widest > 0 and trade_off > 0 and len(order) > budget:
            steps = int(np.ceil(np.log(2 / step) / np.log(1 + step)))
            try:
                for distance in [None, *(2 * widest * (1 + step) ** -np.arange(steps + 1.0))]:
                    rows = spread.rows if distance is None else points.keep_apart(order, budget, distance)
                    if len(rows) == budget and value(rows) > most:
                        best, most = rows, value(rows)
                    advance(1 / (steps + 2))
            except KeyboardInterrupt:
                partial = True
    best = best[np.lexsort((best, -utility[best]))]
    return Picks(best, utility[best], notes={"value": most}, partial=partial)


class _Points:
    """Distances between rows.

    Args:
        a: (n, d) float32.
        annotated: (m,) rows to keep a distance from, too.
    """

    def __init__(self, a: FloatArray, annotated: IntArray) -> None:
        self.a, self.annotated = np.ascontiguousarray(a), annotated
        self.squared = np.einsum("ij,ij->i", a, a)

    def _nearest(self, rows: IntArray, others: IntArray) -> FloatArray:
        """(len(rows),) squared distance to the nearest of ``others``."""
        found = np.full(len(rows), np.inf, np.float32)
        for begin in range(0, len(others), _CENTRES):
            some = others[begin : begin + _CENTRES]
            np.minimum(found, self._pairs(rows, some).min(axis=1), out=found)
        return found

    def _pairs(self, rows: IntArray, others: IntArray) -> FloatArray:
        product = self.a[rows] @ self.a[others].T
        return np.maximum(self.squared[rows, None] + self.squared[others] - 2 * product, 0)

    def keep_apart(self, order: IntArray, budget: int, distance: float) -> IntArray:
        """Rows taken in ``order`` unless nearer than ``distance`` to one before, up to ``budget``."""
        limit = np.float32(distance * distance)
        picked = np.empty(budget, np.int64)
        count = 0
        for begin in range(0, len(order), _BLOCK):
            rows = order[begin : begin + _BLOCK]
            if len(self.annotated):
                rows = rows[self._nearest(rows, self.annotated) >= limit]
            rows = rows[self._nearest(rows, picked[:count]) >= limit]
            near = self._pairs(rows, rows) < limit
            left = np.ones(len(rows), bool)
            for i in range(len(rows)):
                if left[i]:
                    picked[count] = rows[i]
                    count += 1
                    if count == budget:
                        return picked
                    left &= ~near[i]
        return picked[:count]

    def least_distance(self, rows: IntArray) -> float:
        """Least distance within ``rows`` and from ``rows`` to what is annotated; infinite for a single row."""
        least = float(self._nearest(rows, self.annotated).min(initial=np.inf))
        for begin in range(0, len(rows), _BLOCK):
            some = rows[begin : begin + _BLOCK]
            for first in range(begin, len(rows), _CENTRES):
                pairs = self._pairs(some, rows[first : first + _CENTRES])
                if first == begin:
                    pairs[np.tril_indices(len(some), 0, pairs.shape[1])] = np.inf
                least = min(least, float(pairs.min()))
        return float(np.sqrt(least))
