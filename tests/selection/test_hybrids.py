"""Hybrids of uncertainty and coverage against their parts and their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from brute_force import check_greedy, rbf

from thriftune.selection.engine import lookahead
from thriftune.selection.run import select

CLOUD = np.random.default_rng(2).normal(size=(60, 4)).astype(np.float32)
SCORES = np.random.default_rng(3).permutation(60).astype(np.float32)


def run(strategy: str, budget: int, x: Any = CLOUD, scores: Any = SCORES, **more: Any) -> Any:
    return select(embeddings=x, scores={"doubt": scores}, strategy=strategy, score="doubt", budget=budget, **more)


@pytest.mark.parametrize("name", ["k_center", "facility_location"])
def test_filtered_ones_see_only_the_uncertain_and_the_annotated(name: str) -> None:
    annotated = np.arange(60) % 20 == 7
    free = np.flatnonzero(~annotated)
    kept = free[np.argsort(-SCORES[free])][: round(0.3 * len(free) + 0.5)]
    rows = np.sort(np.concatenate([kept, np.flatnonzero(annotated)]))
    whole = run(f"filtered_{name}", 8, annotated=annotated, keep=0.3)
    part = select(embeddings=CLOUD[rows], annotated=annotated[rows], strategy=name, budget=8)
    assert whole.rows.tolist() == rows[part.rows].tolist()
    np.testing.assert_array_equal(whole.gains, part.gains)
    assert whole.certificate == {**part.certificate, "kind": f"filtered_{name}"}
    assert whole.notes["kept"] == len(rows)


@pytest.mark.parametrize("name", ["k_center", "facility_location"])
def test_as_many_are_kept_as_are_wanted(name: str) -> None:
    assert sorted(run(f"filtered_{name}", 9, keep=0.01).rows) == sorted(np.argsort(-SCORES)[:9])


def test_weights_are_the_scores() -> None:
    weighted = run("weighted_facility_location", 12)
    by_hand = select(embeddings=CLOUD, weights=SCORES, strategy="facility_location", budget=12)
    assert weighted.rows.tolist() == by_hand.rows.tolist()
    np.testing.assert_allclose(weighted.gains, by_hand.gains)
    both = run("weighted_facility_location", 12, weights=np.arange(60.0))
    by_hand = select(embeddings=CLOUD, weights=SCORES * np.arange(60.0), strategy="facility_location", budget=12)
    assert both.rows.tolist() == by_hand.rows.tolist()


def test_negative_scores_are_counted_from_the_lowest() -> None:
    assert (
        run("weighted_facility_location", 5, scores=SCORES - 30).rows.tolist()
        == run("weighted_facility_location", 5, scores=SCORES).rows.tolist()
    )


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("trade_off", [0.0, 2.0])
def test_coverage_plus_uncertainty_is_greedy(trade_off: float, warm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "_CELLS", 2**9)  # so that batches are smaller than the pool
    similar = rbf(CLOUD, 0.5)
    annotated = (np.arange(60) % 11 == 3) & warm
    merit = trade_off * (SCORES + 1) / 60

    def value(chosen: list[int]) -> float:
        covered = similar[:, chosen].max(axis=1).sum() if chosen else 0.0
        return float(covered + merit[chosen].sum())

    selection = run("uncertain_facility_location", 25, annotated=annotated, trade_off=trade_off)
    check_greedy(value, selection, np.flatnonzero(annotated).tolist(), picks=60)


def test_without_the_one_or_the_other() -> None:
    plain = select(embeddings=CLOUD, strategy="facility_location", budget=10)
    assert run("uncertain_facility_location", 10, trade_off=0).rows.tolist() == plain.rows.tolist()
    best = np.argsort(-SCORES)[:10].tolist()
    assert run("uncertain_facility_location", 10, trade_off=1e6).rows.tolist() == best
