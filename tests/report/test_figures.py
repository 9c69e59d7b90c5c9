from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from thriftune.report.figures import (
    RANDOM_SEEDS,
    coverage,
    histogram,
    nearest_pick,
    shown_points,
    spearman,
    task_shares,
)

rng = np.random.default_rng(0)


def test_spearman_agrees_with_scipy_also_with_ties() -> None:
    for _ in range(20):
        a, b = rng.integers(0, 9, 60).astype(float), rng.normal(size=60)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_leaves_out_what_is_not_finite_and_knows_when_there_is_none() -> None:
    a = np.array([1.0, 2, 3, np.nan, 5])
    assert spearman(a, np.array([2.0, 4, 6, 0, 7])) == pytest.approx(1)
    assert spearman(np.ones(5), a) is None
    assert spearman(a[:2], a[:2]) is None


def test_histogram_counts_every_value_once_and_agrees_with_numpy_inside() -> None:
    values = rng.normal(size=2000)
    values[7] = np.nan
    rows = np.arange(0, 2000, 3)
    found = histogram(values, {"s": rows})
    assert found is not None
    assert sum(found["pool"]) == 1999
    assert sum(found["picks"]["s"]) == len(rows)
    expected, _ = np.histogram(values[np.isfinite(values)], bins=found["edges"])
    assert found["pool"][1:-1] == expected[1:-1].tolist()
    assert found["low"] == np.nanmin(values)
    assert found["high"] == np.nanmax(values)


def test_histogram_of_a_constant_and_of_nothing() -> None:
    found = histogram(np.full(5, 2.0), {})
    assert found is not None
    assert sum(found["pool"]) == 5
    assert histogram(np.full(3, np.nan), {}) is None


def test_logarithmic_bins_have_equal_ratios() -> None:
    found = histogram(np.geomspace(1, 10_000, 500), {}, logarithmic=True)
    assert found is not None
    ratios = np.diff(np.log(found["edges"]))
    np.testing.assert_allclose(ratios, ratios[0])
    assert sum(found["pool"]) == 500


def test_coverage_of_points_on_a_line_by_hand() -> None:
    x = np.array([[0.0], [1], [2], [3], [10]], np.float32)
    found = coverage(x, {"s": np.array([0, 4])}, np.zeros(5, bool), None)
    assert found is not None
    # One pick at 0: distances 0 1 2 3 10. With 10 too: 0 1 2 3 0.
    assert found.budgets == [1, 2]
    np.testing.assert_allclose(found.selections["s"], [16 / 5, 6 / 5])


def test_coverage_counts_answered_prompts_as_covered_for_selection_and_random_alike() -> None:
    x = np.array([[0.0], [1], [2], [3], [10]], np.float32)
    found = coverage(x, {"s": np.array([1])}, np.array([False, False, False, False, True]), None)
    assert found is not None
    assert found.already == 1
    assert found.eligible == 4
    assert found.budgets == [0, 1]
    # Nothing picked: distances to 10 are 10 9 8 7 0; then 1 is picked: 1 0 1 2 0.
    np.testing.assert_allclose(found.selections["s"], [34 / 5, 4 / 5])
    np.testing.assert_allclose(found.random[:, 0], 34 / 5)


def test_coverage_agrees_with_distances_computed_by_scipy() -> None:
    x = rng.normal(size=(300, 5)).astype(np.float32)
    picks = rng.permutation(300)[:70]
    found = coverage(x, {"s": picks}, np.zeros(300, bool), None)
    assert found is not None
    for at, value in zip(found.budgets, found.selections["s"], strict=True):
        # The distance of a pick to itself is rounded: |x|^2 - 2 x.x + |x|^2 in float32.
        assert value == pytest.approx(cdist(x, x[picks[:at]]).min(axis=1).mean(), abs=2e-3)
    assert found.random.shape == (len(RANDOM_SEEDS), len(found.budgets))


def test_random_orders_draw_each_text_once_before_any_twice() -> None:
    # Two texts, one of them nine times: two distinct picks cover everything, whichever the seed.
    x = np.array([[0.0]] * 9 + [[5.0]], np.float32)
    found = coverage(x, {"s": np.array([0, 9])}, np.zeros(10, bool), np.array([0] * 9 + [9]))
    assert found is not None
    assert found.eligible == 2
    np.testing.assert_allclose(found.random[:, -1], 0, atol=1e-6)


def test_random_orders_leave_out_texts_that_are_answered() -> None:
    x = np.arange(4, dtype=np.float32)[:, None]
    covered = np.array([False, True, False, False])
    found = coverage(x, {"s": np.array([2])}, covered, np.array([0, 0, 2, 3]))
    assert found is not None
    assert found.eligible == 2  # row 0 has the text of row 1, which is answered


def test_a_random_selection_is_within_random_and_a_clumped_one_is_not() -> None:
    x = rng.normal(size=(400, 4)).astype(np.float32)
    clumped = np.argsort(np.linalg.norm(x - 2, axis=1))[:50]
    found = coverage(x, {"chance": rng.permutation(400)[:50], "clumped": clumped}, np.zeros(400, bool), None)
    assert found is not None
    chance, clump = found.against_random("chance"), found.against_random("clumped")
    assert chance is not None
    assert chance["within_random"]
    assert clump is not None
    assert not clump["within_random"]
    assert clump["change"] == pytest.approx(clump["distance"] / clump["random"] - 1)
    assert clump["change"] > 0.2


def test_coverage_without_selections_is_randoms_and_without_prompts_nothing() -> None:
    x = rng.normal(size=(30, 3)).astype(np.float32)
    found = coverage(x, {}, np.zeros(30, bool), None)
    assert found is not None
    assert found.budgets[-1] == 30
    assert found.selections == {}
    assert coverage(x, {}, np.ones(30, bool), None) is None


def test_nearest_pick_agrees_with_a_tree() -> None:
    x = rng.normal(size=(500, 6)).astype(np.float32)
    picks = rng.permutation(500)[:40]
    where = nearest_pick(x, picks, np.arange(500))
    _, expected = cKDTree(x[picks]).query(x)
    np.testing.assert_array_equal(where, expected)


def test_a_pick_is_its_own_nearest_even_beside_its_double() -> None:
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(nearest_pick(x, np.array([2, 0]), np.arange(3)), [1, 0, 0])


def test_task_shares_agree_with_counting() -> None:
    tasks = np.array([*list("aabbbbcd"), ""], dtype=object)
    found = task_shares(tasks, {"s": np.array([0, 2, 3, 8])})
    assert [s["task"] for s in found] == ["b", "a", "", "c", "d"]
    for share in found:
        assert share["count"] == Counter(tasks)[share["task"]]
        assert share["picks"]["s"]["count"] == Counter(tasks[[0, 2, 3, 8]])[share["task"]]
    assert sum(s["share"] for s in found) == pytest.approx(1)
    assert sum(s["picks"]["s"]["share"] for s in found) == pytest.approx(1)


@given(
    n=st.integers(1, 200),
    lengths=st.lists(st.integers(0, 200), max_size=3),
    background=st.integers(1, 100),
    most=st.integers(1, 250),
)
def test_the_map_shows_every_pick_it_has_room_for(n: int, lengths: list[int], background: int, most: int) -> None:
    picks = [np.random.default_rng(i).permutation(n)[:k] for i, k in enumerate(lengths)]
    rows, sample = shown_points(n, picks, background, most)
    assert len(sample) == min(n, background)
    assert set(sample) <= set(rows)
    assert len(rows) <= max(most, len(sample))
    everything = set(sample).union(*map(set, picks)) if picks else set(sample)
    if len(everything) <= most:
        assert set(rows) == everything
