"""dpp against the log determinant of its kernel, and submodlib."""

from __future__ import annotations

import numpy as np
import pytest
from brute_force import check_greedy, cosine

from thriftune.selection.run import select

CLOUD = np.random.default_rng(6).normal(size=(40, 4)).astype(np.float32)
SCORES = np.random.default_rng(7).permutation(40).astype(np.float32)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("trade_off", [0.0, 1.0, 5.0])
def test_every_pick_is_a_best_one_also_beyond_the_dimensions(trade_off: float, warm: bool) -> None:
    quality = np.exp(trade_off * (SCORES + 1) / 40 / 2)
    kernel = quality[:, None] * (cosine(CLOUD) + 0.1 * np.eye(40)) * quality
    annotated = (np.arange(40) % 13 == 3) & warm

    def value(chosen: list[int]) -> float:
        return float(np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1])

    selection = select(
        embeddings=CLOUD,
        scores={"doubt": SCORES},
        annotated=annotated,
        strategy="dpp",
        score="doubt",
        trade_off=trade_off,
        budget=15,
    )
    check_greedy(value, selection, np.flatnonzero(annotated).tolist(), picks=40)


def test_agrees_with_submodlib() -> None:
    submodlib = pytest.importorskip("submodlib")
    x = np.random.default_rng(3).normal(size=(120, 30)).astype(np.float32)
    function = submodlib.LogDeterminantFunction(n=120, mode="dense", lambdaVal=0.1, sijs=cosine(x))
    picks = function.maximize(budget=20, optimizer="NaiveGreedy", show_progress=False)
    selection = select(
        embeddings=x, scores={"doubt": np.arange(120)}, strategy="dpp", score="doubt", trade_off=0.0, budget=20
    )
    # All first picks gain alike under a cosine, so submodlib may begin elsewhere than with the lowest row.
    assert selection.rows.tolist() == [row for row, _ in picks] or picks[0][0] != selection.rows[0]


def test_with_a_large_trade_off_the_scores_decide() -> None:
    selection = select(
        embeddings=CLOUD, scores={"doubt": SCORES}, strategy="dpp", score="doubt", trade_off=1e4, budget=10
    )
    assert selection.rows.tolist() == np.argsort(-SCORES)[:10].tolist()
