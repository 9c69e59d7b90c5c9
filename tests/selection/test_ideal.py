"""ideal: reach by brute force, and the chances that influence passes with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from thriftune.selection.engine.graphs import spread
from thriftune.selection.run import select
from thriftune.selection.strategies.ideal import _draw


def ignore(amount: float) -> None:
    pass


def reach(edges: list[set[tuple[int, int]]], chosen: list[int]) -> int:
    total = 0
    for world in edges:
        found = set(chosen)
        while more := {b for a, b in world if a in found} - found:
            found |= more
        total += len(found)
    return total


def lists(edges: list[set[tuple[int, int]]], n: int) -> tuple[Any, Any]:
    successors = [sorted(b for a, b in world if a == i) for world in edges for i in range(n)]
    start = np.concatenate([[0], np.cumsum([len(s) for s in successors])]).astype(np.int64)
    return start, np.array([b for s in successors for b in s], np.int32)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_every_pick_newly_reaches_most(seed: int, warm: bool) -> None:
    generator = np.random.default_rng(seed)
    n, worlds = 25, 3
    edges = [{(int(a), int(b)) for a, b in generator.integers(0, n, (22, 2)) if a != b} for _ in range(worlds)]
    annotated = (np.arange(n) % 9 == 4) & warm
    chosen = np.flatnonzero(annotated).tolist()
    rows, gains, partial = spread(*lists(edges, n), n, worlds, annotated, 20, ignore)
    assert not partial
    for row, gain in zip(rows.tolist(), gains, strict=True):
        before = reach(edges, chosen)
        added = [-1 if i in chosen else reach(edges, [*chosen, i]) - before for i in range(n)]
        assert row == int(np.argmax(added))
        assert gain == added[row] > 0
        chosen.append(row)
    if len(rows) < 20:
        assert reach(edges, chosen) == worlds * n


def test_influence_passes_with_the_neighbours_share_of_the_cosines() -> None:
    graph = np.array([[1, 2], [0, 2], [0, -1], [1, 2]])
    cosine = np.array([[0.9, 0.3], [0.5, 0.5], [0.7, 0.0], [0.0, 0.0]], np.float32)
    worlds = 4000
    start, target = _draw(graph, cosine, worlds, np.random.default_rng(0))
    passed = np.zeros((4, 4))
    for i in range(4 * worlds):
        for b in target[start[i] : start[i + 1]]:
            passed[i % 4, b] += 1 / worlds
    expected = [[0, 0.75, 0.25, 0], [0.5, 0, 0.5, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(passed, expected, atol=0.03)


def test_dense_regions_come_first_and_everything_is_reached_in_the_end() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(72, 4)).astype(np.float32)
    x[:60, 0] += 9
    x[60:, 1] += 9
    selection = select(embeddings=x, strategy="ideal", budget=72)
    assert selection.rows[0] < 60
    assert selection.gains is not None
    assert np.all(np.diff(selection.gains) <= 0)
    assert selection.gains.sum() == pytest.approx(72)
