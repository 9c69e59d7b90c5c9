"""d_optimal and v_optimal against their definitions, exhaustive search and submodlib."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from brute_force import check_greedy

from thriftune.selection.engine.log_det import log_det
from thriftune.selection.run import select

CLOUD = (np.random.default_rng(1).normal(size=(50, 6)) * [3, 2, 1, 1, 0.5, 0.2]).astype(np.float32)


def prior(x: Any, ridge: float) -> float:
    return ridge * float((np.asarray(x, np.float64) ** 2).sum()) / x.size


def matrix(x: Any, ridge: float, chosen: list[int]) -> Any:
    some = np.asarray(x[chosen], np.float64)
    return prior(x, ridge) * np.eye(x.shape[1]) + some.T @ some


def volume(x: Any, ridge: float, chosen: list[int]) -> float:
    return float(np.linalg.slogdet(matrix(x, ridge, chosen))[1])


def variance(x: Any, ridge: float, chosen: list[int]) -> float:
    inverse = np.linalg.inv(matrix(x, ridge, chosen))
    return float(np.mean([p @ inverse @ p for p in x.astype(np.float64)]))


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_every_d_optimal_pick_is_a_best_one(ridge: float, warm: bool) -> None:
    annotated = (np.arange(50) % 8 == 3) & warm
    selection = select(embeddings=CLOUD, annotated=annotated, strategy="d_optimal", budget=30, ridge=ridge)
    check_greedy(lambda chosen: volume(CLOUD, ridge, chosen), selection, np.flatnonzero(annotated).tolist(), picks=50)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_every_v_optimal_pick_is_a_best_one(ridge: float, warm: bool) -> None:
    annotated = (np.arange(50) % 8 == 3) & warm
    selection = select(embeddings=CLOUD, annotated=annotated, strategy="v_optimal", budget=20, ridge=ridge)
    check_greedy(
        lambda chosen: -variance(CLOUD, ridge, chosen), selection, np.flatnonzero(annotated).tolist(), picks=50
    )


@pytest.mark.parametrize("seed", range(3))
def test_both_are_among_the_best_designs(seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(12, 3)).astype(np.float32)
    sets = [list(s) for s in combinations(range(12), 4)]
    variances = [variance(x, 0.1, s) for s in sets]
    most = max(volume(x, 0.1, s) for s in sets)
    rows = select(embeddings=x, strategy="v_optimal", budget=4, ridge=0.1).rows.tolist()
    assert min(variances) <= variance(x, 0.1, rows) + 1e-9
    assert variance(x, 0.1, rows) <= np.quantile(variances, 0.1)
    rows = select(embeddings=x, strategy="d_optimal", budget=4, ridge=0.1).rows.tolist()
    start = volume(x, 0.1, [])
    assert (1 - 1 / np.e) * (most - start) <= volume(x, 0.1, rows) - start <= most - start + 1e-9


def test_d_optimal_agrees_with_submodlib() -> None:
    submodlib = pytest.importorskip("submodlib")
    x = np.random.default_rng(3).normal(size=(120, 20)).astype(np.float32)
    kernel = (x.astype(np.float64) @ x.T) / prior(x, 1.0)
    function = submodlib.LogDeterminantFunction(n=120, mode="dense", lambdaVal=1.0, sijs=kernel)
    picks = function.maximize(budget=25, optimizer="NaiveGreedy", show_progress=False)
    selection = select(embeddings=x, strategy="d_optimal", budget=25)
    assert selection.rows.tolist() == [row for row, _ in picks]


def test_long_runs_do_not_drift() -> None:
    x = np.random.default_rng(4).normal(size=(1400, 12)).astype(np.float32)
    selection = select(embeddings=x, strategy="d_optimal", budget=1200, ridge=0.1)
    assert selection.gains is not None
    assert np.all(np.diff(selection.gains) <= 1e-9)
    added = volume(x, 0.1, selection.rows.tolist()) - volume(x, 0.1, [])
    assert selection.gains.sum() == pytest.approx(added, rel=1e-7)
    selection = select(embeddings=x[:500], strategy="v_optimal", budget=400, ridge=0.1)
    saved = variance(x[:500], 0.1, []) - variance(x[:500], 0.1, selection.rows.tolist())
    assert selection.gains is not None
    assert selection.gains.sum() == pytest.approx(saved, rel=1e-6)


def test_the_ridge_has_no_unit() -> None:
    for strategy in ("d_optimal", "v_optimal"):
        rows = [select(embeddings=CLOUD * s, strategy=strategy, budget=15).rows.tolist() for s in (1, 64)]
        assert rows[0] == rows[1]


def test_merit_is_added() -> None:
    x = np.eye(5, dtype=np.float32)
    merit = np.array([0.0, 0.3, 0.1, 0.4, 0.2])
    found = log_det(x, 5, ridge=1.0, chosen=np.empty(0, np.int64), merit=merit, advance=lambda amount: None)
    assert found.rows.tolist() == [3, 1, 4, 2, 0]
    np.testing.assert_allclose(found.gains, np.log(2) + merit[found.rows])
