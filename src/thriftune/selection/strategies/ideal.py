"""IDEAL: prompts whose influence, spreading from neighbour to neighbour, reaches most of the pool."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, FloatArray, IntArray, Picks


@strategy(
    name="ideal",
    needs=("embeddings",),
    source="Zhang et al. 2023, IDEAL, arXiv 2310.10873; worlds drawn once, Kempe, Kleinberg and Tardos 2003",
    prefix=True,
    randomised=True,
    by_angle=True,
)
def ideal(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    neighbours: Annotated[int, Field(ge=1)] = 10,
    worlds: Annotated[int, Field(ge=1, le=1000)] = 10,
) -> Picks:
    """Each pick is the prompt that newly reaches most prompts, when influence passes from a prompt to its
    ``neighbours`` nearest at random. Use it to choose examples that represent the pool along its own structure.

    Influence passes to a neighbour with the chance that its cosine has among those of all neighbours, and reach is
    averaged over ``worlds`` outcomes. The paper draws them anew for every evaluation, we once, which makes the greedy
    choice exact. The gain of a pick is the number of prompts newly reached, itself included; when all are reached, the
    rest follow in the order of their neighbours' cosines, most alike first.
    """
    from thriftune.selection.engine.blocks import workers
    from thriftune.selection.engine.graphs import spread
    from thriftune.selection.engine.nearest import nearest

    assert candidates.embeddings is not None
    n = len(candidates)
    with progress("ideal", budget, "picks") as advance:
        with workers() as run:
            graph, cosine = nearest(candidates.embeddings, min(neighbours, n - 1), run)
        start, target = _draw(graph, cosine, worlds, rng)
        rows, gains, partial = spread(start, target, n, worlds, candidates.annotated, budget, advance)
    if not partial and len(rows) < budget:
        taken = candidates.annotated.copy()
        taken[rows] = True
        rest = np.flatnonzero(~taken)
        rest = rest[np.argsort(-cosine[rest].sum(axis=1), kind="stable")][: budget - len(rows)]
        rows, gains = np.concatenate([rows, rest]), np.concatenate([gains, np.zeros(len(rest))])
    return Picks(rows, gains / worlds, partial=partial)


def _draw(graph: IntArray, cosine: FloatArray, worlds: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Which neighbours each row passes its influence to in each world.

    Args:
        graph: (n, k) neighbours, -1 for none.
        cosine: (n, k) >= 0.
        worlds: how many outcomes.
        rng: draws them.

    Returns:
        ``target[start[w * n + i] : start[w * n + i + 1]]`` are the rows that row i passes to in world w.
    """
    total = cosine.sum(axis=1, dtype=np.float64, keepdims=True)
    chance = np.where((graph >= 0) & (total > 0), cosine / np.where(total > 0, total, 1), 0)
    counts, targets = [], []
    for _ in range(worlds):
        passes = rng.random(graph.shape) < chance
        counts.append(passes.sum(axis=1))
        targets.append(graph[passes].astype(np.int32))
    start = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return start.astype(np.int64), np.concatenate(targets)
