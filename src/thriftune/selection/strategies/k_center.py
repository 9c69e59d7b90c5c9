"""k-center: no prompt of the pool far from a picked one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, Picks


def _random_start(params: Mapping[str, Any]) -> bool:
    return params["start"] == "random"


@strategy(
    name="k_center",
    needs=("embeddings",),
    source="Gonzalez 1985; as a core-set for labelling, Sener and Savarese 2018, arXiv 1708.00489",
    prefix=True,
    randomised=_random_start,
)
def k_center(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    start: Literal["mean", "random"] = "mean",
    device: Literal["cpu", "cuda"] = "cpu",
) -> Picks:
    """Each pick is the prompt farthest from everything picked or annotated before (farthest first). Use it to reach
    the rare corners of a pool; where the pool holds junk it will be among the first picks.

    The gain of a pick is its distance to the nearest earlier one; the very first, which has none, carries the distance
    of the prompt farthest from it. The certificate: no set of as many prompts has a radius below half of ours.
    ``device=cuda`` computes products on a GPU.
    """
    from thriftune.selection.engine.farthest import k_center as farthest

    assert candidates.embeddings is not None
    chosen = np.flatnonzero(candidates.annotated)
    first = None
    if start == "random" and len(chosen) == 0:
        first = int(rng.integers(len(candidates)))
    with progress("k_center", budget, "picks") as advance:
        found = farthest(
            candidates.embeddings,
            budget,
            chosen=chosen,
            start=first,
            device=None if device == "cpu" else device,
            advance=advance,
        )
    gains = np.array(found.distances, np.float64)
    if len(gains) and len(chosen) == 0:
        gains[0] = gains[1] if len(gains) > 1 else found.radius
    certificate = {"kind": "k_center", "radius": found.radius, "lower_bound": found.radius / 2}
    return Picks(found.rows, gains, certificate if len(gains) else None, partial=found.partial)
