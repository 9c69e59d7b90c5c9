"""Every strategy on pools that are not nice: no structure, copies, one point, many dimensions, extremes."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from thriftune.errors import StrategyError
from thriftune.selection import registry
from thriftune.selection.engine import blocks
from thriftune.selection.run import select
from thriftune.study import SCORE_COLUMNS
from thriftune.types import Candidates

OURS = [name for name, strategy in registry.strategies().items() if strategy.built_in]
READ_EMBEDDINGS = [name for name in OURS if "embeddings" in (*registry.get(name).needs, *registry.get(name).uses)]


def sphere(n: int, d: int, seed: int = 0) -> Any:
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def copies(n: int, d: int, noise: float) -> Any:
    """Half of the rows are one point, or lie within ``noise`` of it."""
    x = sphere(n, d)
    x[n // 2 :] = x[0] + noise * sphere(n - n // 2, d, seed=1)
    return x


POOLS: dict[str, Callable[[], Any]] = {
    "uniform on the sphere": lambda: sphere(240, 48),
    "half of it one point": lambda: copies(240, 24, 0.0),
    "half of it nearly one point": lambda: copies(240, 24, 1e-5),
    "all equal": lambda: np.full((60, 8), 0.1, np.float32),
    "all zero": lambda: np.zeros((60, 8), np.float32),
    "some zero": lambda: np.concatenate([np.zeros((20, 8)), sphere(50, 8)]),
    "more dimensions than prompts": lambda: sphere(40, 2048),
    "one prompt": lambda: sphere(1, 8),
    "two prompts": lambda: sphere(2, 8),
    "two equal prompts": lambda: np.ones((2, 8), np.float32),
    "three prompts": lambda: sphere(3, 8),
    "one dimension": lambda: np.random.default_rng(0).standard_normal((90, 1)),
    "whole numbers": lambda: np.random.default_rng(0).integers(-3, 3, (80, 4)),
    "true and false": lambda: np.random.default_rng(0).random((80, 6)) > 0.5,
    "float16": lambda: sphere(80, 8).astype(np.float16),
    "columns first": lambda: np.asfortranarray(sphere(80, 8)),
    "every other number": lambda: sphere(160, 16)[::2, ::2],
    "far from the origin": lambda: 1e3 + 1e-2 * sphere(80, 8),
    "one far outlier": lambda: np.concatenate([sphere(79, 8), np.full((1, 8), 1e6)]),
    "large": lambda: 1e14 * sphere(80, 8),
    "small": lambda: 1e-14 * sphere(80, 8),
}


def pool(x: Any, **more: Any) -> dict[str, Any]:
    n = len(x)
    ties = np.random.default_rng(1)
    return {
        "embeddings": x,
        "scores": {name: ties.integers(0, 5, n).astype(np.float32) for name in SCORE_COLUMNS},
        "tasks": [("a", "b", "")[i % 3] if n > 2 else "a" for i in range(n)],
        "lengths": np.arange(n) + 1,
        **more,
    }


def required(name: str) -> dict[str, Any]:
    """Values of the parameters that must be given."""
    parameters = [p for p in registry.get(name).parameters.values() if p.required]
    return {p.name: [0] if p.prompts else "mean_nll" for p in parameters}


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("name", OURS)
def test_it_answers_with_finite_figures_and_without_warnings(name: str, kind: str) -> None:
    x = POOLS[kind]()
    reads = name in READ_EMBEDDINGS
    for transform in ("none", "centre_l2", "whiten") if reads else (None,):
        if reads and not np.any(x, axis=1).all() and (transform != "none" or registry.get(name).by_angle):
            continue  # refused, below
        for budget in sorted({1, math.ceil(len(x) / 2), len(x)}):
            given = {**pool(x), **required(name), **({"transform": transform} if transform else {})}
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = select(**given, strategy=name, budget=budget)
            assert len(set(found.rows.tolist())) == budget
            json.dumps([dict(found.notes), found.certificate and dict(found.certificate)], allow_nan=False)
            assert found.gains is None or np.isfinite(found.gains).all()
            if found.certificate is not None and "ratio" in found.certificate:
                assert 0 <= found.certificate["ratio"] <= 1


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_numbers_whose_squares_are_lost_are_refused(size: float) -> None:
    with pytest.raises(StrategyError, match=r"embeddings go up to \d.*e[+-]\d+, .* or use transform l2"):
        select(embeddings=size * sphere(9, 3), strategy="k_center", budget=2)
    assert len(select(embeddings=size * sphere(9, 3), strategy="k_center", budget=2, transform="l2")) == 2


@pytest.mark.parametrize("name", READ_EMBEDDINGS)
def test_embeddings_that_point_nowhere_are_refused_where_directions_count(name: str) -> None:
    x = sphere(9, 3)
    x[[4, 7]] = 0
    x[2, 0] = -0.0
    given = {**pool(x, ids=[f"p{i}" for i in range(9)]), **required(name), "strategy": name, "budget": 2}
    given.update({key: ["p0"] for key, value in required(name).items() if value == [0]})
    asked = [{"transform": how} for how in ("l2", "centre_l2", "whiten")]
    asked += [{"kernel": "cosine"}] * ("kernel" in registry.get(name).parameters)
    asked += [{}] * registry.get(name).by_angle
    for params in asked:
        with pytest.raises(StrategyError, match=r"embedding of prompt 'p4' and 1 more is all zero .* or (use|take) "):
            select(**{**given, **params})
    if not registry.get(name).by_angle:
        assert len(select(**given)) == 2


@pytest.mark.parametrize("name", OURS)
def test_the_number_of_threads_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**pool(copies(2300, 12, 0.3)), **required(name), "annotated": np.arange(2300) % 50 == 0}
    picks = []
    for count in (1, 3):
        monkeypatch.setattr(blocks, "threads", lambda count=count: count)
        picks.append(select(**given, strategy=name, budget=40))
    assert picks[0].rows.tolist() == picks[1].rows.tolist()
    if picks[0].gains is not None:
        assert picks[1].gains is not None
        np.testing.assert_array_equal(picks[0].gains, picks[1].gains)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", ["half of it nearly one point", "uniform on the sphere", "some zero"])
def test_the_order_of_the_pool_changes_nothing(name: str, kind: str) -> None:
    x = POOLS[kind]()
    n = len(x)
    if registry.get(name).by_angle and not np.any(x, axis=1).all():
        pytest.skip("refuses vectors of length zero")
    given = pool(x, ids=[f"p{i:03d}" for i in range(n)])
    order = np.random.default_rng(2).permutation(n)
    shuffled = {
        "embeddings": x[order],
        "scores": {key: values[order] for key, values in given["scores"].items()},
        "tasks": [given["tasks"][i] for i in order],
        "lengths": given["lengths"][order],
        "ids": [given["ids"][i] for i in order],
    }
    named = {key: ["p000"] if value == [0] else value for key, value in required(name).items()}
    first, again = (select(**some, **named, strategy=name, budget=n // 3) for some in (given, shuffled))
    assert first.ids.tolist() == again.ids.tolist()


@pytest.mark.parametrize("name", READ_EMBEDDINGS)
def test_texts_that_half_of_the_pool_repeats_come_last(name: str) -> None:
    n = 200
    x = copies(n, 12, 0.0)
    groups = np.where(np.arange(n) < n // 2, np.arange(n), 0)
    candidates = Candidates(ids=np.array([f"p{i:03d}" for i in range(n)], object), groups=groups)
    given = {**pool(x), **required(name), "ids": candidates.ids, "groups": groups}
    given.update({key: ["p000"] for key, value in required(name).items() if value == [0]})
    found = select(**given, strategy=name, budget=n // 2 + 10)
    assert len(np.unique(groups[found.rows[: n // 2]])) == n // 2
    assert (groups[found.rows[n // 2 :]] == 0).all()
    assert found.notes["repeated_prompts"] == 10
    kept = select(**given, strategy=name, budget=n // 2 + 10, duplicates="keep")
    assert len(kept) == n // 2 + 10
