"""gist against exhaustive search and the definition of its objective."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from brute_force import squared_distances

from thriftune.selection.run import select
from thriftune.selection.strategies.gist import _Points


def run(x: Any, scores: Any, budget: int, **more: Any) -> Any:
    return select(embeddings=x, scores={"doubt": scores}, strategy="gist", score="doubt", budget=budget, **more)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_close_to_the_best_set(seed: int, warm: bool) -> None:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(12, 2)).astype(np.float32)
    scores = generator.permutation(12).astype(np.float32)
    annotated = (np.arange(12) == 5) & warm
    already = np.flatnonzero(annotated).tolist()
    distances = np.sqrt(squared_distances(x))
    spread = select(embeddings=x, annotated=annotated, strategy="k_center", budget=4)

    def least(rows: Any) -> float:
        rows = list(rows)
        pairs = [distances[a, b] for a, b in combinations(rows, 2)] + [distances[a, b] for a in rows for b in already]
        return min(pairs)

    assert spread.gains is not None
    unit = least(spread.rows)

    def value(rows: Any) -> float:
        return float(np.mean([(scores[r] + 1) / 12 for r in rows]) + 0.7 * least(rows) / unit)

    selection = run(x, scores, 4, annotated=annotated, trade_off=0.7)
    assert selection.notes["value"] == pytest.approx(value(selection.rows), rel=1e-4)
    best = max(value(s) for s in combinations([i for i in range(12) if not annotated[i]], 4))
    assert 2 / 3 * best <= value(selection.rows) <= best + 1e-5
    top = [r for r in np.argsort(-scores) if not annotated[r]][:4]
    assert value(selection.rows) >= max(value(top), value(spread.rows)) - 1e-5


def test_without_trade_off_it_is_the_top_of_the_score() -> None:
    x = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    scores = np.random.default_rng(2).permutation(40).astype(np.float32)
    assert run(x, scores, 9, trade_off=0).rows.tolist() == np.argsort(-scores)[:9].tolist()


def test_near_copies_are_kept_out() -> None:
    # The three best are copies of each other up to 0.01; the fourth and fifth lie elsewhere.
    x = np.array([[0, 0], [0.01, 0], [0, 0.01], [5, 0], [0, 5], [3, 3]], np.float32)
    assert run(x, np.array([6, 5, 4, 3, 2, 1]), 3).rows.tolist() == [0, 3, 4]


@pytest.mark.parametrize("warm", [False, True])
def test_keeping_apart_is_first_come_first_served(warm: bool) -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(700, 2)).astype(np.float32)  # more than a block
    order = generator.permutation(700)
    annotated = np.array([3, 99]) if warm else np.empty(0, np.int64)
    order = order[~np.isin(order, annotated)]
    expected: list[int] = []
    for row in order:
        others = [*expected, *annotated]
        if not others or np.linalg.norm(x[others] - x[row], axis=1).min() >= 0.2:
            expected.append(int(row))
    found = _Points(x, annotated).keep_apart(order, 700, 0.2)
    assert found.tolist() == expected
    assert _Points(x, annotated).keep_apart(order, 30, 0.2).tolist() == expected[:30]
