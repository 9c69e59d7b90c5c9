"""Hybrids of uncertainty and coverage against their parts and their definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from brute_force import check_greedy, local, rbf

from thriftune.selection.engine import lookahead
from thriftune.selection.run import select

CLOUD = np.random.default_rng(2).normal(size=(60, 4)).astype(np.float32)
SCORES = np.random.default_rng(3).permutation(60).astype(np.float32)


def run(strategy: str, budget: int, x: Any = CLOUD, scores: Any = SCORES, **more: Any) -> Any:
    return select(embeddings=x, scores={"doubt": scores}, strategy=strategy, score="doubt", budget=budget, **more)


@pytest.mark.parametrize(
    ("name", "how"), [("k_center", {}), ("facility_location", {}), ("facility_location", {"kernel": "local"})]
)
def test_filtered_ones_see_only_the_uncertain_and_the_annotated(name: str, how: dict[str, str]) -> None:
    annotated = np.arange(60) % 20 == 7
    free = np.flatnonzero(~annotated)
    kept = free[np.argsort(-SCORES[free])][: round(0.3 * len(free) + 0.5)]
    rows = np.sort(np.concatenate([kept, np.flatnonzero(annotated)]))
    whole = run(f"filtered_{name}", 8, annotated=annotated, keep=0.3, **how)
    part = select(embeddings=CLOUD[rows], annotated=annotated[rows], strategy=name, budget=8, **how)
    assert whole.rows.tolist() == rows[part.rows].tolist()
    np.testing.assert_array_equal(whole.gains, part.gains)
    assert whole.certificate == {**part.certificate, "kind": f"filtered_{name}"}
    assert whole.notes["kept"] == len(rows)


@pytest.mark.parametrize("name", ["k_center", "facility_location"])
def test_as_many_are_kept_as_are_wanted(name: str) -> None:
    assert sorted(run(f"filtered_{name}", 9, keep=0.01).rows) == sorted(np.argsort(-SCORES)[:9])


@pytest.mark.parametrize("kernel", ["rbf", "local"])
def test_weights_are_the_scores(kernel: str) -> None:
    weighted = run("weighted_facility_location", 12, kernel=kernel)
    by_hand = select(embeddings=CLOUD, weights=SCORES, strategy="facility_location", budget=12, kernel=kernel)
    assert weighted.rows.tolist() == by_hand.rows.tolist()
    np.testing.assert_allclose(weighted.gains, by_hand.gains)
    both = run("weighted_facility_location", 12, weights=np.arange(60.0), kernel=kernel)
    product = SCORES * np.arange(60.0)
    by_hand = select(embeddings=CLOUD, weights=product, strategy="facility_location", budget=12, kernel=kernel)
    assert both.rows.tolist() == by_hand.rows.tolist()


def test_negative_scores_are_counted_from_the_lowest() -> None:
    assert (
        run("weighted_facility_location", 5, scores=SCORES - 30).rows.tolist()
        == run("weighted_facility_location", 5, scores=SCORES).rows.tolist()
    )


@pytest.mark.parametrize("kernel", [rbf, local])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("trade_off", [0.0, 2.0])
def test_coverage_plus_uncertainty_is_greedy(
    trade_off: float, warm: bool, kernel: Callable[[Any, float], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookahead, "_CELLS", 2**9)  # so that batches are smaller than the pool
    similar = kernel(CLOUD, 0.5)
    annotated = (np.arange(60) % 11 == 3) & warm
    merit = trade_off * (SCORES + 1) / 60

    def value(chosen: list[int]) -> float:
        covered = similar[:, chosen].max(axis=1).sum() if chosen else 0.0
        return float(covered + merit[chosen].sum())

    how = {"annotated": annotated, "trade_off": trade_off, "kernel": kernel.__name__}
    selection = run("uncertain_facility_location", 25, **how)
    check_greedy(value, selection, np.flatnonzero(annotated).tolist(), picks=60)


def test_without_the_one_or_the_other() -> None:
    plain = select(embeddings=CLOUD, strategy="facility_location", budget=10)
    assert run("uncertain_facility_location", 10, trade_off=0).rows.tolist() == plain.rows.tolist()
    best = np.argsort(-SCORES)[:10].tolist()
    assert run("uncertain_facility_location", 10, trade_off=1e6).rows.tolist() == best
