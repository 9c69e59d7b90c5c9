"""TypiClust: the most typical prompt of each cluster that has none annotated."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, FloatArray, Picks

_SMALL = 5  # clusters up to this size count as stray prompts
_CELLS = 2**22


@strategy(
    name="typiclust",
    needs=("embeddings",),
    source="Hacohen, Dekel and Weinshall 2022, arXiv 2202.02794",
    randomised=True,
)
def typiclust(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    clusters: Annotated[int, Field(ge=1)] = 500,
    neighbours: Annotated[int, Field(ge=1)] = 20,
) -> Picks:
    """The prompt in the densest spot of each cluster, clusters with the fewest annotated prompts first and large ones
    before small ones. Use it when only few prompts can be annotated and each should stand for a kind of its own.

    There are as many clusters as picks and annotated prompts together, at most ``clusters``; beyond that each gives
    several. Density is one over the mean distance to the nearest members, at most ``neighbours`` and half the cluster.
    Clusters of up to 5 come last. The gain of a pick is its density.
    """
    from thriftune.selection.engine.lloyd import k_means

    x, annotated = candidates.embeddings, candidates.annotated
    assert x is not None
    count = min(budget + int(annotated.sum()), clusters)
    with progress("typiclust", len(x), "prompts") as advance:
        found = k_means(x, count, rng)
        labels, partial = found.labels, found.partial
        density = np.full(len(x), -1.0)
        try:
            for members in np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1]):
                density[members] = _density(x[members], neighbours)
                advance(len(members))
        except KeyboardInterrupt:
            partial = True
    size = np.bincount(labels, minlength=count)
    covered = np.bincount(labels[annotated], minlength=count)
    turn = np.empty(count, np.int64)
    turn[np.lexsort((np.arange(count), -size, covered, size <= _SMALL))] = np.arange(count)
    free = np.flatnonzero(~annotated & (density >= 0))  # all, unless interrupted
    free = free[np.lexsort((free, -density[free], labels[free]))]
    # In each round every cluster gives its densest prompt that is left; small clusters wait until all others gave.
    starts = np.searchsorted(labels[free], np.arange(count))
    round_of = np.arange(len(free)) - starts[labels[free]]
    order = np.lexsort((turn[labels[free]], round_of, size[labels[free]] <= _SMALL))
    rows = free[order][:budget]
    return Picks(rows, density[rows], notes={"clusters": int((size > 0).sum())}, partial=partial)


def _density(a: FloatArray, neighbours: int) -> FloatArray:
    """(m,) float64: one over the mean distance of each row of a cluster to its nearest others."""
    m = len(a)
    k = min(neighbours, m // 2)
    if k == 0:
        return np.zeros(m)
    a = a - a.mean(axis=0)
    half = np.einsum("ij,ij->i", a, a) / 2
    found = np.empty(m)
    step = max(16, _CELLS // m)
    for begin in range(0, m, step):
        rows = slice(begin, min(begin + step, m))
        squared = 2 * (half[rows, None] + half - a[rows] @ a.T)
        squared[np.arange(rows.stop - begin), np.arange(begin, rows.stop)] = np.inf
        nearest = np.partition(squared, k - 1, axis=1)[:, :k]
        found[rows] = np.sqrt(np.maximum(nearest, 0), dtype=np.float64).mean(axis=1)
    return 1 / (found + 1e-5)
