"""Facility location where prompts have prices, against its definition and the best there is by exhaustive search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from brute_force import rbf
from hypothesis import given, settings
from hypothesis import strategies as st

from thriftune.errors import ConfigError, StrategyError
from thriftune.selection.run import select
from thriftune.study import Study
from thriftune.types import Annotation, Candidates, Selection

GUARANTEE = (1 - 1 / math.e) / 2


def value(w: Any, u: Any, chosen: list[int], picks: Any) -> float:
    """What picks add to sum_i u_i max_j w_ij, by its definition."""

    def total(rows: list[int]) -> float:
        return float(u @ w[:, rows].max(axis=1)) if rows else 0.0

    return total([*chosen, *map(int, picks)]) - total(chosen)


def best(w: Any, u: Any, chosen: list[int], costs: Any, money: float) -> float:
    """The most that any affordable set adds, by looking at all of them."""
    free = [i for i in range(len(w)) if i not in chosen]
    sets = itertools.chain.from_iterable(itertools.combinations(free, size) for size in range(len(free) + 1))
    return max(value(w, u, chosen, s) for s in sets if sum(costs[i] for i in s) <= money * (1 + 1e-9))


def greedy(w: Any, u: Any, costs: Any, money: float, *, by_cost: bool) -> list[int]:
    """Greedy as it is written in papers: each time the affordable prompt with the largest gain (per cost)."""
    picks: list[int] = []
    cover = np.zeros(len(w))
    while True:
        gains = u @ np.maximum(w - cover[:, None], 0)
        left = money - sum(costs[i] for i in picks)
        gains[(costs > left + 1e-9 * money) | np.isin(np.arange(len(w)), picks)] = -1
        row = int((gains / costs if by_cost else gains).argmax())
        if gains[row] <= 1e-9:
            return picks
        picks.append(row)
        cover = np.maximum(cover, w[:, row])


@st.composite
def markets(draw: st.DrawFn) -> tuple[Any, Any, float, Any, Any]:
    """Points, prices, money, annotated and weights of a small pool, with ties, copies and bargains."""
    n = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    points = rng.integers(-2, 3, (n, 2)).astype(float) if draw(st.booleans()) else rng.normal(size=(n, 3))
    costs = rng.lognormal(0, 1.5, n) if draw(st.booleans()) else rng.integers(1, 4, n).astype(float)
    annotated = rng.random(n) < draw(st.sampled_from([0.0, 0.4]))
    annotated[rng.integers(n)] = False
    least = float(costs[~annotated].min())
    money = draw(st.floats(least, float(costs.sum()) + 1))
    return points, costs, money, annotated, rng.integers(0, 3, n) + 0.5


@settings(max_examples=150, deadline=None, derandomize=True)
@given(market=markets())
def test_guarantee_and_certificate_hold_against_the_best_of_all_sets(market: tuple[Any, Any, float, Any, Any]) -> None:
    points, costs, money, annotated, weights = market
    w = rbf(points, 0.5) if len({tuple(p) for p in points}) > 1 else np.ones((len(points), len(points)))
    chosen = np.flatnonzero(annotated).tolist()
    most = best(w, weights, chosen, costs, money)
    given_: dict[str, Any] = {"embeddings": points, "costs": costs, "annotated": annotated, "weights": weights}
    if most < 1e-5:
        with pytest.raises(StrategyError, match="adds anything"):
            select(**given_, strategy="facility_location", budget_cost=money)
        return
    found = select(**given_, strategy="facility_location", budget_cost=money)
    stated = found.certificate
    assert stated is not None
    assert found.gains is not None
    assert len(set(found.rows.tolist())) == len(found) == found.budget
    assert not annotated[found.rows].any()
    assert costs[found.rows].sum() <= money * (1 + 1e-8)
    assert stated["cost"] == found.notes["cost"] == pytest.approx(costs[found.rows].sum())
    reached = value(w, weights, chosen, found.rows)
    assert stated["value"] == pytest.approx(reached, abs=2e-5 * weights.sum())
    assert found.gains.sum() == pytest.approx(stated["value"])
    assert stated["upper_bound"] >= most - 2e-5 * weights.sum()
    assert stated["ratio"] == pytest.approx(stated["value"] / stated["upper_bound"])
    assert reached >= GUARANTEE * most - 2e-5 * weights.sum()
    # What the money still buys adds nothing.
    for row in np.flatnonzero(~annotated):
        if row not in found.rows and costs[row] <= money - costs[found.rows].sum():
            assert value(w, weights, [*chosen, *found.rows.tolist()], [row]) < 2e-5 * weights.sum()


@pytest.mark.parametrize("n", [60, 1300])
def test_picks_are_those_of_the_better_greedy(n: int) -> None:
    rng = np.random.default_rng(n)
    points = rng.normal(size=(n, 6)) + 3 * rng.normal(size=(12, 6))[rng.integers(0, 12, n)]
    costs = rng.lognormal(0, 1, n)
    squared = (points**2).sum(axis=1)
    apart = np.maximum(squared[:, None] + squared - 2 * points @ points.T, 0)
    w = np.exp(-apart / (0.5 * apart.sum() / (n * (n - 1))))
    money = 0.1 * costs.sum()
    u = rng.uniform(0.5, 2, n)  # without weights, two prompts that cover only each other would tie
    by_rule = [greedy(w, u, costs, money, by_cost=by_cost) for by_cost in (True, False)]
    reached = [value(w, u, [], picks) for picks in by_rule]
    found = select(embeddings=points, costs=costs, weights=u, strategy="facility_location", budget_cost=money)
    assert found.rows.tolist() == by_rule[int(np.argmax(reached))]
    assert found.notes["greedy_by"] == ("gain per cost", "gain")[int(np.argmax(reached))]
    assert found.notes["other_greedy"] == pytest.approx(min(reached), rel=1e-5)
    assert found.certificate is not None
    assert 0.9 < found.certificate["ratio"] <= 1


def test_either_greedy_can_be_the_better_one() -> None:
    # A hundred prompts at one place, two strays: one is nearly free, and buying it leaves too little for the place.
    points = np.concatenate([np.zeros((100, 2)) + np.linspace(0, 1e-3, 100)[:, None], [[50.0, 0.0], [0.0, 50.0]]])
    costs = np.array([100.0] * 100 + [0.5, 200.0])
    found = select(embeddings=points, costs=costs, strategy="facility_location", budget_cost=100)
    assert (found.notes["greedy_by"], len(found)) == ("gain", 1)
    assert found.rows[0] < 100
    # One prompt that stands for little more than others and costs all the money.
    points = np.arange(10.0)[:, None] * 20
    costs = np.array([10.0] + [1.0] * 9)
    points[0] = 21
    found = select(embeddings=points, costs=costs, strategy="facility_location", budget_cost=9, gamma=0.01)
    assert found.notes["greedy_by"] == "gain per cost"
    assert sorted(found.rows.tolist()) == list(range(1, 10))


def test_sums_of_costs_may_be_off_by_rounding() -> None:
    found = select(embeddings=np.eye(4), costs=[0.1] * 4, strategy="facility_location", budget_cost=0.3)
    assert len(found) == 3


def test_the_cheapest_of_equal_prompts_is_bought_and_none_of_them_twice() -> None:
    points = np.array([[0.0, 0], [0, 0], [0, 0], [5, 5]])
    costs = np.array([3.0, 1, 2, 1])
    by_vector = select(embeddings=points, costs=costs, strategy="facility_location", budget_cost=100)
    by_text = select(embeddings=points, costs=costs, groups=[0, 0, 0, 1], strategy="facility_location", budget_cost=100)
    assert sorted(by_vector.rows.tolist()) == sorted(by_text.rows.tolist()) == [1, 3]


def test_what_is_annotated_is_covered_and_need_not_have_a_price() -> None:
    points = np.array([[0.0, 0], [0.1, 0], [9, 9]])
    annotated = np.array([True, False, False])
    given_: dict[str, Any] = {"embeddings": points, "annotated": annotated, "strategy": "facility_location"}
    assert select(**given_, costs=[np.nan, 1, 1], budget_cost=1).rows.tolist() == [2]
    points[2] = 0.1, 0
    points[1] = 0, 0
    points[2] = 0, 0
    with pytest.raises(StrategyError, match="nothing that 1 buys adds anything to what is annotated"):
        select(**given_, costs=[np.nan, 1, 1], budget_cost=1)


def test_a_large_pool_with_an_answer_that_has_no_price_comes_to_an_end() -> None:
    points = np.random.default_rng(1).normal(size=(4000, 8))
    annotated = np.arange(4000) == 7
    costs = np.where(annotated, np.nan, 1.0)
    for engine in ("exact", "neighbours"):
        given_: dict[str, Any] = {"embeddings": points, "annotated": annotated, "strategy": "facility_location"}
        unpriced = select(**given_, costs=costs, budget_cost=30, engine=engine)
        priced = select(**given_, costs=np.ones(4000), budget_cost=30, engine=engine)
        assert unpriced.rows.tolist() == priced.rows.tolist() and len(unpriced) == 30


def test_on_a_graph_the_certificate_says_so_and_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    points, costs = rng.normal(size=(600, 5)), rng.integers(1, 5, 600).astype(float)
    pool = Candidates(ids=np.array([f"p{i:03d}" for i in range(600)], object), embeddings=points, costs=costs)
    exact = select(pool, "facility_location", budget_cost=90)
    graph = select(pool, "facility_location", budget_cost=90, engine="neighbours")
    assert exact.certificate is not None
    assert graph.certificate is not None
    assert (exact.certificate["on_graph"], graph.certificate["on_graph"]) == (False, True)
    assert graph.certificate["value"] > 0.9 * exact.certificate["value"]
    order = rng.permutation(600)
    assert select(pool.take(order), "facility_location", budget_cost=90).ids.tolist() == exact.ids.tolist()


def test_weighted_facility_location_goes_by_costs_too() -> None:
    points = np.array([[0.0, 0], [9, 9], [-9, 9]])
    common: dict[str, Any] = {"embeddings": points, "scores": {"mean_entropy": [0.1, 5, 1]}, "costs": [1, 1, 1]}
    found = select(**common, strategy="weighted_facility_location", budget_cost=1)
    assert found.rows.tolist() == [1]


def test_interrupted_it_keeps_what_was_bought(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib
    from collections.abc import Iterator

    from thriftune.selection.strategies import facility

    rng = np.random.default_rng(0)
    given_: dict[str, Any] = {"embeddings": rng.normal(size=(300, 4)), "costs": rng.lognormal(0, 1, 300)}
    whole = select(**given_, strategy="facility_location", budget_cost=100)
    stop_at = 30.0

    @contextlib.contextmanager
    def stopping(*arguments: Any) -> Iterator[Callable[[float], None]]:
        spent = 0.0

        def advance(amount: float) -> None:
            nonlocal spent
            spent += amount
            if spent >= stop_at:
                raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(facility, "progress", stopping)
    part = select(**given_, strategy="facility_location", budget_cost=100)
    assert part.partial
    assert part.certificate is not None
    assert part.rows.tolist() == whole.rows[: len(part)].tolist()
    assert part.budget == len(part) >= 1
    stop_at = 150.0  # in the second of the two
    part = select(**given_, strategy="facility_location", budget_cost=100)
    assert part.partial
    assert part.rows.tolist() == whole.rows.tolist()


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"budget": 2}, "costs are given and no budget_cost"),
        ({"budget": 2, "budget_cost": 5}, "both budget=2 and budget_cost=5 were given"),
        ({"budget_cost": 5, "costs": None}, "budget_cost is 5 and there are no costs"),
        ({"budget_cost": 0}, "budget_cost is 0: give a number greater than 0"),
        ({"budget_cost": -1}, "budget_cost is -1"),
        ({"budget_cost": float("nan")}, "budget_cost is nan"),
        ({"budget_cost": "much"}, "budget_cost is 'much'"),
        ({"budget_cost": True}, "budget_cost is True"),
        ({"budget_cost": 0.5}, "budget_cost is 0.5 and the cheapest prompt costs 1: raise it"),
        ({"budget_cost": 5, "costs": [1, 0, 2]}, "costs of prompt '1' is 0: a price must be greater than 0"),
        ({"budget_cost": 5, "costs": [1, -3, 2]}, "costs of prompt '1' is -3"),
        ({"budget_cost": 5, "costs": [1, 2, np.nan]}, "costs of prompt '2' holds NaN"),
        ({"budget_cost": 5, "costs": [1, 2, np.inf]}, "costs of prompt '2' holds infinity"),
        ({"budget_cost": 5, "costs": [1, 2]}, r"costs has shape \(2,\) but embeddings has 3 rows"),
        ({"budget_cost": 5, "costs": "price"}, "costs='price' names a column of a study: give an array"),
        (
            {"budget_cost": 5, "strategy": "k_center"},
            "k_center does not go by costs: take one of facility_location, we",
        ),
        ({"budget_cost": 5, "tasks": list("aab"), "at_most": {"task": 1}}, "quotas count prompts and do not go with"),
        ({"budget_cost": 5, "device": "cuda"}, "with costs there is no work for a GPU: leave device=cuda out"),
        ({"budget_cost": 5, "annotated": np.ones(3, bool)}, "all 3 prompts are annotated"),
    ],
)
def test_requests_that_cannot_be_met_say_why(given_: dict[str, Any], message: str) -> None:
    request = {"embeddings": np.eye(3), "costs": [1, 2, 3], "strategy": "facility_location", **given_}
    with pytest.raises(StrategyError, match=message):
        select(**request)


def bought(study: Study, column: str, money: float) -> Selection:
    return select(study, "facility_location", costs=column, budget_cost=money)


def test_columns_of_a_study_that_costs_come_from(make_study: Callable[..., Study]) -> None:
    study = make_study(30, meta=lambda i: {"price": str(1 + i / 2), "n_steps": 7, "name": f"x{i}"})
    own = bought(study, "price", 20)
    assert own.params["costs"] == "price"
    assert own.params["budget_cost"] == 20
    assert own.notes["cost"] == sum(1 + row / 2 for row in own.rows)
    assert bought(study, "n_chars", 700).notes["cost"] == sum(
        10 * (1 + row) for row in bought(study, "n_chars", 700).rows
    )
    tokens = bought(study, "n_prompt_tokens", 70)
    assert tokens.notes["cost"] == sum(1 + row for row in tokens.rows) <= 70
    assert bought(study, "n_steps", 21).notes["cost"] == 21  # the pool's own column goes first
    with pytest.raises(
        StrategyError, match="no column 'cost' to take costs from: choose one of price, n_steps, n_chars"
    ):
        bought(study, "cost", 5)
    with pytest.raises(StrategyError, match=r"name of prompt 'p000' \(pool.csv, line 2\) has 'x0': a cost is a number"):
        bought(study, "name", 5)


@pytest.mark.parametrize("scored", [True, False])
def test_a_score_of_ones_own_is_a_column_of_the_pool(make_study: Callable[..., Study], scored: bool) -> None:
    values = np.random.default_rng(0).permutation(30)
    study = make_study(30, scored=scored, meta=lambda i: {"mine": str(values[i])} if i != 7 else {"mine": 99})
    chosen = select(study, "top_k", score="mine", budget=3, duplicates="keep")
    assert chosen.rows.tolist() == np.argsort(-np.where(np.arange(30) == 7, 99, values), kind="stable")[:3].tolist()
    with pytest.raises(StrategyError, match=r"needs score 'yours' .*: name one, or a column of .* file .mine.$"):
        select(study, "top_k", score="yours", budget=3)
    if scored:
        with pytest.raises(StrategyError, match=r"needs score 'mean_entrop' .*: did you mean mean_entropy\?"):
            select(study, "top_k", score="mean_entrop", budget=3)


def test_a_score_of_ones_own_that_is_missing_is_named(make_study: Callable[..., Study]) -> None:
    study = make_study(12, meta=lambda i: {"mine": i} if i != 4 else {})
    with pytest.raises(StrategyError, match="score 'mine' of prompt 'p004' holds NaN: mend it"):
        select(study, "top_k", score="mine", budget=3)


@pytest.mark.parametrize(
    ("wrong", "seen"), [(None, "has none"), ("", "has none"), (0, "has 0"), ("-2", "has '-2'"), ("nan", "has 'nan'")]
)
def test_a_prompt_without_a_cost_is_named(make_study: Callable[..., Study], wrong: object, seen: str) -> None:
    study = make_study(12, meta=lambda i: {"price": wrong if i == 4 else 2.5})
    with pytest.raises(StrategyError, match=rf"price of prompt 'p004' \(pool.csv, line 6\) {seen}"):
        bought(study, "price", 5)
    study.annotations.add([Annotation("p004", "an answer")])
    assert bought(study, "price", 5).notes["cost"] == 5


def test_it_is_no_ranking_and_its_reserve_goes_by_number(make_study: Callable[..., Study]) -> None:
    from thriftune.cli.reserve import continue_ranking
    from thriftune.config import SelectConfig
    from thriftune.selection.cut import cut
    from thriftune.selection.store import choose

    study = make_study(40)
    stored = choose(study, SelectConfig(strategy="facility_location", costs="n_chars", budget_cost=900))
    with pytest.raises(StrategyError, match="run it again at 1"):
        cut(stored.selection, 1)
    reserve = continue_ranking(study.path, stored.name, 3)
    assert len(reserve) == 3
    assert not set(reserve) & set(stored.selection.ids)


def test_settings_say_what_goes_together() -> None:
    from thriftune.config import SelectConfig, resolve

    for flags, message in (
        ({}, "budget is missing: give --budget, or --costs and --budget-cost"),
        ({"budget": "5", "costs": "price", "budget_cost": 3}, "both --budget and --budget-cost"),
        ({"budget": "5", "costs": "price"}, "--costs and --budget-cost go together"),
        ({"budget_cost": 3}, "--costs and --budget-cost go together"),
        ({"costs": "price", "budget_cost": -3}, r"budget_cost=-3: Input should be greater than 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(SelectConfig, "select", flags)
