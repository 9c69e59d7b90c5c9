"""Facility location: every prompt of the pool represented by a similar pick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from thriftune.errors import StrategyError
from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, Picks

if TYPE_CHECKING:
    from thriftune.selection.engine.facility import FacilityResult
    from thriftune.selection.engine.priced import PricedResult

# Over 1,500 prompts of T0 with SmolLM2-135M's hidden states and budgets of 25 to 600, widths from 0.35 to 2, auto
# among them, did equally well by the nearest pick's task label and distance; below 0.2 small budgets did worse.
_WIDTH = 0.5
Width = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kernel = Literal["rbf", "local", "cosine"]
Engine = Literal["auto", "exact", "neighbours", "dense"]


def same_at_every_budget(params: Mapping[str, Any], notes: Mapping[str, Any]) -> bool:
    """Whether every prefix of a selection is the selection at that smaller budget."""
    # The graph of neighbours is made finer for larger budgets.
    return (params["kernel"] == "cosine" or params["gamma"] != "auto") and notes.get("engine") != "neighbours"


@strategy(
    name="facility_location",
    needs=("embeddings",),
    uses=("weights", "costs"),
    source="Cornuejols, Fisher and Nemhauser 1977; Bhatt et al. 2024, arXiv 2401.06692; costs, Leskovec et al. 2007",
    prefix=same_at_every_budget,
)
def facility_location(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    kernel: Kernel = "rbf",
    gamma: Width | Literal["auto"] = _WIDTH,
    engine: Engine = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    budget_cost: float | None = None,
) -> Picks:
    """Prompts that together are most similar to the whole pool: each prompt counts by its similarity to the nearest
    pick. Use it to cover what the pool mostly holds, with dense regions covered first and outliers last.

    The gain of a pick is what it adds to the sum of similarities. The certificate bounds what any set of as many
    prompts could add, and says how far of the way from random picks to that bound these go. ``gamma`` is the width of
    the similarity in units of the mean squared distance. A fixed one makes every prefix the selection at that smaller
    budget; ``auto`` fits it to the budget: a typical prompt's similarity to its ceil(n / budget)-th neighbour is then
    one half. ``device=cuda`` computes products on a GPU.

    ``kernel=local`` measures distances by how crowded it is around the two prompts (their distance to their 7th
    neighbour, Zelnik-Manor and Perona 2004), so that kinds of prompts which vary much in themselves do not get most of
    the later picks.

    With costs, the picks are the better of two greedy choices, by gain per cost and by gain: at least 31 % of the best
    that the money buys, and the certificate says how much more. Nothing is bought that adds nothing.
    """
    from thriftune.selection.engine.facility import facility_location as greedy

    assert candidates.embeddings is not None
    if budget_cost is not None:
        if device != "cpu":
            raise StrategyError(f"with costs there is no work for a GPU: leave device={device} out")
        return _for_money(candidates, budget_cost, kernel, gamma, engine)
    with progress("facility_location", budget, "picks") as advance:
        found = greedy(
            candidates.embeddings,
            budget,
            kernel=kernel,
            gamma=gamma,
            weights=candidates.weights,
            chosen=np.flatnonzero(candidates.annotated),
            engine=engine,
            device=None if device == "cpu" else device,
            advance=advance,
        )
    certificate = _certificate("facility_location", found)
    finished = len(found.rows) > 0 and np.isfinite(found.bound)
    return Picks(found.rows, found.gains, certificate if finished else None, found.notes, found.partial)


def _for_money(candidates: Candidates, money: float, kernel: str, gamma: float | Literal["auto"], engine: str) -> Picks:
    from thriftune.selection.engine.priced import facility_location_for

    assert candidates.embeddings is not None
    assert candidates.costs is not None
    with progress("facility_location", 2 * money, "cost") as advance:
        found = facility_location_for(
            candidates.embeddings,
            money,
            costs=candidates.costs.astype(np.float64),
            kernel=kernel,
            gamma=gamma,
            weights=candidates.weights,
            chosen=np.flatnonzero(candidates.annotated),
            engine=engine,
            advance=advance,
        )
    certificate = {**_certificate("priced_facility_location", found), "cost": found.cost, "budget_cost": money}
    known = len(found.rows) > 0 and np.isfinite(found.bound)
    return Picks(found.rows, found.gains, certificate if known else None, found.notes, found.partial)


def _certificate(kind: str, found: FacilityResult | PricedResult) -> dict[str, Any]:
    from thriftune.selection.engine.chance import share_above_random

    certificate: dict[str, Any] = {
        "kind": kind,
        "value": found.value,
        "upper_bound": found.bound,
        "ratio": found.value / found.bound if found.bound > 0 else 1.0,
        # The bound holds as far as the graph has each row's nearest neighbours.
        "on_graph": found.notes.get("engine") == "neighbours" and "partitions" not in found.notes,
    }
    if not found.partial:
        certificate["random"] = found.value - found.ahead
        certificate["above_random"] = share_above_random(found.ahead, found.bound - found.value)
    return certificate
