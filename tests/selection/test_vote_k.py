"""vote_k against the paper's formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from brute_force import cosine

from thriftune.selection.run import select


def voted_for(x: Any, k: int) -> list[set[int]]:
    similar = cosine(x)
    np.fill_diagonal(similar, -2)
    return [set(np.argsort(-row)[:k].tolist()) for row in similar]


def score(u: int, graph: list[set[int]], chosen: list[int]) -> float:
    return sum(10.0 ** -len(graph[v] & set(chosen)) for v in range(len(graph)) if u in graph[v] and v not in chosen)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("neighbours", [3, 8, 150])
def test_every_pick_has_the_most_votes(neighbours: int, warm: bool) -> None:
    x = np.random.default_rng(5).normal(size=(50, 6)).astype(np.float32)
    graph = voted_for(x, min(neighbours, 49))
    annotated = (np.arange(50) % 16 == 3) & warm
    chosen = np.flatnonzero(annotated).tolist()
    selection = select(embeddings=x, annotated=annotated, strategy="vote_k", budget=20, neighbours=neighbours)
    assert selection.gains is not None
    for row, gain in zip(selection.rows.tolist(), selection.gains, strict=True):
        scores = {u: score(u, graph, chosen) for u in range(50) if u not in chosen}
        assert gain == pytest.approx(scores[row])
        best = max(scores.values())
        assert row == min(u for u, s in scores.items() if s >= best * (1 - 1e-9))
        chosen.append(row)


def test_worked_by_hand() -> None:
    # Directions at 0, 10, 20 and 90 degrees, one vote each: 0 -> 10, 10 -> 0 (or 20), 20 -> 10, 90 -> 20.
    angles = np.deg2rad([0, 10, 20.5, 90])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    selection = select(embeddings=x, strategy="vote_k", budget=3, neighbours=1)
    # Row 1 has two votes. It votes no more, so row 0 has none; row 2 has that of row 3, which was not served.
    assert selection.rows.tolist() == [1, 2, 0]
    assert selection.gains is not None
    assert selection.gains.tolist() == [2, 1, 0]
