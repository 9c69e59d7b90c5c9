"""k-means against scikit-learn, its seeding against the distribution it promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from thriftune.selection.engine import lloyd
from thriftune.selection.run import select

rng = np.random.default_rng(8)
CENTRES = rng.normal(size=(12, 5)) * 4
CLOUD = (CENTRES[rng.integers(0, 12, 600)] + rng.normal(size=(600, 5))).astype(np.float32)


def test_from_the_same_start_lloyd_ends_where_scikit_learn_does() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    start = lloyd.k_means(CLOUD, 12, np.random.default_rng(1), iterations=0)
    ours = lloyd.k_means(CLOUD, 12, np.random.default_rng(1), iterations=500)
    theirs = cluster.KMeans(12, init=start.centres, n_init=1, max_iter=500, tol=0, algorithm="lloyd").fit(CLOUD)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=2e-3)
    assert ours.inertia < start.inertia


def test_inertia_is_as_good_as_scikit_learns() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    ours = [select(embeddings=CLOUD, strategy="k_means", budget=40, seed=s).notes["inertia"] for s in range(5)]
    theirs = [cluster.KMeans(40, n_init=1, random_state=s, max_iter=20).fit(CLOUD).inertia_ for s in range(5)]
    assert np.mean(ours) <= 1.05 * np.mean(theirs)


def one_by_one(function: Callable[[Any], None], tasks: Iterable[Any]) -> None:
    for task in tasks:
        function(task)


@pytest.mark.parametrize("together", [1, 256])
def test_seeds_are_drawn_by_squared_distance(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lloyd, "_SEEDS", together)
    x = np.array([[0.0], [1.0], [3.0], [7.0]], np.float32)
    drawn = Counter()
    generator = np.random.default_rng(0)
    n = 6000
    for _ in range(n):
        found, _ = lloyd._seeds(x, 3, np.empty((0, 1), np.float32), generator, one_by_one)
        drawn[tuple(x[found, 0].tolist())] += 1
    squared = (x - x.T) ** 2
    statistic = 0.0
    for a, b, c in permutations(range(4), 3):
        second = squared[a, b] / squared[a].sum()
        nearest = np.minimum(squared[a], squared[b])
        expected = n * second * (nearest[c] / nearest.sum()) / 4
        statistic += (drawn[x[a, 0], x[b, 0], x[c, 0]] - expected) ** 2 / expected
    assert statistic < 49.7  # chi-square with 23 degrees of freedom, p = 0.001


def test_the_member_nearest_the_centre_is_picked_largest_cluster_first() -> None:
    generator = np.random.default_rng(3)
    blobs = [generator.normal(size=(size, 2)) + at for size, at in ((20, 0), (30, 100), (10, 200))]
    x = np.concatenate(blobs).astype(np.float32)
    expected = []
    for begin, blob in ((20, blobs[1]), (0, blobs[0]), (50, blobs[2])):
        expected.append(begin + int(((blob - blob.mean(axis=0)) ** 2).sum(axis=1).argmin()))
    selection = select(embeddings=x, strategy="k_means", budget=3)
    assert selection.rows.tolist() == expected
    assert selection.gains is not None
    assert selection.gains.tolist() == [30, 20, 10]


def test_annotated_prompts_are_centres_that_stay() -> None:
    generator = np.random.default_rng(3)
    x = np.concatenate([generator.normal(size=(20, 2)) + at for at in (0, 100, 200)]).astype(np.float32)
    annotated = np.arange(60) == 25
    rows = select(embeddings=x, annotated=annotated, strategy="k_means", budget=2).rows
    assert sorted(rows // 20) == [0, 2]
    fixed = lloyd.k_means(x, 2, np.random.default_rng(0), fixed=x[annotated])
    np.testing.assert_allclose(fixed.centres[0], x[25], rtol=1e-5)
    assert len(fixed.centres) == 3


def test_fewer_different_prompts_than_picks() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    selection = select(embeddings=x, strategy="k_means", budget=7)
    assert len(set(selection.rows[:3] // 4)) == 3
    assert selection.gains is not None
    assert selection.gains.tolist() == [4, 4, 4, 0, 0, 0, 0]


def test_threads_and_far_off_pools_change_nothing() -> None:
    near = lloyd.k_means(CLOUD, 20, np.random.default_rng(2))
    far = lloyd.k_means(CLOUD + np.float32(1000), 20, np.random.default_rng(2))
    assert far.inertia == pytest.approx(near.inertia, rel=0.02)
