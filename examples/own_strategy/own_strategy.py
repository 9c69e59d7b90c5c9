"""A strategy of your own: one function, registered by its decorator and found through the entry point."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune import Candidates, Picks, strategy


@strategy(
    name="uncertain_per_token",
    needs=("scores:mean_entropy", "lengths"),
    source="an example",
    prefix=True,
)
def uncertain_per_token(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    power: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5,
) -> Picks:
    """The prompts with the highest mean entropy divided by a power of their length. Use it where annotators are paid
    by the word and uncertain short prompts are the better buy."""
    assert candidates.lengths is not None
    value = candidates.scores["mean_entropy"] / np.maximum(candidates.lengths, 1.0) ** power
    free = np.flatnonzero(~candidates.annotated)
    best = free[np.argsort(-value[free], kind="stable")][:budget]
    return Picks(best, gains=value[best])
