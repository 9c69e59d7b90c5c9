"""k_center and facility_location against greedy by brute force, exhaustive search, and other libraries."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from thriftune.selection.run import select


def distances(points: Any) -> Any:
    """(n, n) float64, one pair at a time."""
    return np.array(
        [[np.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(p, q, strict=True))) for q in points] for p in points]
    )


def similarities(points: Any, gamma: float) -> Any:
    squared = distances(points) ** 2
    n = len(points)
    width = sum(squared[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return np.exp(-squared / (gamma * width))


GRIDS = [np.random.default_rng(seed).integers(-4, 5, (18, 2)).astype(np.float32) for seed in range(6)]


@pytest.mark.parametrize("points", GRIDS)
def test_k_center_is_farthest_first_from_the_mean(points: Any) -> None:
    far = distances(points)
    mean = points.astype(np.float64).mean(axis=0)
    picks = [int(np.argmin(((points - mean) ** 2).sum(axis=1)))]
    gains = [far[picks[0]].max()]
    while len(picks) < 12:
        nearest = [-1.0 if i in picks else min(far[i, p] for p in picks) for i in range(len(points))]
        picks.append(int(np.argmax(nearest)))
        gains.append(max(nearest))
    selection = select(embeddings=points, strategy="k_center", budget=12)
    assert selection.rows.tolist() == picks
    np.testing.assert_allclose(selection.gains, gains, rtol=1e-6)
    assert selection.certificate is not None
    assert selection.certificate["radius"] == pytest.approx(far[:, picks].min(axis=1).max())


@pytest.mark.parametrize("points", GRIDS)
def test_k_center_starts_from_what_is_annotated(points: Any) -> None:
    far = distances(points)
    annotated = np.arange(len(points)) % 7 == 3
    picks: list[int] = []
    while len(picks) < 8:
        centres = [*np.flatnonzero(annotated), *picks]
        nearest = [-1.0 if i in centres else min(far[i, p] for p in centres) for i in range(len(points))]
        picks.append(int(np.argmax(nearest)))
    selection = select(embeddings=points, annotated=annotated, strategy="k_center", budget=8)
    assert selection.rows.tolist() == picks


@pytest.mark.parametrize("points", GRIDS[:3])
def test_the_k_center_bound_holds_over_all_choices(points: Any) -> None:
    points = points[:11]
    far = distances(points)
    annotated = np.arange(11) == 5
    certificate = select(embeddings=points, annotated=annotated, strategy="k_center", budget=3).certificate
    assert certificate is not None
    best = min(far[:, [5, *chosen]].min(axis=1).max() for chosen in combinations(range(11), 3))
    assert certificate["lower_bound"] - 1e-6 <= best <= certificate["radius"] + 1e-6


def coverage(similar: Any, chosen: list[int], weights: Any) -> float:
    return float((similar[:, chosen].max(axis=1) * weights).sum()) if chosen else 0.0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("points", GRIDS)
def test_every_facility_location_pick_is_a_best_one(points: Any, warm: bool, weighted: bool) -> None:
    similar = similarities(points, 0.3)
    annotated = (np.arange(len(points)) % 6 == 2) & warm
    weights = np.arange(1.0, len(points) + 1) if weighted else np.ones(len(points))
    more = {"weights": weights} if weighted else {}
    selection = select(
        embeddings=points, annotated=annotated, strategy="facility_location", budget=10, gamma=0.3, **more
    )
    assert selection.gains is not None
    chosen = np.flatnonzero(annotated).tolist()
    before = start = coverage(similar, chosen, weights)
    for row, gain in zip(selection.rows.tolist(), selection.gains, strict=True):
        free = [i for i in range(len(points)) if i not in chosen]
        best = max(coverage(similar, [*chosen, i], weights) for i in free) - before
        chosen.append(row)
        after = coverage(similar, chosen, weights)
        assert after - before == pytest.approx(best, abs=1e-4 * weights.sum())
        assert gain == pytest.approx(after - before, abs=1e-4 * weights.sum())
        before = after
    assert selection.certificate is not None
    assert selection.certificate["value"] == pytest.approx(before - start, rel=1e-4)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("points", GRIDS[:3])
def test_the_facility_location_bound_holds_over_all_choices(points: Any, warm: bool) -> None:
    points = points[:11]
    similar = similarities(points, 0.2)
    annotated = (np.arange(11) == 4) & warm
    ones, already = np.ones(11), np.flatnonzero(annotated).tolist()
    free = [i for i in range(11) if i not in already]
    base = coverage(similar, already, ones)
    best = max(coverage(similar, [*already, *chosen], ones) for chosen in combinations(free, 4)) - base
    certificate = select(
        embeddings=points, annotated=annotated, strategy="facility_location", budget=4, gamma=0.2
    ).certificate
    assert certificate is not None
    assert certificate["upper_bound"] >= best - 1e-4
    assert certificate["value"] <= best + 1e-4
    assert certificate["value"] >= (1 - 1 / np.e) * best
    assert certificate["ratio"] == pytest.approx(certificate["value"] / certificate["upper_bound"])


CLOUD = np.random.default_rng(11).normal(size=(150, 5)).astype(np.float32)
# Later two prompts gain the same, each covering itself and the other: which of them comes first is rounding.
UNTIED = 22


def test_facility_location_agrees_with_apricot() -> None:
    apricot = pytest.importorskip("apricot")
    model = apricot.FacilityLocationSelection(25, metric="precomputed", optimizer="naive")
    model.fit(similarities(CLOUD, 0.5))
    selection = select(embeddings=CLOUD, strategy="facility_location", budget=25, gamma=0.5)
    assert selection.rows[:UNTIED].tolist() == model.ranking[:UNTIED].tolist()
    np.testing.assert_allclose(selection.gains, model.gains, rtol=1e-4)


def test_facility_location_agrees_with_submodlib() -> None:
    submodlib = pytest.importorskip("submodlib")
    function = submodlib.FacilityLocationFunction(
        n=len(CLOUD), mode="dense", sijs=similarities(CLOUD, 0.5), separate_rep=False
    )
    picks = function.maximize(budget=25, optimizer="NaiveGreedy", show_progress=False)
    selection = select(embeddings=CLOUD, strategy="facility_location", budget=25, gamma=0.5)
    assert selection.rows[:UNTIED].tolist() == [row for row, _ in picks[:UNTIED]]
    np.testing.assert_allclose(selection.gains, [gain for _, gain in picks], rtol=1e-3)


def test_cosine_agrees_with_apricot() -> None:
    apricot = pytest.importorskip("apricot")
    unit = CLOUD.astype(np.float64) / np.linalg.norm(CLOUD.astype(np.float64), axis=1, keepdims=True)
    model = apricot.FacilityLocationSelection(25, metric="precomputed", optimizer="naive")
    model.fit(np.maximum(unit @ unit.T, 0))
    selection = select(embeddings=CLOUD, strategy="facility_location", budget=25, kernel="cosine")
    assert selection.rows.tolist() == model.ranking.tolist()
    np.testing.assert_allclose(selection.gains, model.gains, rtol=1e-4)


def test_score_strategies_rank_by_their_column() -> None:
    scores = {"mean_entropy": np.array([0.1, 0.9, 0.5, 0.9]), "prompt_nll": np.array([4.0, 3.0, 2.0, 1.0])}
    assert select(scores=scores, strategy="mean_entropy", budget=3).rows.tolist() == [1, 3, 2]
    assert select(scores=scores, strategy="prompt_nll", budget=3).rows.tolist() == [0, 1, 2]
