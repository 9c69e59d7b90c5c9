"""Rank correlation against scipy, the expectation against counting."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from thriftune.selection.scalar import expected_touched, ranks, spearman


def test_ranks_by_hand() -> None:
    assert ranks(np.array([10.0, 30.0, 10.0, 20.0])).tolist() == [1.5, 4, 1.5, 3]


def test_spearman_agrees_with_scipy_with_ties_and_without() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    for spread in (5, 10_000):
        a = rng.integers(0, spread, 200)
        b = a + rng.integers(0, spread, 200)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_a_constant_column_has_no_correlation() -> None:
    assert spearman(np.ones(4), np.arange(4)) is None


def test_expected_touched_is_the_mean_over_all_draws() -> None:
    sizes = np.array([1, 2, 4])
    labels = np.repeat(np.arange(3), sizes)
    for draws in range(1, 8):
        touched = [len({labels[i] for i in chosen}) for chosen in combinations(range(7), draws)]
        assert expected_touched(sizes, draws) == pytest.approx(np.mean(touched))
