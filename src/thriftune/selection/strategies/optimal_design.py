"""The classical experimental designs for a linear model on the embeddings: D-optimal and V-optimal."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.progress import Advance, progress
from thriftune.selection.registry import strategy
from thriftune.types import BoolArray, Candidates, FloatArray, Picks

Ridge = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_REFRESH = 128


def _prior(x: FloatArray, ridge: float) -> float:
    """``ridge`` in units of the mean squared length per dimension: 1 weighs as much as one typical prompt."""
    typical = float(np.einsum("ij,ij->", x, x, dtype=np.float64)) / x.size
    return ridge * (typical if typical > 0 else 1.0)


@strategy(
    name="d_optimal",
    needs=("embeddings",),
    source="Fedorov 1972, Theory of Optimal Experiments; greedy with a ridge, Krause, Singh and Guestrin 2008",
    prefix=True,
)
def d_optimal(candidates: Candidates, budget: int, rng: np.random.Generator, *, ridge: Ridge = 1.0) -> Picks:
    """Prompts whose embeddings together span the most volume: what a linear model on the embeddings would learn most
    from. Use it with embeddings that a linear head will read; it seeks unusual directions, as k_center seeks corners.

    Maximises log det(ridge I + sum of e e') over the prompts picked or annotated; ``ridge`` is in units of the mean
    squared length of an embedding per dimension. The gain of a pick is what it adds.
    """
    from thriftune.selection.engine.log_det import log_det

    x = candidates.embeddings
    assert x is not None
    chosen = np.flatnonzero(candidates.annotated)
    prior = _prior(x, ridge)
    with progress("d_optimal", budget, "picks") as advance:
        found = log_det(x, budget, ridge=prior, chosen=chosen, advance=advance)
    return Picks(found.rows, found.gains, notes={"ridge": prior}, partial=found.partial)


@strategy(
    name="v_optimal",
    needs=("embeddings",),
    source="Fedorov 1972, Theory of Optimal Experiments; transductive design, Yu, Bi and Tresp 2006",
    prefix=True,
)
def v_optimal(candidates: Candidates, budget: int, rng: np.random.Generator, *, ridge: Ridge = 1.0) -> Picks:
    """Prompts that leave a linear model on the embeddings the least variance in its predictions for the whole pool.
    Use it as d_optimal where predictions matter more than parameters: unusual prompts count by how many there are.

    Minimises the mean of e' (ridge I + sum over picks of e e')^-1 e over the pool; ``ridge`` as in d_optimal. The gain
    of a pick is how much it lowers that mean. The objective is not submodular, so every candidate is looked at for
    every pick: the time grows with the number of prompts times that of picks.
    """
    x = candidates.embeddings
    assert x is not None
    prior = _prior(x, ridge)
    with progress("v_optimal", budget, "picks") as advance:
        rows, gains, partial = _least_variance(x, budget, prior, candidates.annotated, advance)
    return Picks(np.array(rows, np.int64), np.array(gains), notes={"ridge": prior}, partial=partial)


def _least_variance(
    x: FloatArray, budget: int, prior: float, annotated: BoolArray, advance: Advance
) -> tuple[list[int], list[float], bool]:
    """Greedy: adding x lowers tr(M^-1 S) by x' M^-1 S M^-1 x / (1 + x' M^-1 x), S being the sum of x x' of the pool."""
    from thriftune.selection.engine.log_det import compact, information, quadratic

    x = compact(x)
    pool = information(x, np.arange(len(x)), 0.0)
    total = information(x, np.flatnonzero(annotated), prior)
    taken = annotated.copy()
    rows: list[int] = []
    gains: list[float] = []
    often = max(_REFRESH, x.shape[1])
    last = -often
    try:
        while len(rows) < budget:
            # Products in single precision err in proportion to what they are taken from, so that comes anew when
            # gains have become small beside it.
            if len(rows) - last >= often or gains[-1] < 0.25 * gains[last]:
                last = len(rows)
                inverse = np.linalg.inv(total)
                lever = quadratic(x, inverse)  # x' M^-1 x
                reach = quadratic(x, inverse @ pool @ inverse)  # x' M^-1 S M^-1 x
            gain = np.where(taken, -np.inf, reach / (1 + lever))
            row = int(gain.argmax())
            rows.append(row)
            gains.append(float(gain[row]) / len(x))
            taken[row] = True
            new = x[row].astype(np.float64)
            u = inverse @ new
            v = inverse @ (pool @ u)
            shrink = 1 / (1 + new @ u)
            both = x @ np.stack([u, v], axis=1).astype(np.float32)
            p, q = both[:, 0].astype(np.float64), both[:, 1].astype(np.float64)
            reach += shrink * p * (shrink * float(new @ v) * p - 2 * q)
            lever -= shrink * p * p
            inverse -= shrink * np.outer(u, u)
            total += np.outer(new, new)
            advance(1)
    except KeyboardInterrupt:
        return rows[: len(gains)], gains, True
    return rows, gains, False
