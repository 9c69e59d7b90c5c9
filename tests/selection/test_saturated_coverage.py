"""saturated_coverage against its definition and apricot."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import check_greedy, rbf

from thriftune.selection.engine import lookahead
from thriftune.selection.run import select

CLOUD = np.random.default_rng(3).normal(size=(60, 4)).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("saturation", [0.15, 0.5])
def test_every_pick_is_a_best_one(saturation: float, warm: bool, weighted: bool) -> None:
    similar = rbf(CLOUD, 0.5)
    weights = np.linspace(0.2, 2, 60) if weighted else np.ones(60)
    annotated = (np.arange(60) % 30 == 4) & warm
    limit = saturation * similar.sum(axis=1)

    def value(chosen: list[int]) -> float:
        return float(weights @ np.minimum(similar[:, chosen].sum(axis=1), limit))

    more = {"weights": weights} if weighted else {}
    selection = select(
        embeddings=CLOUD,
        annotated=annotated,
        strategy="saturated_coverage",
        budget=6,
        saturation=saturation,
        **more,
    )
    check_greedy(value, selection, np.flatnonzero(annotated).tolist(), picks=60)


def test_agrees_with_apricot(monkeypatch: pytest.MonkeyPatch) -> None:
    apricot = pytest.importorskip("apricot")
    monkeypatch.setattr(lookahead, "_CELLS", 2**11)  # so that batches are smaller than the pool
    x = np.random.default_rng(7).normal(size=(200, 5)).astype(np.float32)
    similar = rbf(x, 0.5)
    other = apricot.SaturatedCoverageSelection(20, metric="precomputed", alpha=0.2, optimizer="naive").fit(similar)
    selection = select(embeddings=x, strategy="saturated_coverage", budget=20, saturation=0.2)
    assert selection.rows.tolist() == other.ranking.tolist()
    np.testing.assert_allclose(selection.gains, other.gains, rtol=1e-4)


def test_the_automatic_share_is_that_of_the_picks_and_annotated() -> None:
    annotated = np.arange(60) < 6
    selection = select(embeddings=CLOUD, annotated=annotated, strategy="saturated_coverage", budget=9)
    assert selection.notes["saturation"] == 15 / 60


def test_once_all_are_covered_the_share_is_doubled() -> None:
    # Two far-off groups of four: with a limit of 1/8 of the group's similarity half a pick covers a group.
    x = np.array([[0.0], [0.1], [0.2], [0.3], [100.0], [100.1], [100.2], [100.3]], np.float32)
    rows = select(embeddings=x, strategy="saturated_coverage", budget=4, saturation=0.125, gamma=0.01).rows
    assert sorted(rows[:2] // 4) == [0, 1]
    assert sorted(rows[2:] // 4) == [0, 1]
