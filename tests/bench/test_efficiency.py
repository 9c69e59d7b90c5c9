"""The analysis of an experiment: exact on curves without noise, symmetric, paired, honest about what is missing."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.optimize

from thriftune.bench.efficiency import analyse, infer
from thriftune.bench.synthetic import World, draw, table
from thriftune.errors import BenchError

SILENT = {"seed_sd": 0.0, "item_sd": 0.0, "residual_sd": 0.0, "shared_sd": 0.0}
SMALL = {"items": 40, "tasks": 4}
KEYS = {"level", "baseline", "budgets", "seeds", "items", "tasks", "warnings", "metrics"}
STRATEGY_KEYS = {
    "strategy", "reads_tasks", "rho", "rho_low", "rho_high", "saved", "saved_low", "saved_high", "bound",
    "differences", "crossing", "smallest_detectable", "verdict", "shown",
}  # fmt: skip


def _results(world: World, seed: int = 0) -> pa.Table:
    return table(draw(world, np.random.default_rng(seed)))


def _one(results: pa.Table, **more: object) -> list[dict]:
    return analyse(results, metrics={"metric-0": True}, **more)["metrics"][0]["strategies"]


def _drop(results: pa.Table, strategy: str, **where: int) -> pa.Table:
    gone = pc.equal(results["strategy"], strategy)
    for name, value in where.items():
        gone = pc.and_(gone, pc.equal(results[name], value))
    return results.filter(pc.invert(gone))


def test_without_noise_ratios_are_exact_and_said_in_words() -> None:
    world = World(shape="straight", ratios=(1.25, 0.5, 1.0, 20.0), **SILENT, **SMALL)
    found = analyse(_results(world), metrics={"metric-0": True}, reads_tasks=frozenset({"strategy-2"}))
    assert found.keys() == KEYS
    assert (found["budgets"], found["seeds"], found["items"], found["tasks"]) == (
        [50, 100, 200, 400],
        [*range(8)],
        40,
        4,
    )
    saving, costing, same, beyond = found["metrics"][0]["strategies"]
    assert saving.keys() == STRATEGY_KEYS
    assert saving["rho"] == pytest.approx(1.25) and saving["saved"] == pytest.approx(0.2) and saving["shown"]
    assert saving["verdict"] == (
        "strategy-1 needs 20 % [20, 20] fewer annotations than random for the same held-out metric-0"
    )
    assert costing["rho"] == pytest.approx(0.5) and not costing["shown"] and costing["saved_high"] < 0
    assert costing["verdict"] == (
        "strategy-2 (which reads task labels) needs 100 % [100, 100] more annotations than random for the same "
        "held-out metric-0"
    )
    assert same["rho"] == pytest.approx(1.0) and not same["shown"]
    assert same["verdict"].startswith("no saving shown: ")
    # Its 50 annotations do better than random's 400: at least 1 - 1/8 is saved, how much more cannot be told.
    assert (beyond["bound"], beyond["saved"], beyond["saved_high"]) == ("at least", pytest.approx(0.875), None)
    assert "at least 88 % fewer" in beyond["verdict"] and beyond["shown"]
    json.dumps(found, allow_nan=False)


def test_curves_differences_and_crossings_by_hand() -> None:
    rows = []
    for strategy, levels in {"random": (1.0, 2.0, 3.0), "other": (1.5, 2.5, 3.5), "worse": (0.0, 0.5, 1.0)}.items():
        for budget, level in zip((100, 200, 400), levels, strict=True):
            for seed in range(4):
                # Two items of task a, one of b: the mean over tasks is (3 + 0) / 2 above the level, not (2+4+0) / 3.
                for task, item, value in (("a", "x", 2.0), ("a", "y", 4.0), ("b", "x", 0.0)):
                    rows.append((strategy, budget, seed, task, item, "nll", -(level + value + 0.01 * seed)))
    rows += [("base", 0, seed, "a", "x", "nll", 7.0) for seed in range(4)]
    names = ("strategy", "budget", "seed", "task", "item", "metric", "value")
    results = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    metric = analyse(results, metrics={"nll": False})["metrics"][0]
    assert metric["base"] == {"mean": 7.0}
    point = next(p for p in metric["curves"] if p["strategy"] == "other" and p["budget"] == 200)
    assert point["mean"] == pytest.approx(-(2.5 + 1.5 + 0.015))
    assert point["seeds"] == pytest.approx([-4.0, -4.01, -4.02, -4.03])
    # Four seeds 0.01 apart: standard deviation 0.01291, error 0.006455, t of three degrees of freedom 3.1824.
    assert point["high"] - point["mean"] == pytest.approx(3.1824 * 0.006455, rel=1e-3)
    by_name = {one["strategy"]: one for one in metric["strategies"]}
    assert [d["mean"] for d in by_name["other"]["differences"]] == pytest.approx([0.5, 0.5, 0.5])
    assert by_name["other"]["rho"] == pytest.approx(math.sqrt(2))
    # Half way, in log budget, between 200 and 400.
    assert by_name["other"]["crossing"]["budget"] == pytest.approx(200 * math.sqrt(2), rel=0.01)
    assert by_name["worse"]["crossing"] == {"quality_at": 400, "budget": None, "low": None, "high": None}
    # Its quality at 400 is random's at 100: a ratio of 1/4, the least that these budgets can tell.
    assert by_name["worse"]["bound"] == "at most" and by_name["worse"]["rho"] == pytest.approx(0.25)
    assert not by_name["worse"]["shown"] and "needs at least 300 % more annotations" in by_name["worse"]["verdict"]


def test_the_metrics_direction_the_order_of_rows_and_who_is_compared_with_whom() -> None:
    results = _results(World(ratios=(1.3,), **SMALL))
    (one,) = _one(results)
    flipped = results.set_column(6, "value", pc.negate(results["value"]))
    (other,) = analyse(flipped, metrics={"metric-0": False})["metrics"][0]["strategies"]
    assert other == one
    shuffled = results.take(np.random.default_rng(0).permutation(results.num_rows))
    (again,) = _one(shuffled)
    assert again["rho_low"] == pytest.approx(one["rho_low"]) and again["verdict"] == one["verdict"]
    (reverse,) = _one(results, baseline="strategy-1")
    assert reverse["rho"] == pytest.approx(1 / one["rho"], rel=1e-3)
    assert reverse["rho_low"] == pytest.approx(1 / one["rho_high"], rel=1e-3)


def test_ratios_agree_with_a_least_squares_fit_of_one_shared_curve() -> None:
    world = World(shape="power", ratios=(1.4, 0.8), seeds=20)
    curves = draw(world, np.random.default_rng(5))
    y = np.nanmean(curves[0].values, axis=(2, 3))
    x = np.log(np.array(world.budgets) / 50)

    def residual(p: np.ndarray) -> np.ndarray:
        # The curve's family is known to the oracle only: level - gain exp(-rate (x + theta)).
        shift = np.array([0.0, p[3], p[4]])[:, None]
        return (p[0] - p[1] * np.exp(-p[2] * (x + shift)) - y).ravel()

    fit = scipy.optimize.least_squares(residual, [-1.3, 0.7, 0.5, 0.0, 0.0]).x
    for one, theta in zip(infer(curves), fit[3:], strict=True):
        assert one.theta == pytest.approx(theta, abs=0.03)
        assert one.low < theta < one.high


def test_missing_cells_are_told_and_left_out_in_pairs() -> None:
    results = _results(World(ratios=(1.3,), seeds=6, **SMALL))
    whole = results.filter(pc.not_equal(results["seed"], 2))
    (expected,) = _one(whole)
    # A seed that only one side has is no pair.
    for missing in ("random", "strategy-1"):
        found = analyse(_drop(results, missing, seed=2), metrics={"metric-0": True})
        (one,) = found["metrics"][0]["strategies"]
        assert one["rho_low"] == pytest.approx(expected["rho_low"]) and one["rho"] == pytest.approx(expected["rho"])
        if missing == "random":
            assert any("4 of 24 cells of random are missing" in w for w in found["warnings"])
    # One budget of a seed: the other budgets keep their pairs.
    found = analyse(_drop(results, "strategy-1", seed=2, budget=400), metrics={"metric-0": True})
    (one,) = found["metrics"][0]["strategies"]
    assert "metric-0: 1 of 24 cells of strategy-1 are missing, so fewer seeds are compared" in found["warnings"]
    assert len(one["differences"]) == 4
    assert one["rho_low"] != pytest.approx(expected["rho_low"], rel=1e-6)
    # A budget with a single pair cannot be compared with any certainty and is left out.
    cut = results
    for seed in range(5):
        cut = _drop(cut, "strategy-1", seed=seed, budget=400)
    assert [d["budget"] for d in _one(cut)[0]["differences"]] == [50, 100, 200]


def test_an_item_that_a_cell_lacks_is_left_out_of_its_seed() -> None:
    results = _results(World(ratios=(1.3,), seeds=3, **SMALL))
    first = pc.and_(pc.equal(results["item"], "item-0"), pc.equal(results["seed"], 1))
    lacking = pc.and_(pc.and_(first, pc.equal(results["budget"], 50)), pc.equal(results["strategy"], "random"))
    found = analyse(results.filter(pc.invert(lacking)), metrics={"metric-0": True})
    (one,), (expected,) = found["metrics"][0]["strategies"], _one(results.filter(pc.invert(first)))
    assert any("1 items that not all cells" in w for w in found["warnings"])
    assert one["rho"] == pytest.approx(expected["rho"]) and one["rho_low"] == pytest.approx(expected["rho_low"])


@pytest.mark.parametrize(
    ("world", "words"),
    [
        (World(seeds=1, **SMALL), "fewer than two seeds in common"),
        (World(budgets=(100,), **SMALL), "one budget"),
        (World(shape="flat", **SMALL), "not shown to gain from more annotations"),
        (World(seeds=3, **SMALL), "fewer than the 8 that evidence needs"),
        (World(seeds=3, budgets=(50, 100), **SMALL), "two budgets"),
        (World(seeds=3, **SMALL), "only 40 held-out items"),
    ],
)
def test_what_cannot_be_told_is_said(world: World, words: str) -> None:
    found = analyse(_results(world), metrics={"metric-0": True})
    strategies = found["metrics"][0]["strategies"]
    assert words in " ".join([*found["warnings"], *(one["verdict"] for one in strategies)])
    assert not any(one["shown"] for one in strategies)
    json.dumps(found, allow_nan=False)


def test_one_budget_or_one_seed_gives_no_ratio_but_keeps_the_difference() -> None:
    for world in (World(seeds=1, ratios=(1.5,), **SMALL), World(budgets=(100,), ratios=(1.5,), **SMALL)):
        (one,) = _one(_results(world))
        assert one["bound"] == "unidentified" and one["rho"] is one["rho_low"] is one["rho_high"] is None
        assert all(math.isfinite(d["mean"]) for d in one["differences"]) and one["differences"]


def test_curves_that_cross_are_not_one_ratio() -> None:
    curves = draw(World(ratios=(1.0,), seed_sd=0.01, residual_sd=0.1, item_sd=0.02), np.random.default_rng(0))
    curves[0].values[1] += np.array([0.2, 0.1, -0.1, -0.2])[:, None, None]
    found = analyse(table(curves), metrics={"metric-0": True})
    assert any("ahead of random at 50 annotations and behind at 200" in w for w in found["warnings"])


@pytest.mark.parametrize(("last", "words"), [(0.006, "takes about 3"), (0.0, "takes more than that")])
def test_a_saving_that_ends_before_the_largest_budget_is_said(last: float, words: str) -> None:
    curves = draw(World(ratios=(1.0,), seed_sd=0.01, residual_sd=0.1, item_sd=0.02), np.random.default_rng(0))
    curves[0].values[1] += np.array([0.2, 0.1, 0.05, last])[:, None, None]
    found = analyse(table(curves), metrics={"metric-0": True})
    assert found["metrics"][0]["strategies"][0]["shown"]
    (said,) = [w for w in found["warnings"] if "saves at small budgets" in w]
    assert words in said
    constant = analyse(_results(World(ratios=(1.5,))), metrics={"metric-0": True})
    assert constant["metrics"][0]["strategies"][0]["shown"]
    assert not any("saves at small budgets" in w for w in constant["warnings"])


def test_more_comparisons_widen_every_interval() -> None:
    results = _results(World(ratios=(1.3, 1.0, 1.0), metrics=2, **SMALL))
    alone = _one(results.filter(pc.is_in(results["strategy"], pa.array(["random", "strategy-1"]))))[0]
    three = _one(results)[0]
    six = analyse(results, metrics={"metric-0": True, "metric-1": True})["metrics"][0]["strategies"][0]
    width = [math.log(one["rho_high"] / one["rho_low"]) for one in (alone, three, six)]
    assert width[0] < width[1] < width[2]
    assert alone["rho"] == three["rho"] == six["rho"]


def test_an_accuracy_of_rights_and_wrongs() -> None:
    (one,) = _one(_results(World(ratios=(2.0,), accuracy=True, items=1200)))
    assert one["shown"] and one["rho_low"] < 2.0 < (one["rho_high"] or math.inf)


def test_impossible_results_are_refused() -> None:
    results = _results(World(seeds=2, **SMALL))
    with pytest.raises(BenchError, match="no rows of 'randon'.*'random', 'strategy-1'"):
        analyse(results, metrics={"metric-0": True}, baseline="randon")
    with pytest.raises(BenchError, match="twice"):
        analyse(pa.concat_tables([results, results.slice(5, 1)]), metrics={"metric-0": True})


def test_a_bench_of_random_alone_has_curves_and_no_verdict() -> None:
    results = _results(World(seeds=2, **SMALL))
    found = analyse(results.filter(pc.equal(results["strategy"], "random")), metrics={"metric-0": True})
    assert found["metrics"][0]["strategies"] == [] and len(found["metrics"][0]["curves"]) == 4
