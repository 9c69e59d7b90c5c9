"""What every strategy promises, ours and those of other packages alike: parametrised over the registry."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thriftune.errors import StrategyError
from thriftune.selection import registry
from thriftune.selection.cut import at_budgets, cut, prefix_closed
from thriftune.selection.run import select
from thriftune.study import SCORE_COLUMNS
from thriftune.types import Candidates, Selection

ALL = sorted(registry.strategies())
# Values for parameters that must be given, by name; prompts are filled in from the candidates.
REQUIRED = {"score": "mean_nll"}
# Other settings worth the same promises.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cluster_margin": [{"clusters": 3, "factor": 1.5}],
    "graph_cut": [{"kernel": "cosine", "trade_off": 0.5}],
    "prob_cover": [{"radius": 2.5}],
    "saturated_coverage": [{"saturation": 0.2}],
    "typiclust": [{"clusters": 2}],
    "vote_k": [{"neighbours": 2}],
    "weighted_facility_location": [{"gamma": "auto"}, {"kernel": "local"}],
    "filtered_facility_location": [{"kernel": "local"}],
    "uncertain_facility_location": [{"kernel": "local"}],
    "k_center": [{"start": "random"}, {"transform": "centre_l2"}],
    "facility_location": [
        {"gamma": "auto"},
        {"kernel": "cosine", "transform": "l2"},
        {"kernel": "local"},
        {"engine": "exact"},
        {"engine": "neighbours"},
    ],
}
CASES = [(name, params) for name in ALL for params in ({}, *VARIANTS.get(name, []))]
PROMISE = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def pools(draw: st.DrawFn) -> Candidates:
    """Small pools with ties everywhere: whole-number points and scores, repeated texts, some prompts annotated."""
    n = draw(st.integers(2, 24))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    texts = draw(st.integers(1, n))
    group = rng.integers(0, texts, n)
    points = rng.integers(-3, 4, (texts, 3)).astype(np.float32)
    annotated = rng.random(n) < draw(st.sampled_from([0.0, 0.3]))
    annotated[rng.integers(n)] = False
    return Candidates(
        ids=np.array([f"id{i}" for i in rng.permutation(n)], object),
        embeddings=points[group] + np.float32(9),  # none of them zero, which some strategies refuse
        scores={name: rng.integers(0, 5, n).astype(np.float32) for name in SCORE_COLUMNS},
        annotated=annotated,
        tasks=np.array([f"task{t}" for t in rng.integers(0, 3, n)], object),
        lengths=rng.integers(1, 6, n),
        groups=group,
    )


def arguments(name: str, given: dict[str, Any], pool: Candidates) -> dict[str, Any]:
    found = dict(given)
    for parameter in registry.get(name).parameters.values():
        if parameter.required and parameter.name not in found:
            found[parameter.name] = sorted(pool.ids)[:3] if parameter.prompts else REQUIRED[parameter.name]
    return found


def chosen(name: str, given: dict[str, Any], pool: Candidates, budget: int, **more: Any) -> Selection:
    return select(pool, name, budget, **arguments(name, given, pool), **more)


@pytest.mark.parametrize(("name", "params"), CASES)
@PROMISE
@given(pool=pools(), data=st.data())
def test_exactly_budget_distinct_free_prompts_repeated_texts_last(
    name: str, params: dict[str, Any], pool: Candidates, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, int((~pool.annotated).sum())))
    selection = chosen(name, params, pool, budget)
    assert len(selection.ids) == len(set(selection.ids)) == budget
    assert not selection.partial
    assert not pool.annotated[selection.rows].any()
    assert pool.ids[selection.rows].tolist() == selection.ids.tolist()
    assert selection.gains is None or selection.gains.shape == (budget,)
    assert pool.groups is not None
    seen = set(pool.groups[pool.annotated].tolist())
    texts = pool.groups[selection.rows].tolist()
    fresh = len(set(pool.groups.tolist()) - seen)
    for place, text in enumerate(texts):
        assert (text in seen) == (place >= fresh), "a text came again before all others were used up"
        seen.add(text)


@pytest.mark.parametrize(("name", "params"), CASES)
@PROMISE
@given(pool=pools(), data=st.data())
def test_same_seed_same_picks_whatever_the_order_of_the_rows(
    name: str, params: dict[str, Any], pool: Candidates, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, int((~pool.annotated).sum())))
    first = chosen(name, params, pool, budget, seed=3)
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(pool))
    again = chosen(name, params, pool.take(order), budget, seed=3)
    assert again.ids.tolist() == first.ids.tolist()
    assert order[again.rows].tolist() == first.rows.tolist()
    if first.gains is not None:
        assert again.gains is not None
        np.testing.assert_array_equal(again.gains, first.gains)


@pytest.mark.parametrize(("name", "params"), CASES)
@PROMISE
@given(pool=pools(), data=st.data())
def test_prefix_closed_strategies_are(name: str, params: dict[str, Any], pool: Candidates, data: st.DataObject) -> None:
    free = int((~pool.annotated).sum())
    budget = data.draw(st.integers(1, free))
    whole = chosen(name, params, pool, free)
    alone = chosen(name, params, pool, budget)
    if prefix_closed(whole):
        shorter = cut(whole, budget)
        assert shorter.ids.tolist() == alone.ids.tolist()
        assert shorter.budget == alone.budget
        if alone.gains is not None:
            np.testing.assert_allclose(shorter.gains, alone.gains)
        if shorter.certificate is not None:
            assert shorter.certificate == alone.certificate
    elif budget < free:
        with pytest.raises(StrategyError, match="run it again"):
            cut(whole, budget)
    given_ = arguments(name, params, pool)
    assert [s.ids.tolist() for s in at_budgets(pool, name, [budget, free], **given_)] == [
        alone.ids.tolist(),
        whole.ids.tolist(),
    ]


@pytest.mark.parametrize(("name", "params"), CASES)
@PROMISE
@given(pool=pools())
def test_the_seed_matters_only_where_the_registry_says_so(name: str, params: dict[str, Any], pool: Candidates) -> None:
    results = {tuple(chosen(name, params, pool, 1, seed=seed).ids) for seed in range(6)}
    if not registry.get(name).uses_seed(
        registry.get(name).resolve({k: v for k, v in arguments(name, params, pool).items() if k != "transform"})
    ):
        assert len(results) == 1


@pytest.mark.parametrize(("name", "params"), CASES)
def test_inputs_are_not_changed(name: str, params: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "embeddings": rng.normal(size=(20, 3)).astype(np.float32),
        "scores": {column: rng.normal(size=20).astype(np.float32) for column in SCORE_COLUMNS},
        "ids": [f"p{i}" for i in range(20)],
        "tasks": ["a", "b"] * 10,
        "annotated": np.arange(20) < 4,
        "lengths": np.arange(20) + 1,
        "groups": np.arange(20) // 2,
    }
    before = copy.deepcopy(arrays)
    pool = Candidates(ids=np.array(arrays["ids"], object))
    select(**arrays, strategy=name, budget=6, **arguments(name, params, pool))
    for key, value in arrays.items():
        np.testing.assert_equal(value, before[key])
    for array in (arrays["embeddings"], arrays["annotated"], arrays["lengths"], *arrays["scores"].values()):
        assert array.flags.writeable


@pytest.mark.parametrize("name", ALL)
def test_impossible_requests_are_refused(name: str) -> None:
    rng = np.random.default_rng(1)
    pool = Candidates(
        ids=np.array([f"p{i}" for i in range(12)], object),
        embeddings=rng.normal(size=(12, 3)),
        scores={column: rng.normal(size=12) for column in SCORE_COLUMNS},
        annotated=np.arange(12) < 2,
        tasks=np.array(["a", "b"] * 6, object),
        lengths=np.arange(1.0, 13.0),
    )
    params = arguments(name, {}, pool)
    for budget in (0, -1, 11, "0%", "100%", "some", 2.5, None, True):
        with pytest.raises(StrategyError, match=r"budget is .* 1 to 10|budget is .* from 1 to 10"):
            select(pool, name, budget, **params)  # type: ignore[arg-type]
    with pytest.raises(StrategyError, match=rf"{name}: no parameter 'wrong' \(it has: "):
        select(pool, name, 3, **params, wrong=1)
    strategy = registry.get(name)
    for need in strategy.needed(strategy.resolve(params)):
        column, _, score = need.partition(":")
        without = replace(pool, **{column: {} if column == "scores" else None})
        with pytest.raises(StrategyError, match=f"{name} needs .*{score or column}"):
            select(without, name, 3, **params)
        if column == "tasks":
            continue
        for bad in (np.nan, np.inf):
            broken = np.array(pool.scores[score] if column == "scores" else getattr(pool, column))
            broken[7] = bad
            spoiled = replace(pool, **{column: {score: broken} if column == "scores" else broken})
            with pytest.raises(StrategyError, match=r"of prompt 'p7' holds (NaN|infinity)"):
                select(spoiled, name, 3, **params)
    everyone = pool.with_annotated(np.ones(12, bool))
    with pytest.raises(StrategyError, match="all 12 prompts are annotated"):
        select(everyone, name, 1, **params)
