"""Hybrids of uncertainty and coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.selection.scalar import ranks
from thriftune.selection.strategies import facility, k_center
from thriftune.types import Candidates, FloatArray, IntArray, Picks

if TYPE_CHECKING:
    from thriftune.selection.engine.blocks import Run
    from thriftune.selection.engine.width import Similarity

_WIDTH = 0.5
_FILTER = "Wei, Iyer and Bilmes 2015, Submodularity in Data Subset Selection and Active Learning"
_NEEDS = ("embeddings", "scores:{score}")
Share = Annotated[float, Field(gt=0, le=1)]
Width = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Engine = Literal["auto", "exact", "neighbours", "dense"]


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
    gamma: Width | Literal["auto"] = _WIDTH,
    engine: Engine = "auto",
) -> Picks:
    """facility_location among the share ``keep`` of the prompts that score highest. Use it to represent what the model
    is unsure of, and to spend nothing on what it has mastered.

    The gain of a pick is what it adds to the similarity of the prompts kept to their nearest pick. The certificate
    speaks of the prompts kept.
    """
    rows = _most_uncertain(candidates, budget, score, keep)
    picks = facility.facility_location(candidates.take(rows), budget, rng, gamma=gamma, engine=engine)
    return _of_the_kept(picks, rows, len(candidates))


def _same_at_every_budget(params: Mapping[str, Any], notes: Mapping[str, Any]) -> bool:
    return params["gamma"] != "auto" and notes.get("engine") != "neighbours"


@strategy(
    name="weighted_facility_location",
    needs=_NEEDS,
    uses=("weights",),
    source="Cornuejols, Fisher and Nemhauser 1977, the score being the demand",
    prefix=_same_at_every_budget,
)
def weighted_facility_location(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    score: str = "mean_entropy",
    gamma: Width | Literal["auto"] = _WIDTH,
    engine: Engine = "auto",
) -> Picks:
    """facility_location in which a prompt counts as much as the model is unsure of it. Use it to represent the whole
    pool, the uncertain regions more densely; a certain prompt may be picked where it stands for uncertain ones.

    A prompt counts by its score less the lowest score there is (and times its weight where weights are given). Gain
    and certificate are those of facility_location with these weights.
    """
    values = candidates.scores[score].astype(np.float64)
    doubt = values - min(float(values.min()), 0.0)
    weights = doubt if candidates.weights is None else doubt * candidates.weights
    if not weights.any():
        weights = np.ones(len(values))
    return facility.facility_location(replace(candidates, weights=weights), budget, rng, gamma=gamma, engine=engine)


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
    kernel: Literal["rbf", "cosine"] = "rbf",
    gamma: Width = _WIDTH,
) -> Picks:
    """facility_location plus ``trade_off`` times the uncertainty of the picks themselves. Use it to represent the pool
    by prompts that the model is unsure of, where it has the choice.

    Uncertainty is the rank of the score, from 0 to 1: with a trade_off of 1 the most uncertain prompt is worth as much
    as covering one more prompt completely. The gain of a pick is what it adds to both.
    """
    from thriftune.selection.engine.blocks import workers
    from thriftune.selection.engine.lookahead import first_gains, pick_by_batches
    from thriftune.selection.engine.width import similarity

    assert candidates.embeddings is not None
    sim = similarity(candidates.embeddings, kernel, gamma, 1)
    weights = np.ones(len(sim)) if candidates.weights is None else candidates.weights.astype(np.float64)
    merit = trade_off * ranks(candidates.scores[score]) / len(sim)
    with progress("uncertain_facility_location", budget, "picks") as advance, workers() as run:
        covered = _Covered(sim, weights, merit, run)
        for row in np.flatnonzero(candidates.annotated):
            covered.take(covered.block(np.array([row]))[0], int(row))
        bound = first_gains(covered, ~candidates.annotated)
        rows, gains, partial = pick_by_batches(covered, bound, budget, advance)
    return Picks(np.array(rows, np.int64), np.array(gains), notes=sim.notes(), partial=partial)


class _Covered:
    """sum_i u_i max_{j picked} w_ij + sum_{j picked} merit_j.

    Args:
        sim: w.
        weights: (n,) u.
        merit: (n,) float64.
        run: threads.
    """

    def __init__(self, sim: Similarity, weights: FloatArray, merit: FloatArray, run: Run[Any]) -> None:
        self.sim, self.weights, self.merit, self.run = sim, weights, merit, run
        self.cover = np.zeros(len(sim), np.float32)

    def block(self, rows: IntArray) -> FloatArray:
        from thriftune.selection.engine.lookahead import similarities

        return similarities(self.sim, rows, self.run)

    def gains(self, block: FloatArray, rows: IntArray) -> FloatArray:
        return np.maximum(block - self.cover, 0) @ self.weights + self.merit[rows]

    def take(self, line: FloatArray, row: int) -> None:
        np.maximum(self.cover, line, out=self.cover)
