"""Graph cut: prompts similar to the pool and not to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from thriftune.progress import Advance, progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, FloatArray, IntArray, Picks

if TYPE_CHECKING:
    from thriftune.selection.engine.width import Similarity

_WIDTH = 0.5
_CHUNK = 1024


@strategy(
    name="graph_cut",
    needs=("embeddings",),
    uses=("weights",),
    source="Iyer et al. 2021, Submodular Combinatorial Information Measures, arXiv 2006.15412",
    prefix=True,
)
def graph_cut(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    kernel: Literal["rbf", "cosine"] = "rbf",
    gamma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = _WIDTH,
    trade_off: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0,
) -> Picks:
    """Prompts with a large total similarity to the pool, less what they are similar to each other. Use it to favour
    typical prompts more strongly than facility_location does, with a ``trade_off`` of about 2 * budget / prompts, where
    both weigh alike. With the default, from which the published guarantee holds, few picks out of many prompts are of
    the densest kind alone (docs/results/study.md).

    Maximises trade_off times the similarity of picks to all prompts, minus the similarity of picks to picks. The gain
    of a pick is what it adds, and may be negative; it grows with the pool only if trade_off is at least 2.
    """
    from thriftune.selection.engine.blocks import workers
    from thriftune.selection.engine.lookahead import total_similarity
    from thriftune.selection.engine.width import similarity

    assert candidates.embeddings is not None
    sim = similarity(candidates.embeddings, kernel, gamma, 1)
    weights = np.ones(len(sim)) if candidates.weights is None else candidates.weights.astype(np.float64)
    chosen = np.flatnonzero(candidates.annotated)
    with progress("graph_cut", budget, "picks") as advance, workers() as run:
        gain = trade_off * total_similarity(sim, weights, run) - sim.own(np.arange(len(sim)))
        rows, gains, partial = _greedy(sim, gain, chosen, budget, advance)
    return Picks(rows, gains, notes=sim.notes(), partial=partial)


def _greedy(
    sim: Similarity, gain: FloatArray, chosen: IntArray, budget: int, advance: Advance
) -> tuple[IntArray, FloatArray, bool]:
    """Lazy greedy: a candidate's gain falls by twice its similarity to each pick, counted when it is looked at.

    Args:
        sim: similarities.
        gain: (n,) float64, gains when nothing is chosen; changed.
        chosen: (m,) rows that are chosen already.
        budget: how many rows to pick.
        advance: called with the number of picks made.

    Returns:
        Rows, gains, and whether Ctrl-C ended it.
    """
    from thriftune.selection.engine.lookahead import Lead, most_together, next_width

    gain[chosen] = -np.inf
    picked = np.concatenate([chosen, np.empty(budget, np.int64)])
    count = len(chosen)
    seen = np.zeros(len(sim), np.int64)  # how many of ``picked`` each gain accounts for
    gains: list[float] = []
    most = most_together(len(sim))
    width = min(32, most)
    try:
        while count < len(picked):
            lead = Lead(gain, width)
            rows = lead.rows
            for begin in range(int(seen[rows].min()), count, _CHUNK):
                others = np.arange(begin, min(begin + _CHUNK, count))
                alike = sim.block(rows, picked[others]).astype(np.float64)
                gain[rows] -= 2 * np.where(others >= seen[rows, None], alike, 0).sum(axis=1)
            seen[rows] = before = count
            now, near = gain[rows], sim.block(rows, rows)
            while count < len(picked):
                best = int(now.argmax())
                if not lead.holds(now[best], rows[best]):
                    break
                picked[count] = rows[best]
                gains.append(float(now[best]))
                count += 1
                now -= 2.0 * near[best]
                now[best] = -np.inf
                advance(1)
            gain[rows], seen[rows] = now, count
            width = next_width(width, count - before, most)
    except KeyboardInterrupt:
        return picked[len(chosen) : len(chosen) + len(gains)], np.array(gains), True
    return picked[len(chosen) :], np.array(gains), False
