"""Hybrids of uncertainty and coverage."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.selection.scalar import ranks
from thriftune.selection.strategies import facility, k_center
from thriftune.selection.strategies.facility import Engine, Kernel, Width
from thriftune.types import Candidates, IntArray, Picks

_WIDTH = 0.5
_TOGETHER = 256  # annotated prompts
_FILTER = "Wei, Iyer and Bilmes 2015, Submodularity in Data Subset Selection and Active Learning"
_NEEDS = ("embeddings", "scores:{score}")
Share = Annotated[float, Field(gt=0, le=1)]


def _most_uncertain(candidates: Candidates, budget: int, score: str, keep: float) -> IntArray:
    """Rows of the annotated prompts and of the share ``keep`` of the others that score highest, ascending."""
    free = np.flatnonzero(~candidates.annotated)
    count = max(budget, int(np.ceil(keep * len(free))))
    best = free[np.argsort(-candidates.scores[score][free], kind="stable")][:count]
    return np.sort(np.concatenate([best, np.flatnonzero(candidates.annotated)]))


def _of_the_kept(picks: Picks, rows: IntArray, prompts: int) -> Picks:
    """Picks among ``rows`` in rows of the pool; what was proven holds among those that were kept only."""
    certificate = None
    if picks.certificate is not None:
        certificate = {**picks.certificate, "kind": f"filtered_{picks.certificate['kind']}"}
    notes = {**picks.notes, "kept": len(rows), "of": prompts}
    return replace(picks, rows=rows[picks.rows], certificate=certificate, notes=notes)


@strategy(name="filtered_k_center", needs=_NEEDS, source=f"{_FILTER}, here with k-center")
def filtered_k_center(
    candidates: Candidates, budget: int, rng: np.random.Generator, *, score: str = "mean_entropy", keep: Share = 0.5
) -> Picks:
    """k_center among the share ``keep`` of the prompts that score highest. Use it to reach rare prompts that the model
    is unsure of, and none that it has mastered.

    The gain of a pick is its distance to the nearest earlier one. The certificate speaks of the prompts kept.
    """
    rows = _most_uncertain(candidates, budget, score, keep)
    return _of_the_kept(k_center.k_center(candidates.take(rows), budget, rng), rows, len(candidates))


@strategy(name="filtered_facility_location", needs=_NEEDS, source=_FILTER)
def filtered_facility_location(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    score: str = "mean_entropy",
    keep: Share = 0.5,
    kernel: Kernel = "rbf",
    gamma: Width | Literal["auto"] = _WIDTH,
    engine: Engine = "auto",
) -> Picks:
    """facility_location among the share ``keep`` of the prompts that score highest. Use it to represent what the model
    is unsure of, and to spend nothing on what it has mastered.

    The gain of a pick is what it adds to the similarity of the prompts kept to their nearest pick. The certificate
    speaks of the prompts kept.
    """
    rows = _most_uncertain(candidates, budget, score, keep)
    kept = candidates.take(rows)
    picks = facility.facility_location(kept, budget, rng, kernel=kernel, gamma=gamma, engine=engine)
    return _of_the_kept(picks, rows, len(candidates))


@strategy(
    name="weighted_facility_location",
    needs=_NEEDS,
    uses=("weights", "costs"),
    source="Cornuejols, Fisher and Nemhauser 1977, the score being the demand",
    prefix=facility.same_at_every_budget,
)
def weighted_facility_location(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    score: str = "mean_entropy",
    kernel: Kernel = "rbf",
    gamma: Width | Literal["auto"] = _WIDTH,
    engine: Engine = "auto",
    budget_cost: float | None = None,
) -> Picks:
    """facility_location in which a prompt counts as much as the model is unsure of it. Use it to represent the whole
    pool, the uncertain regions more densely; a certain prompt may be picked where it stands for uncertain ones.

    A prompt counts by its score, less the lowest where that is negative (and times its weight where weights are
    given). Gain and certificate are those of facility_location with these weights, with costs, too.
    """
    values = candidates.scores[score].astype(np.float64)
    doubt = values - min(float(values.min()), 0.0)
    weights = doubt if candidates.weights is None else doubt * candidates.weights
    if not weights.any():
        weights = np.ones(len(values))
    weighted = replace(candidates, weights=weights)
    return facility.facility_location(
        weighted, budget, rng, kernel=kernel, gamma=gamma, engine=engine, budget_cost=budget_cost
    )


@strategy(
    name="uncertain_facility_location",
    needs=_NEEDS,
    uses=("weights",),
    source="coverage plus a reward, Lin and Bilmes 2011, A Class of Submodular Functions for Document Summarization",
    prefix=True,
)
def uncertain_facility_location(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    score: str = "mean_entropy",
    trade_off: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0,
    kernel: Kernel = "rbf",
    gamma: Width = _WIDTH,
) -> Picks:
    """facility_location plus ``trade_off`` times the uncertainty of the picks themselves. Use it to represent the pool
    by prompts that the model is unsure of, where it has the choice.

    Uncertainty is the rank of the score, from 0 to 1: with a trade_off of 1 the most uncertain prompt is worth as much
    as covering one more prompt completely. The gain of a pick is what it adds to both.
    """
    from thriftune.selection.engine.blocks import workers
    from thriftune.selection.engine.cover import everyone, pick
    from thriftune.selection.engine.greedy import Greedy, Terms
    from thriftune.selection.engine.lines import Lines, similarities
    from thriftune.selection.engine.width import similarity

    assert candidates.embeddings is not None
    sim = similarity(candidates.embeddings, kernel, gamma, 1)
    n = len(sim)
    u = np.ones(n, np.float32) if candidates.weights is None else candidates.weights.astype(np.float32)
    terms = Terms(trade_off * ranks(candidates.scores[score]) / n, np.ones(n), np.zeros(n))
    state = Greedy(np.zeros(n, np.float32), candidates.annotated.copy())
    partial = False
    with progress("uncertain_facility_location", budget, "picks") as advance, workers() as run:
        lines = Lines(sim, run)
        annotated = np.flatnonzero(candidates.annotated)
        try:
            for begin in range(0, len(annotated), _TOGETHER):
                alike = similarities(sim, annotated[begin : begin + _TOGETHER], run).max(axis=0)
                np.maximum(state.cover, alike, out=state.cover)
            pick(lines, u, state, terms, everyone(lines, u, state, terms), budget, advance)
        except KeyboardInterrupt:
            partial = True
    rest = np.flatnonzero(~state.taken)[: 0 if partial else budget - len(state.rows)]
    rows, gains = np.append(state.rows, rest).astype(np.int64), np.append(state.gains, np.zeros(len(rest)))
    return Picks(rows, gains, notes={**sim.notes(), **state.notes}, partial=partial)
