"""Nearest rows by cosine against scikit-learn, exact and by the neighbour graph."""

from __future__ import annotations

import numpy as np
import pytest

from thriftune.selection.engine import effort, nearest, neighbours
from thriftune.selection.engine.blocks import workers

generator = np.random.default_rng(0)
X = (generator.normal(size=(40, 12))[generator.integers(0, 40, 900)] + 0.3 * generator.normal(size=(900, 12))).astype(
    np.float32
)


def found(degree: int):
    with workers() as run:
        return nearest.nearest(X, degree, run)


def expected(degree: int):
    neighbors = pytest.importorskip("sklearn.neighbors")
    distances, rows = neighbors.NearestNeighbors(n_neighbors=degree + 1, metric="cosine").fit(X).kneighbors(X)
    return rows[:, 1:], 1 - distances[:, 1:]


def test_agrees_with_scikit_learn() -> None:
    rows, cosines = found(7)
    want, want_cosines = expected(7)
    assert [set(a) for a in rows] == [set(b) for b in want]
    np.testing.assert_allclose(np.sort(cosines), np.sort(want_cosines), atol=1e-5)


def test_the_graph_finds_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "_PATIENCE", 0)
    rows, cosines = found(7)
    want, _ = expected(7)
    assert rows.shape == cosines.shape == (900, 7)
    assert not (rows == np.arange(900)[:, None]).any()
    assert np.mean([len(set(a) & set(b)) / 7 for a, b in zip(rows, want, strict=True)]) > 0.95


def test_the_graph_finds_nearly_all_with_clusters_of_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "_PATIENCE", 0)
    monkeypatch.setattr(neighbours, "_CLUSTER", 20)
    monkeypatch.setattr(neighbours, "_MANY", 10)
    rows, _ = found(7)
    want, _ = expected(7)
    assert np.mean([len(set(a) & set(b)) / 7 for a, b in zip(rows, want, strict=True)]) > 0.9


def test_no_neighbours() -> None:
    rows, cosines = found(0)
    assert rows.shape == cosines.shape == (900, 0)
