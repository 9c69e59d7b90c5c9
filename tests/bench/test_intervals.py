"""Comparisons of curves, their variance and the intervals made of them, against scipy and formulas worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from thriftune.bench.curves import Moments, by_seed, moments
from thriftune.bench.intervals import compare, estimate, hats, inversion, shifts, simultaneous, t_quantile


@pytest.mark.parametrize("df", [1, 2, 3, 7, 30, 399])
@pytest.mark.parametrize("tail", [0.2, 0.025, 0.025 / 30])
def test_t_quantile_is_scipys(df: int, tail: float) -> None:
    assert t_quantile(tail, df) == pytest.approx(scipy.stats.t.isf(tail, df), rel=2e-4)


def test_t_quantile_beyond_its_cap_is_nearly_normal() -> None:
    assert t_quantile(0.025, 10**6) == pytest.approx(scipy.stats.norm.isf(0.025), rel=4e-3)


@given(st.integers(0, 10**6))
def test_hats_integrate_straight_lines_between_knots(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.uniform(0.2, 1.0, rng.integers(2, 6)))
    y = rng.normal(size=len(x))
    low, high = np.sort(rng.uniform(x[0], x[-1], 2))
    area = scipy.integrate.quad(lambda at: np.interp(at, x, y), low, high, points=x, limit=200)[0]
    assert hats(x, np.array([low]), np.array([high]))[0] @ y == pytest.approx(area / (high - low), abs=1e-6)
    assert hats(x, np.array([low]), np.array([low]))[0] @ y == pytest.approx(np.interp(low, x, y))


def test_comparisons_of_two_budgets_by_hand() -> None:
    theta, weights = shifts(np.log([50.0, 100.0]))
    assert theta[[0, 200, 400]] == pytest.approx([-np.log(2), 0.0, np.log(2)])
    # No shift: the mean difference. The largest: the strategy at 50 against the baseline at 100; and the reverse.
    assert weights[200] == pytest.approx([0.5, 0.5, -0.5, -0.5])
    assert weights[400] == pytest.approx([1, 0, 0, -1])
    assert weights[0] == pytest.approx([0, 1, -1, 0])
    # Half way, means over half of the interval: the strategy's first half against the baseline's second.
    assert weights[300] == pytest.approx([0.75, 0.25, -0.25, -0.75])


@given(st.floats(-1.2, 1.2), st.floats(0.1, 3), st.integers(0, 10**6))
def test_a_straight_curve_shifted_is_recognised_exactly(shift: float, slope: float, seed: int) -> None:
    x = np.log(np.sort(np.random.default_rng(seed).choice(np.arange(50, 2000), 4, replace=False)).astype(float))
    theta, weights = shifts(x)
    shift = float(np.clip(shift, theta[0] * 0.9, theta[-1] * 0.9))
    value = weights @ np.concatenate([slope * (x + shift), slope * x])
    assert value == pytest.approx(slope * (shift - theta), abs=1e-6)
    assert estimate(theta, value) == pytest.approx(shift, abs=1e-6)


def test_variance_components_are_those_of_a_two_way_table() -> None:
    rng = np.random.default_rng(1)
    r, n = 6, 15
    y = rng.normal(size=(r, 1)) + 0.8 * rng.normal(size=(1, n)) + 0.5 * rng.normal(size=(r, n))
    got = moments(*by_seed(y[None], np.zeros(n, np.int64)), np.zeros(n, np.int64))
    # Mean squares of the analysis of variance, by hand.
    seeds, items, mean = y.mean(axis=1), y.mean(axis=0), y.mean()
    ms_seed = n * ((seeds - mean) ** 2).sum() / (r - 1)
    ms_item = r * ((items - mean) ** 2).sum() / (n - 1)
    ms_rest = ((y - seeds[:, None] - items + mean) ** 2).sum() / ((r - 1) * (n - 1))
    assert got.mean[0] == pytest.approx(mean)
    assert got.seed[0, 0] == pytest.approx(ms_seed / (r * n))
    assert got.item[0, 0] == pytest.approx((ms_item - ms_rest) / (r * n))
    assert got.df_seed[0] == r - 1 and got.df_item == n - 1


@pytest.mark.parametrize("overlap", [1.0, 0.5, 0.0])
def test_the_error_of_a_mean_is_right_on_average(overlap: float) -> None:
    # Tasks of uneven size; each seed takes its own items, of which a share is the same for all.
    rng = np.random.default_rng(2)
    r, tasks = 4, np.repeat([0, 1, 2], [4, 8, 20])
    whole = np.tile(tasks, r + 1)
    means, claimed = [], []
    for _ in range(1500):
        values = np.full((1, r, len(whole)), np.nan)
        item = rng.normal(size=len(whole))
        for seed in range(r):
            shared = rng.permutation(len(tasks)) < round(overlap * len(tasks)) if overlap < 1 else tasks >= 0
            mine = np.flatnonzero(~shared) + len(tasks) * (seed + 1)
            taken = np.sort(np.concatenate([np.flatnonzero(shared), mine]))
            values[0, seed, taken] = 0.3 * rng.normal() + item[taken] + 0.5 * rng.normal(size=len(taken)) + whole[taken]
        got = moments(*by_seed(values, whole), whole)
        means.append(got.mean[0])
        claimed.append(got.seed[0, 0] + got.item[0, 0])
    assert np.mean(means) == pytest.approx(1.0, abs=0.03)  # tasks 0, 1, 2 weigh the same
    assert np.mean(claimed) == pytest.approx(np.var(means), rel=0.12)


def test_a_task_of_one_item_is_no_reason_to_fail() -> None:
    rng = np.random.default_rng(3)
    tasks = np.array([0, 0, 0, 1, 2])
    got = moments(*by_seed(rng.normal(size=(2, 3, 5)), tasks), tasks)
    assert np.isfinite(got.seed).all() and np.isfinite(got.item).all()


def test_with_other_items_in_each_seed_the_interval_is_the_paired_t() -> None:
    rng = np.random.default_rng(4)
    seeds, items = 5, 12
    values = np.full((2, seeds, seeds * items), np.nan)
    for seed in range(seeds):
        values[:, seed, seed * items : (seed + 1) * items] = rng.normal(size=(2, items)) + rng.normal(size=(2, 1))
    tasks = np.zeros(seeds * items, np.int64)
    got = compare(moments(*by_seed(values, tasks), tasks), np.array([[1.0, -1.0]]), np.arange(2), 0.9)
    paired = np.nanmean(values[0] - values[1], axis=1)
    low, high = scipy.stats.ttest_1samp(paired, 0).confidence_interval(0.9)
    assert [got.value[0] - got.half[0], got.value[0] + got.half[0]] == pytest.approx([low, high], rel=1e-3)


def _known(item: np.ndarray) -> Moments:
    j = len(item)
    return Moments(np.zeros(j), np.zeros((j, j)), item, np.full(j, 100), 100_000)


def test_the_factor_of_a_family_is_the_normal_one_when_the_covariance_is_known() -> None:
    rng = np.random.default_rng(5)
    one = scipy.stats.norm.isf(0.025)
    sidak = scipy.stats.norm.isf((1 - 0.95 ** (1 / 3)) / 2) / one
    assert simultaneous(_known(np.eye(3)), np.eye(3), 0.95, 40_000, rng) == pytest.approx(sidak, rel=0.01)
    assert simultaneous(_known(np.ones((3, 3))), np.eye(3), 0.95, 40_000, rng) == pytest.approx(1.0, abs=0.01)
    # Three against one: correlations of a half (Dunnett).
    law = scipy.stats.multivariate_normal(np.zeros(3), np.full((3, 3), 0.5) + 0.5 * np.eye(3))

    def outside(c: float) -> float:
        return float(law.cdf(np.full(3, c), lower_limit=np.full(3, -c))) - 0.95

    dunnett = scipy.optimize.brentq(outside, 1.9, 3.0, xtol=1e-4) / one
    weights = np.concatenate([np.eye(3), -np.ones((3, 1))], axis=1)
    assert simultaneous(_known(np.eye(4)), weights, 0.95, 40_000, rng) == pytest.approx(dunnett, rel=0.01)


def test_with_few_seeds_the_factor_of_a_family_is_wider_and_a_single_interval_needs_none() -> None:
    rng = np.random.default_rng(6)
    stats = Moments(np.zeros(3), np.eye(3), np.zeros((3, 3)), np.full(3, 2), 500)
    # Independent comparisons, each with two degrees of freedom: Šidák's quantile of Student's t.
    wide = scipy.stats.t.isf((1 - 0.95 ** (1 / 3)) / 2, 2) / scipy.stats.t.isf(0.025, 2)
    assert simultaneous(stats, np.eye(3), 0.95, 40_000, rng) == pytest.approx(wide, rel=0.03)
    assert simultaneous(stats, np.eye(3)[:1], 0.95, 1000, rng) == 1.0
    # Correlations that three seeds seem to show are not believed; those of many seeds are.
    alike = Moments(np.zeros(3), np.ones((3, 3)), np.zeros((3, 3)), np.full(3, 2), 500)
    assert simultaneous(alike, np.eye(3), 0.95, 40_000, rng) == pytest.approx(wide, rel=0.03)
    many = Moments(np.zeros(3), np.ones((3, 3)), np.zeros((3, 3)), np.full(3, 300), 500)
    assert simultaneous(many, np.eye(3), 0.95, 20_000, rng) < 1.06


@given(st.integers(0, 10**6))
def test_the_estimate_is_the_root_of_a_falling_comparison(seed: int) -> None:
    rng = np.random.default_rng(seed)
    theta = np.linspace(-1, 1, 401)
    true = rng.uniform(-0.9, 0.9)
    bend = rng.uniform(0.5, 3)

    def falling(at: float | np.ndarray) -> np.ndarray:
        return np.asarray(-np.tanh(bend * (at - true)) - 0.1 * (at - true))

    assert estimate(theta, falling(theta)) == pytest.approx(scipy.optimize.brentq(falling, -1, 1), abs=1e-4)


@given(st.integers(0, 10**6))
def test_the_interval_encloses_every_shift_that_is_not_rejected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    theta = np.linspace(-1, 1, 401)
    value = rng.normal(0, 2) - rng.uniform(-1, 4) * theta + np.cumsum(rng.normal(0, 0.05, 401))
    half = rng.uniform(0.05, 1.5) * (1 + np.abs(theta))
    low, high = inversion(theta, value, half)
    kept = theta[np.abs(value) <= half]
    for at in kept:
        assert (low is None or low <= at) and (high is None or at <= high)
    if low is not None and high is not None and len(kept):
        step = theta[1] - theta[0]
        assert low >= kept[0] - step and high <= kept[-1] + step
    if value[0] <= half[0]:
        assert low is None
    if value[-1] >= -half[-1]:
        assert high is None


def test_what_is_flat_has_no_interval_and_what_is_always_better_a_lower_end() -> None:
    theta = np.linspace(-1, 1, 401)
    assert inversion(theta, np.full(401, 0.1), np.full(401, 0.2)) == (None, None)
    assert inversion(theta, np.full(401, 0.5), np.full(401, 0.2)) == (1.0, None)
    assert inversion(theta, np.full(401, -0.5), np.full(401, 0.2)) == (None, -1.0)
    # More annotations harm: no ratio can be told, however sure the differences are.
    assert inversion(theta, 5 * theta + 1, np.full(401, 0.2)) == (None, None)
    # Without error the interval is the estimate.
    assert inversion(theta, -(theta - 0.123), np.zeros(401)) == pytest.approx((0.123, 0.123))
