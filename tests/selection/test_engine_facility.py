"""Facility location against dense double-precision greedy, other libraries, and the true optimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from brute_force import local, rbf, squared_distances

from thriftune.errors import StrategyError
from thriftune.selection.engine import blocks, effort, facility, width
from thriftune.selection.engine.facility import facility_location
from thriftune.selection.engine.neighbours import neighbours_by_shares
from thriftune.selection.engine.width import distinct, similarity

NONE = np.empty(0, np.int64)


def ignore(amount):
    pass


def clipped_cosine(x):
    x = x.astype(np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    return np.maximum(x @ x.T, 0)


def clusters(n, d=24, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, n // 40), d))
    x = centres[rng.integers(0, len(centres), n)] + rng.uniform(0.1, 0.8, (n, 1)) * rng.standard_normal((n, d))
    return x.astype(np.float32)


def sphere(n, d=48, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def check_greedy(w, u, chosen, result, every=1):
    """Every pick gains, in double precision, as much as the best there was; gains and value are what they say."""
    cover = w[:, chosen].max(axis=1) if len(chosen) else np.zeros(len(w))
    start = u @ cover
    taken = np.zeros(len(w), bool)
    taken[chosen] = True
    for i, (row, gain) in enumerate(zip(result.rows, result.gains, strict=True)):
        assert not taken[row]
        mine = u @ np.maximum(w[:, row] - cover, 0)
        assert gain == pytest.approx(mine, rel=2e-5, abs=1e-5)
        if i < 60 or i % every == 0:
            gains = u @ np.maximum(w - cover[:, None], 0)
            assert mine >= gains[~taken].max() * (1 - 1e-6) - 1e-6, f"pick {i}"
        taken[row] = True
        cover = np.maximum(cover, w[:, row])
    assert result.value == pytest.approx(u @ cover - start, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("engine", ["exact", "dense"])
@pytest.mark.parametrize(
    ("x", "budget", "gamma"),
    [(clusters(1500), 400, 0.2), (sphere(1300), 300, 0.25), (sphere(1300), 40, 2.0), (clusters(2000, 3), 150, 0.05)],
    ids=["clusters", "sphere", "wide", "flat"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_picks_are_greedy(x, budget, gamma, weighted, engine, monkeypatch):
    monkeypatch.setattr(facility, "_EDGES", 40)  # so that many picks are made before pairs are collected
    u = np.random.default_rng(3).uniform(0, 2, len(x)) if weighted else np.ones(len(x))
    chosen = np.array([5, 77]) if weighted else NONE
    result = facility_location(
        x, budget, gamma=gamma, weights=u if weighted else None, chosen=chosen, engine=engine, advance=ignore
    )
    check_greedy(rbf(x, gamma), u, chosen, result, every=25)
    assert result.notes["engine"] == engine
    assert np.all(np.diff(result.gains) <= 1e-5 * result.gains[0])
    assert result.value <= result.bound


@pytest.mark.parametrize("engine", ["exact", "dense"])
@pytest.mark.parametrize("copies", [False, True])
def test_local_widths_are_greedy(engine, copies, monkeypatch):
    monkeypatch.setattr(facility, "_EDGES", 40)
    x = clusters(1200, 6)
    if copies:
        x[100:220] = x[:120]
    u, chosen = np.random.default_rng(3).uniform(0, 2, len(x)), np.array([5, 77])
    result = facility_location(
        x, 300, kernel="local", gamma=0.5, weights=u, chosen=chosen, engine=engine, advance=ignore
    )
    check_greedy(local(x, 0.5), u, chosen, result, every=25)
    assert result.notes["kernel"] == "local"
    assert result.value <= result.bound


def test_local_widths_do_not_see_how_widely_a_kind_is_spread():
    rng = np.random.default_rng(0)
    spread = np.repeat([0.2, 1.0], 500)
    x = (spread[:, None] * rng.standard_normal((1000, 6))).astype(np.float32)
    x[:500] += 5
    tight = {}
    for kernel in ("rbf", "local"):
        rows = facility_location(x, 200, kernel=kernel, gamma=0.5, chosen=NONE, advance=ignore).rows
        tight[kernel] = (rows < 500).mean()
    assert tight["local"] == pytest.approx(0.5, abs=0.05)
    assert tight["rbf"] < 0.1


def test_local_widths_of_a_large_pool_come_from_a_sample(monkeypatch):
    x = clusters(2000)
    monkeypatch.setattr(width, "_CROWD", 500)
    sim = similarity(x, "local", 0.5, 1)
    base = np.sort(np.random.default_rng(0).choice(2000, 500, replace=False))
    d2 = squared_distances(x)
    d2[np.arange(2000), np.arange(2000)] = np.inf
    np.testing.assert_allclose(1 / sim.rate**2, np.sort(d2[:, base], axis=1)[:, 6], rtol=1e-3)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kernel", ["rbf", "local", "cosine"])
def test_the_graph_holds_the_similarities_of_the_pool(kernel, whole):
    x = clusters(700)
    sim = similarity(x, kernel, 0.5, 1)
    expected = sim.block(slice(None), slice(None))
    found = 0
    with blocks.workers() as run:
        for rows, index, value in neighbours_by_shares(sim, 20, run, whole=whole):
            of, places = np.nonzero(index >= 0)
            np.testing.assert_allclose(value[of, places], expected[rows[of], index[of, places]], atol=2e-5)
            found += len(of)
    assert found == 700 * 20


@pytest.mark.parametrize("engine", ["exact", "dense"])
def test_cosine_is_clipped_and_greedy(engine, monkeypatch):
    monkeypatch.setattr(facility, "_EDGES", 60)
    x = clusters(1200, 12)
    x[7] = 0
    result = facility_location(x, 200, kernel="cosine", chosen=np.array([1]), engine=engine, advance=ignore)
    check_greedy(clipped_cosine(x), np.ones(len(x)), np.array([1]), result, every=20)


@pytest.mark.parametrize("engine", ["exact", "dense", "neighbours"])
def test_integer_grid_with_copies(engine):
    x = np.random.default_rng(4).integers(0, 5, (400, 2)).astype(np.float32)
    result = facility_location(x, 400, gamma=0.1, chosen=NONE, engine=engine, advance=ignore)
    assert sorted(result.rows) == list(range(400))
    w = rbf(x, 0.1)
    check_greedy(w, np.ones(400), NONE, result)
    # 25 different points: the first copy of each, then the rest in row order.
    first = np.unique(x, axis=0, return_index=True)[1]
    assert sorted(result.rows[: len(first)]) == sorted(first)
    assert np.all(np.diff(result.rows[len(first) :]) > 0)


@pytest.mark.parametrize("engine", ["exact", "dense", "neighbours"])
@pytest.mark.parametrize("kernel", ["rbf", "local", "cosine"])
def test_degenerate_pools(engine, kernel):
    gamma = 0.5 if kernel == "local" else "auto"
    line = np.arange(30, dtype=np.float32)[:, None]
    for x in (np.ones((30, 4), np.float32), np.zeros((30, 4), np.float32), line):
        for chosen in (NONE, np.array([2, 9])):
            budget = len(x) - len(chosen)
            result = facility_location(
                x, budget, kernel=kernel, gamma=gamma, chosen=chosen, engine=engine, advance=ignore
            )
            assert sorted([*result.rows, *chosen]) == list(range(30))
            assert np.isfinite(result.value)
            assert result.bound >= result.value - 1e-6
    same = np.ones((9, 2), np.float32)
    identical = facility_location(same, 9, kernel=kernel, gamma=gamma, chosen=NONE, engine=engine, advance=ignore)
    assert identical.rows.tolist() == list(range(9))
    assert identical.gains.tolist() == pytest.approx([9] + [0] * 8)


@pytest.mark.parametrize("engine", ["exact", "dense", "neighbours"])
@pytest.mark.parametrize("seed", range(4))
def test_certificate_holds_against_the_optimum(engine, seed):
    x = np.random.default_rng(seed).standard_normal((12, 2)).astype(np.float32)
    u = np.random.default_rng(seed + 9).uniform(0.2, 2, 12)
    w, chosen, budget = rbf(x, 0.3), np.array([6]), 4
    result = facility_location(x, budget, gamma=0.3, weights=u, chosen=chosen, engine=engine, advance=ignore)
    start = u @ w[:, 6]
    best = max(u @ w[:, [6, *s]].max(axis=1) - start for s in itertools.combinations(range(12), budget))
    assert result.value <= best * (1 + 1e-6)
    assert best <= result.bound * (1 + 1e-6)
    assert result.value >= (1 - np.exp(-1)) * best


def test_agrees_with_apricot():
    apricot = pytest.importorskip("apricot")
    x = clusters(600, 16)
    w = rbf(x, 0.3)
    other = apricot.FacilityLocationSelection(120, metric="precomputed", optimizer="lazy").fit(w)
    result = facility_location(x, 120, gamma=0.3, chosen=NONE, engine="exact", advance=ignore)
    # Two rows that cover only each other gain alike, so rows may differ where gains do not.
    np.testing.assert_allclose(result.gains, other.gains, rtol=1e-5)
    assert np.mean(result.rows == other.ranking) > 0.9


def test_agrees_with_submodlib():
    submodlib = pytest.importorskip("submodlib")
    x = clusters(500, 16, seed=5)
    w = rbf(x, 0.3)
    function = submodlib.FacilityLocationFunction(n=500, mode="dense", sijs=w.astype(np.float32), separate_rep=False)
    picks = function.maximize(budget=80, optimizer="LazyGreedy", show_progress=False)
    result = facility_location(x, 80, gamma=0.3, chosen=NONE, engine="exact", advance=ignore)
    np.testing.assert_allclose(result.gains, [gain for _, gain in picks], rtol=1e-4)
    assert np.mean(result.rows == np.array([row for row, _ in picks])) > 0.9


@pytest.mark.parametrize("kernel", ["rbf", "local"])
def test_neighbours_come_close_to_exact(kernel):
    x = clusters(4000)
    for budget, least in ((1800, 0.97), (60, 0.97)):
        w = {"rbf": rbf, "local": local}[kernel](x, 0.2)
        values = {}
        for engine in ("exact", "neighbours"):
            rows = facility_location(
                x, budget, kernel=kernel, gamma=0.2, chosen=NONE, engine=engine, advance=ignore
            ).rows
            values[engine] = w[:, rows].max(axis=1).sum()
        random = w[:, np.random.default_rng(0).choice(4000, budget, replace=False)].max(axis=1).sum()
        assert (values["neighbours"] - random) / (values["exact"] - random) >= least


@pytest.mark.parametrize("engine", ["exact", "neighbours"])
def test_threads_do_not_change_the_picks(engine, monkeypatch):
    x = clusters(3000)
    results = []
    for count in (1, 4):
        monkeypatch.setattr(blocks, "threads", lambda count=count: count)
        results.append(facility_location(x, 500, gamma=0.2, chosen=NONE, engine=engine, advance=ignore))
    np.testing.assert_array_equal(results[0].rows, results[1].rows)
    np.testing.assert_array_equal(results[0].gains, results[1].gains)


@pytest.mark.parametrize("engine", ["exact", "dense"])
def test_interrupted_picks_are_a_prefix(engine):
    x = clusters(2500)
    whole = facility_location(x, 600, gamma=0.2, chosen=NONE, engine=engine, advance=ignore)
    made = 0

    def stop(amount):
        nonlocal made
        made += amount
        if made >= 90:
            raise KeyboardInterrupt

    part = facility_location(x, 600, gamma=0.2, chosen=NONE, engine=engine, advance=stop)
    assert part.partial
    assert 90 <= len(part.rows) < 600
    assert len(part.rows) == len(part.gains)
    np.testing.assert_array_equal(part.rows, whole.rows[: len(part.rows)])
    assert part.value <= part.bound


def test_automatic_width_halves_at_the_rank_that_matters():
    x = clusters(2000)
    sim = similarity(x, "rbf", "auto", 100)
    d2 = np.sort(squared_distances(x), axis=1)[:, 20]  # column 0 is the row itself
    typical = np.exp(-np.median(d2) / (sim.gamma * sim.width))
    assert typical == pytest.approx(0.5, abs=0.04)


def test_automatic_width_counts_different_neighbours_only():
    once = similarity(clusters(500), "rbf", "auto", 50)
    x = np.repeat(clusters(500), 4, axis=0)
    four = similarity(x, "rbf", "auto", 200)
    assert four.gamma == pytest.approx(once.gamma, rel=0.1)
    assert len(distinct(x)[0]) == 500


def test_automatic_width_has_a_floor():
    rng = np.random.default_rng(0)
    x = (np.repeat(rng.standard_normal((20, 8)), 50, axis=0) + 1e-3 * rng.standard_normal((1000, 8))).astype(np.float32)
    result = facility_location(x, 200, chosen=NONE, advance=ignore)
    assert result.notes["gamma"] == 0.01
    assert result.notes["gamma_floored"]


def test_automatic_choice_is_stated(monkeypatch):
    x = clusters(1500, 8)

    def engine():
        return facility_location(x, 10, chosen=NONE, advance=ignore).notes["engine"]

    assert engine() == "exact"
    monkeypatch.setattr(effort, "_PATIENCE", 1e-5)
    assert engine() == "neighbours"
    monkeypatch.setattr(facility, "_DENSE", 2000)
    assert engine() == "dense"


def test_errors_say_what_to_do(monkeypatch):
    x = clusters(100)
    with pytest.raises(StrategyError, match="unknown kernel 'linear': choose one of rbf, local, cosine"):
        facility_location(x, 5, kernel="linear", chosen=NONE, advance=ignore)
    with pytest.raises(StrategyError, match="leave gamma=auto out"):
        facility_location(x, 5, kernel="local", gamma="auto", chosen=NONE, advance=ignore)
    with pytest.raises(StrategyError, match="unknown engine 'fast'"):
        facility_location(x, 5, engine="fast", chosen=NONE, advance=ignore)
    for gamma in (0, -1, float("nan"), float("inf")):
        with pytest.raises(StrategyError, match="give a positive number or 'auto'"):
            facility_location(x, 5, gamma=gamma, chosen=NONE, advance=ignore)
    monkeypatch.setattr(facility, "free_memory", lambda: 1e4)
    with pytest.raises(StrategyError, match="use engine exact or neighbours"):
        facility_location(x, 5, chosen=NONE, engine="dense", advance=ignore)


def test_a_pool_in_which_only_a_few_rows_count(monkeypatch):
    monkeypatch.setattr(facility, "_EDGES", 60)
    x = np.random.default_rng(0).standard_normal((6000, 16)).astype("f4")
    weights = np.zeros(6000)
    weights[[5, 900, 2999]] = 1
    found = facility_location(
        x, 400, gamma=1.0, weights=weights, chosen=NONE, engine="neighbours", advance=lambda n: None
    )
    assert len(found.rows) == len(set(found.rows.tolist())) == 400
    # Each of the three is covered fully by itself alone.
    assert {5, 900, 2999} <= set(found.rows.tolist())
