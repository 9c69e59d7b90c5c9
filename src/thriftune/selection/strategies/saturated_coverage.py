"""Saturated coverage: every prompt of the pool covered up to a share of what the whole pool covers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, FloatArray, IntArray, Picks

if TYPE_CHECKING:
    from thriftune.selection.engine.lines import Lines

_WIDTH = 0.5


def _fixed_share(params: Mapping[str, Any], notes: Mapping[str, Any]) -> bool:
    return params["saturation"] != "auto"


@strategy(
    name="saturated_coverage",
    needs=("embeddings",),
    uses=("weights",),
    source="Lin and Bilmes 2011, A Class of Submodular Functions for Document Summarization, ACL",
    prefix=_fixed_share,
)
def saturated_coverage(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    kernel: Literal["rbf", "cosine"] = "rbf",
    gamma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = _WIDTH,
    saturation: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto",
) -> Picks:
    """Prompts whose similarities to each prompt of the pool add up, until that prompt is covered well enough. Use it
    where a prompt should be backed by several similar picks rather than by one, as in facility_location.

    A prompt is covered well enough at the share ``saturation`` of its similarity to the whole pool; ``auto`` takes the
    share of the pool that is picked or annotated, which is what a random selection reaches on average. When all are
    covered well enough, the share is doubled. The gain of a pick is what it adds to the coverage.
    """
    from thriftune.selection.engine.blocks import workers
    from thriftune.selection.engine.lines import Lines
    from thriftune.selection.engine.lookahead import first_gains, pick_by_batches, total_similarity
    from thriftune.selection.engine.width import similarity

    assert candidates.embeddings is not None
    n = len(candidates)
    sim = similarity(candidates.embeddings, kernel, gamma, 1)
    chosen = np.flatnonzero(candidates.annotated)
    share = (budget + len(chosen)) / n if saturation == "auto" else float(saturation)
    weights = np.ones(n) if candidates.weights is None else candidates.weights.astype(np.float64)
    rows: list[int] = []
    gains: list[float] = []
    partial = False
    with progress("saturated_coverage", budget, "picks") as advance, workers() as run:
        total = total_similarity(sim, np.ones(n), run)
        lines = Lines(sim, run)
        taken, limit = candidates.annotated.copy(), share
        while len(rows) < budget and not partial and limit < 2:
            coverage = _Saturated(lines, weights, limit * total)
            try:
                for row in np.flatnonzero(taken):
                    coverage.take(coverage.block(np.array([row]))[0], int(row))
                bound = first_gains(coverage, ~taken)
            except KeyboardInterrupt:
                partial = True
                break
            more, gained, partial = pick_by_batches(coverage, bound, budget - len(rows), advance, least=1e-9)
            rows, gains, limit = rows + more, gains + gained, 2 * limit
            taken[more] = True
    if not partial:
        rest = np.flatnonzero(~taken)[: budget - len(rows)]
        rows, gains = rows + rest.tolist(), gains + [0.0] * len(rest)
    notes = {**sim.notes(), "saturation": share}
    return Picks(np.array(rows, np.int64), np.array(gains), notes=notes, partial=partial)


class _Saturated:
    """sum_i u_i min(similarity of i to what is picked, its limit).

    Args:
        lines: similarities.
        weights: (n,) u.
        limit: (n,) float64, coverage beyond which a row gains nothing.
    """

    def __init__(self, lines: Lines, weights: FloatArray, limit: FloatArray) -> None:
        self.lines, self.weights, self.room = lines, weights, limit

    def block(self, rows: IntArray) -> IntArray:
        return self.lines.places(rows)

    def gains(self, block: IntArray, rows: IntArray) -> FloatArray:
        return self.lines.within(block, self.weights.astype(np.float32), self.room.astype(np.float32))

    def take(self, line: Any, row: int) -> None:
        self.room = np.maximum(self.room - self.lines.kept[line], 0)
