"""Determinantal point process: good prompts that differ from each other."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.geometry import transform
from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.selection.scalar import ranks
from thriftune.types import Candidates, Picks


@strategy(
    name="dpp",
    needs=("embeddings", "scores:{score}"),
    source="Kulesza and Taskar 2012, arXiv 1207.6083; greedy, Chen, Zhang and Zhou 2018, arXiv 1709.05135",
    prefix=True,
    by_angle=True,
)
def dpp(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    score: str = "mean_entropy",
    trade_off: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0,
    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1,
) -> Picks:
    """Prompts that score high and point in different directions: a set is as good as its volume, each prompt scaled by
    its score. Use it for uncertainty without repetition; beyond as many picks as dimensions, diversity counts less.

    Greedy for the most probable set under the kernel q_i q_j (cos_ij + noise [i = j]) with
    q_i^2 = exp(trade_off * rank of the score, from 0 to 1). The gain of a pick is what it adds to the log determinant.
    """
    from thriftune.selection.engine.log_det import log_det

    assert candidates.embeddings is not None
    x = transform(candidates.embeddings, "l2")
    merit = trade_off * ranks(candidates.scores[score]) / len(x)
    chosen = np.flatnonzero(candidates.annotated)
    # det(X X' + noise I) over k picks is noise^(k - d) det(X' X + noise I): the update is d x d whatever k is.
    with progress("dpp", budget, "picks") as advance:
        found = log_det(x, budget, ridge=noise, chosen=chosen, merit=merit + np.log(noise), advance=advance)
    return Picks(found.rows, found.gains, partial=found.partial)
