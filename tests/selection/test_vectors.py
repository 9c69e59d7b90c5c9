"""Embeddings as strategies see them: read once, in order of id, one copy; and the clusters of a large pool."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from thriftune import geometry
from thriftune.selection import vectors
from thriftune.selection.run import select
from thriftune.selection.vectors import clusters_of, in_order
from thriftune.study import Study


@pytest.mark.parametrize("how", geometry.TRANSFORMS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_stored_embeddings_come_scaled_in_order_and_transformed(
    how: geometry.Transform, shuffled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    stored, scale = rng.normal(size=(50, 4)).astype(np.float16), rng.uniform(1, 9, 50).astype(np.float32)
    order = rng.permutation(50) if shuffled else np.arange(50)
    monkeypatch.setattr(vectors, "_CELLS", 28)  # blocks of seven rows
    found = in_order(stored, scale, order, how)
    expected = geometry.transform((stored.astype(np.float64) * scale[:, None])[order], how)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    if how == "whiten":  # directions of components may be turned round
        found, expected = found @ found.T, expected @ expected.T
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_one_copy_is_all_that_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_CELLS", 2**16)
    stored = np.ones((40_000, 100), np.float16)
    stored[::7, ::3] = -1
    size = 4 * stored.size
    for how in ("none", "l2", "centre_l2"):
        tracemalloc.start()
        in_order(stored, np.ones(40_000, np.float32), np.arange(40_000)[::-1], how)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size < peak < 1.3 * size, how
    own = stored.astype(np.float32)
    assert in_order(own, None, np.arange(40_000), "none") is own


def test_embeddings_are_read_once_and_only_where_they_are_wanted(
    make_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    reads = []
    stored = Study.stored_embeddings

    def counted(self: Study, run: str | None = None) -> object:
        reads.append(run)
        return stored(self, run)

    monkeypatch.setattr(Study, "stored_embeddings", counted)
    select(study, "mean_entropy", 5)
    select(study, "random", 5)
    assert reads == []
    select(study, "k_center", 5)
    assert reads == ["default"]


def test_clusters_of_a_large_pool_are_found_among_a_sample(
    make_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(600, d=3)
    x = geometry.transform(study.embeddings("default"), "centre_l2")
    rows = np.arange(0, 600, 3)
    sample, labels, picked = clusters_of(study, "default", "centre_l2", rows, 8)
    assert sample.tolist() == list(range(600))
    np.testing.assert_array_equal(picked, labels[rows])
    monkeypatch.setattr(vectors, "_SAMPLE", 150)
    monkeypatch.setattr(vectors, "_ASSIGN", 40)
    sample, labels, picked = clusters_of(study, "default", "centre_l2", rows, 8)
    assert len(sample) == len(labels) == 150
    in_sample = np.isin(rows, sample)
    np.testing.assert_array_equal(picked[in_sample], labels[np.searchsorted(sample, rows[in_sample])])
    # What is not in the sample falls to the nearest mean.
    centres = np.stack([x[sample][labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    nearest = ((x[rows][:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == picked)[~in_sample].mean() > 0.97
