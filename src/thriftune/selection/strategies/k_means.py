"""k-means: the prompts nearest the centres of as many clusters as there are picks."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, Picks


@strategy(
    name="k_means",
    needs=("embeddings",),
    source="Lloyd 1982; k-means++, Arthur and Vassilvitskii 2007; for labelling, Zhdanov 2019, arXiv 1901.05954",
    randomised=True,
)
def k_means(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    iterations: Annotated[int, Field(ge=0, le=1000)] = 20,
) -> Picks:
    """The prompt nearest the centre of each of as many clusters as there are picks. Use it to spread picks over the
    pool in proportion to its density in embedding space, without the outliers that k_center seeks.

    Annotated prompts are centres that do not move. The gain of a pick is the size of its cluster; the largest come
    first. Where there are fewer clusters than picks, the prompts farthest from their centre follow, with gain 0.
    """
    from thriftune.selection.engine.lloyd import k_means as clusters

    x, annotated = candidates.embeddings, candidates.annotated
    assert x is not None
    fixed = int(annotated.sum())
    with progress("k_means", iterations + 1, "passes") as advance:
        found = clusters(x, budget, rng, fixed=x[annotated], iterations=iterations, advance=advance)
    members = np.flatnonzero(~annotated & (found.labels >= fixed))
    by_distance = members[np.argsort(found.squared[members], kind="stable")]
    labels, first = np.unique(found.labels[by_distance], return_index=True)
    nearest = by_distance[first]
    sizes = np.bincount(found.labels, minlength=len(found.centres))[labels]
    order = np.lexsort((nearest, -sizes))
    taken = annotated.copy()
    taken[nearest] = True
    rest = np.flatnonzero(~taken)
    rest = rest[np.argsort(-found.squared[rest], kind="stable")][: 0 if found.partial else budget - len(nearest)]
    rows = np.concatenate([nearest[order], rest])[:budget]
    gains = np.concatenate([sizes[order], np.zeros(len(rest))])[:budget]
    notes = {"inertia": found.inertia, "iterations": found.iterations}
    return Picks(rows, gains, notes=notes, partial=found.partial)
