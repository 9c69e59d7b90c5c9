"""prob_cover against its definition, worked by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import check_greedy, squared_distances

from thriftune.selection.run import select
from thriftune.selection.strategies.prob_cover import _pure_radius

LINE = np.array([0, 1, 2, 3, 10, 11, 20], np.float32)[:, None]


def test_worked_by_hand() -> None:
    # Radius 1.5: 1 and 2 both cover three; 1 is lower. Left: 3, 10, 11, 20. 10 covers two; then 2 and 3 cover 3, 20
    # itself: 2 is lowest.
    selection = select(embeddings=LINE, strategy="prob_cover", budget=4, radius=1.5)
    assert selection.rows.tolist() == [1, 4, 2, 6]
    assert selection.gains is not None
    assert selection.gains.tolist() == [3, 2, 1, 1]


def test_what_is_annotated_covers_already() -> None:
    annotated = np.array([False, True, False, False, False, False, False])
    selection = select(embeddings=LINE, annotated=annotated, strategy="prob_cover", budget=2, radius=1.5)
    assert selection.rows.tolist() == [4, 2]


def test_weights_count() -> None:
    weights = np.array([1, 1, 1, 1, 1, 1, 9.0])
    assert select(embeddings=LINE, weights=weights, strategy="prob_cover", budget=1, radius=1.5).rows.tolist() == [6]


def test_the_radius_is_halved_when_all_are_covered() -> None:
    # Within 3.9, rows 0, 4 and 6 cover everything. Within 1.95 they leave rows 2 and 3: row 1 covers one, row 2 both.
    selection = select(embeddings=LINE, strategy="prob_cover", budget=4, radius=3.9)
    assert selection.rows.tolist() == [0, 4, 6, 2]
    assert selection.gains is not None
    assert selection.gains.tolist() == [4, 2, 1, 2]


@pytest.mark.parametrize("warm", [False, True])
def test_every_pick_is_a_best_one(warm: bool) -> None:
    x = np.random.default_rng(4).normal(size=(70, 3)).astype(np.float32)
    near = squared_distances(x) < 1.2**2
    annotated = (np.arange(70) % 11 == 3) & warm

    def value(chosen: list[int]) -> float:
        return float(near[:, chosen].any(axis=1).sum())

    selection = select(embeddings=x, annotated=annotated, strategy="prob_cover", budget=9, radius=1.2)
    check_greedy(value, selection, np.flatnonzero(annotated).tolist(), picks=70)


def test_the_automatic_radius_is_the_largest_with_pure_balls() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(40, 2)), rng.normal(size=(40, 2)) + 30]).astype(np.float32)
    radius = _pure_radius(x, 2)
    distances = np.sqrt(squared_distances(x))
    group = np.arange(80) // 40

    def purity(reach: float) -> float:
        return float(np.mean([(group[distances[i] < reach] == group[i]).all() for i in range(80)]))

    assert purity(radius * 0.999) >= 0.95
    assert purity(radius * 1.01) < 0.95 or purity(radius * 1.05) < 0.95
