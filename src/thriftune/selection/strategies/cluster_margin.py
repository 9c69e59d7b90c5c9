"""Cluster-Margin: uncertain prompts, taken in turn from the clusters they fall into."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, Picks

_PASSES = 20


@strategy(
    name="cluster_margin",
    needs=("embeddings", "scores:{score}"),
    source="Citovsky et al. 2021, Batch Active Learning at Scale, arXiv 2107.14263",
    randomised=True,
)
def cluster_margin(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    score: str = "mean_margin",
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0,
    clusters: Annotated[int, Field(ge=1)] = 1000,
) -> Picks:
    """Of the ``factor`` times as many prompts that score highest as are wanted, one from each cluster in turn, small
    clusters first. Use it to keep near copies out of an uncertain selection at little cost.

    Within a cluster the choice is random, as published. The clusters are k-means over the whole pool, where the paper
    has hierarchical ones, which would need all pairs.
    """
    from thriftune.selection.engine.lloyd import k_means

    assert candidates.embeddings is not None
    free = np.flatnonzero(~candidates.annotated)
    count = min(len(free), int(np.ceil(factor * budget)))
    uncertain = np.sort(free[np.argsort(-candidates.scores[score][free], kind="stable")][:count])
    with progress("cluster_margin", _PASSES + 1, "passes") as advance:
        found = k_means(candidates.embeddings, min(clusters, len(candidates)), rng, iterations=_PASSES, advance=advance)
    labels = found.labels[uncertain]
    shuffled = rng.permutation(len(uncertain))
    uncertain, labels = uncertain[shuffled], labels[shuffled]
    sizes = np.bincount(labels)
    by_cluster = np.argsort(labels, kind="stable")
    starts = np.cumsum(sizes) - sizes
    round_of = np.empty(len(labels), np.int64)
    round_of[by_cluster] = np.arange(len(labels)) - starts[labels[by_cluster]]
    rows = uncertain[np.lexsort((labels, sizes[labels], round_of))][:budget]
    notes = {"uncertain": count, "clusters": int((sizes > 0).sum())}
    return Picks(rows, notes=notes, partial=found.partial)
