"""cluster_margin on clusters that are plain to see."""

from __future__ import annotations

from typing import Any

import numpy as np

from thriftune.selection.run import select

GROUP = np.repeat([0, 1, 2], [20, 8, 4])
X = (np.random.default_rng(0).normal(size=(32, 2)) + 100 * GROUP[:, None]).astype(np.float32)


def run(budget: int, scores: Any, **more: Any) -> Any:
    return select(
        embeddings=X, scores={"doubt": scores}, strategy="cluster_margin", score="doubt", budget=budget, **more
    ).rows


def test_clusters_take_turns_small_ones_first() -> None:
    rows = run(9, np.zeros(32), clusters=3, factor=100)
    assert GROUP[rows].tolist() == [2, 1, 0] * 3
    rows = run(17, np.zeros(32), clusters=3, factor=100)
    assert GROUP[rows].tolist() == [2, 1, 0] * 4 + [1, 0] * 2 + [1]


def test_only_the_uncertain_are_considered() -> None:
    scores = np.random.default_rng(1).permutation(32).astype(float)
    for factor, considered in ((1, 6), (2, 12), (2.4, 15)):
        rows = run(6, scores, clusters=3, factor=factor)
        assert set(rows) <= set(np.argsort(-scores)[:considered])
    assert set(run(6, scores, factor=1)) == set(np.argsort(-scores)[:6])


def test_the_seed_draws_within_a_cluster() -> None:
    drawn = {tuple(run(1, np.zeros(32), clusters=3, factor=100, seed=seed)) for seed in range(40)}
    assert {row for rows in drawn for row in rows} == set(np.flatnonzero(GROUP == 2))
