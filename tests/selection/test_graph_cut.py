"""graph_cut against its definition and submodlib."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from brute_force import check_greedy, cosine, rbf

from thriftune.selection.engine import lookahead
from thriftune.selection.run import select

CLOUD = np.random.default_rng(2).normal(size=(60, 4)).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("kernel", "trade_off"), [("rbf", 2.0), ("rbf", 0.5), ("cosine", 3.0)])
def test_every_pick_is_a_best_one(kernel: Any, trade_off: float, warm: bool, weighted: bool) -> None:
    similar = rbf(CLOUD, 0.5) if kernel == "rbf" else np.maximum(cosine(CLOUD), 0)
    weights = np.linspace(0.2, 2, 60) if weighted else np.ones(60)
    annotated = (np.arange(60) % 9 == 4) & warm

    def value(chosen: list[int]) -> float:
        return trade_off * float(weights @ similar[:, chosen].sum(axis=1)) - float(
            similar[np.ix_(chosen, chosen)].sum()
        )

    more = {"weights": weights} if weighted else {}
    selection = select(
        embeddings=CLOUD,
        annotated=annotated,
        strategy="graph_cut",
        budget=30,
        kernel=kernel,
        trade_off=trade_off,
        **more,
    )
    check_greedy(value, selection, np.flatnonzero(annotated).tolist(), picks=60)


def test_agrees_with_submodlib() -> None:
    """submodlib has the factor on the other term: ours is twice as large with 1/2 there."""
    submodlib = pytest.importorskip("submodlib")
    x = np.random.default_rng(5).normal(size=(150, 6)).astype(np.float32)
    function = submodlib.GraphCutFunction(
        n=150, mode="dense", lambdaVal=0.5, separate_rep=False, ggsijs=rbf(x, 0.5).astype(np.float32)
    )
    picks = function.maximize(budget=40, optimizer="NaiveGreedy", show_progress=False)
    selection = select(embeddings=x, strategy="graph_cut", budget=40)
    assert selection.rows.tolist() == [row for row, _ in picks]
    np.testing.assert_allclose(selection.gains, [2 * gain for _, gain in picks], rtol=1e-4)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(6).normal(size=(700, 8)).astype(np.float32)
    similar = rbf(x[:, :], 0.5)
    gain = 2 * similar.sum(axis=0) - 1
    expected = []
    for _ in range(200):
        expected.append(int(gain.argmax()))
        gain -= 2 * similar[expected[-1]]
        gain[expected] = -np.inf
    for cells in (1, 2**14, 2**22):
        monkeypatch.setattr(lookahead, "_CELLS", cells)
        assert select(embeddings=x, strategy="graph_cut", budget=200).rows.tolist() == expected
