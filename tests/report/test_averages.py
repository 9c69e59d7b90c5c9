from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from thriftune.report.averages import macro_average
from thriftune.report.series import moving_mean


def test_every_task_counts_alike_whatever_its_size() -> None:
    found = macro_average(np.array(["a"] * 3 + ["b"], dtype=object), np.array([1.0, 0, 0, 1]))
    assert found is not None
    assert found.mean == pytest.approx((1 / 3 + 1) / 2)
    assert (found.items, found.tasks) == (4, 2)


def test_one_task_has_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(2, 1, 400)
    found = macro_average(np.array(["a"] * 400, dtype=object), values)
    assert found is not None
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_intervals_cover_the_mean_of_the_tasks_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    tasks = np.array([f"t{t}" for t in range(12) for _ in range(4 + 3 * t)], dtype=object)
    chance = {f"t{t}": 0.15 + 0.06 * t for t in range(12)}
    truth = np.mean(list(chance.values()))
    each = np.array([chance[t] for t in tasks])
    inside = []
    for _ in range(2000):
        found = macro_average(tasks, (rng.random(len(tasks)) < each).astype(float))
        assert found is not None and found.low is not None and found.high is not None
        inside.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(inside) <= 0.97


def test_tasks_of_one_item_each_are_taken_together() -> None:
    values = np.random.default_rng(2).normal(size=30)
    found = macro_average(np.array([f"t{i}" for i in range(30)], dtype=object), values)
    assert found is not None
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_wrong_and_all_right_have_the_exact_binomial_interval(value: float) -> None:
    found = macro_average(np.array(["a"] * 25, dtype=object), np.full(25, value))
    exact = stats.binomtest(int(25 * value), 25).proportion_ci(0.95, method="exact")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_values_that_are_not_known_are_left_out_and_one_has_no_interval() -> None:
    tasks = np.array(["a", "a", "b"], dtype=object)
    found = macro_average(tasks, np.array([0.5, np.nan, np.inf]))
    assert found is not None
    assert (found.mean, found.low, found.high, found.items) == (0.5, None, None, 1)
    assert macro_average(tasks, np.full(3, np.nan)) is None


def test_the_moving_mean_agrees_with_a_window_cut_at_the_ends() -> None:
    values = np.random.default_rng(3).normal(size=50)
    expected = [values[max(0, i - 4) : i + 5].mean() for i in range(50)]
    assert moving_mean(values, 4) == pytest.approx(expected)
