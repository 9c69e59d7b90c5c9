"""typiclust on clusters that are plain to see, its density against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from thriftune.selection.run import select
from thriftune.selection.strategies.typiclust import _density

SIZES = (24, 40, 12, 3)


def blobs() -> Any:
    generator = np.random.default_rng(9)
    return np.concatenate([generator.normal(size=(s, 3)) + 1000 * i for i, s in enumerate(SIZES)]).astype(np.float32)


GROUP = np.repeat(np.arange(4), SIZES)


def densest(x: Any, group: int) -> int:
    members = np.flatnonzero(group == GROUP)
    distances = np.linalg.norm(x[members][:, None] - x[members][None], axis=2)
    k = min(20, len(members) // 2)
    return int(members[np.sort(distances, axis=1)[:, 1 : k + 1].mean(axis=1).argmin()])


def test_the_densest_of_each_cluster_large_ones_first_strays_last() -> None:
    x = blobs()
    rows = select(embeddings=x, strategy="typiclust", budget=len(x), clusters=4).rows
    assert rows[:3].tolist() == [densest(x, 1), densest(x, 0), densest(x, 2)]
    assert sorted(rows[-3:]) == np.flatnonzero(GROUP == 3).tolist()


def test_clusters_with_an_answer_wait() -> None:
    x = blobs()
    annotated = np.arange(len(x)) == int(np.flatnonzero(GROUP == 1)[5])
    rows = select(embeddings=x, annotated=annotated, strategy="typiclust", budget=3).rows
    assert GROUP[rows].tolist() == [0, 2, 1]


def test_beyond_the_number_of_clusters_they_take_turns() -> None:
    x = blobs()
    rows = select(embeddings=x, strategy="typiclust", budget=12, clusters=4).rows
    assert GROUP[rows].tolist() == [1, 0, 2] * 4


def test_density_agrees_with_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    x = np.random.default_rng(1).normal(size=(90, 6)).astype(np.float32)
    distances, _ = neighbors.NearestNeighbors(n_neighbors=21).fit(x).kneighbors(x)
    np.testing.assert_allclose(_density(x, 20), 1 / (distances[:, 1:].mean(axis=1) + 1e-5), rtol=1e-4)
