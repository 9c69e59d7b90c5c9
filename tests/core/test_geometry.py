from __future__ import annotations

import numpy as np
import pytest

from thriftune.errors import StrategyError
from thriftune.geometry import TRANSFORMS, cluster, coverage, plane, transform

RNG = np.random.default_rng(3)


def test_transforms_worked_by_hand() -> None:
    x = np.array([[3.0, 4.0], [3.0, -4.0], [0.0, 0.0]])
    assert transform(x, "none").tolist() == x.tolist()
    np.testing.assert_allclose(transform(x, "l2"), [[0.6, 0.8], [0.6, -0.8], [0, 0]], atol=1e-7)
    # Mean (2, 0): (1, 4), (1, -4), (-2, 0).
    r = 17**-0.5
    np.testing.assert_allclose(transform(x, "centre_l2"), [[r, 4 * r], [r, -4 * r], [-1, 0]], atol=1e-7)
    # Centred columns are uncorrelated with variances 2 and 32/3, so whitening divides by their roots.
    w = np.array([[1 / 2**0.5, 4 / (32 / 3) ** 0.5], [1 / 2**0.5, -4 / (32 / 3) ** 0.5], [-2 / 2**0.5, 0]])
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    got = transform(x, "whiten")
    # Axes are free in order and sign; distances are not.
    np.testing.assert_allclose(got @ got.T, w @ w.T, atol=1e-6)


def test_whitening_against_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = RNG.normal(size=(300, 6)) @ RNG.normal(size=(6, 6))
    reference = decomposition.PCA(whiten=True, svd_solver="full").fit_transform(x)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    got = transform(x, "whiten")
    np.testing.assert_allclose(got @ got.T, reference @ reference.T, atol=1e-4)


def test_whitening_drops_directions_without_variance() -> None:
    x = RNG.normal(size=(50, 3)) @ RNG.normal(size=(3, 10)) + 5
    assert transform(x, "whiten").shape == (50, 3)
    assert np.isfinite(transform(np.ones((4, 3)), "whiten")).all()


@pytest.mark.parametrize("how", TRANSFORMS)
def test_input_is_not_changed(how: str) -> None:
    x = RNG.normal(size=(20, 5)).astype(np.float32)
    before = x.copy()
    x.flags.writeable = False
    got = transform(x, how)  # type: ignore[arg-type]
    assert got.dtype == np.float32
    got[:] = 0
    assert (x == before).all()


def test_unknown_transform() -> None:
    with pytest.raises(StrategyError, match="unknown transform 'pca': choose one of none, l2, centre_l2, whiten"):
        transform(np.ones((2, 2)), "pca")  # type: ignore[arg-type]


def test_plane_against_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = RNG.normal(size=(200, 12)) * np.linspace(5, 1, 12) + 100
    reference = decomposition.PCA(2, svd_solver="full").fit_transform(x)
    got = plane(x)
    np.testing.assert_allclose(np.abs(got), np.abs(reference), atol=1e-3)


def test_plane_is_the_same_for_shuffled_rows_and_any_width() -> None:
    x = RNG.normal(size=(100, 7))
    order = RNG.permutation(100)
    np.testing.assert_allclose(plane(x[order]), plane(x)[order], atol=1e-4)
    assert plane(np.arange(5.0)[:, None]).shape == (5, 2)


def test_clusters_that_are_far_apart_are_found() -> None:
    centres = np.array([[0, 0], [100, 0], [0, 100]])
    truth = np.repeat([0, 1, 2], 40)
    x = centres[truth] + RNG.normal(size=(120, 2))
    # With many centres each of them stays inside one true cluster.
    labels = cluster(x, 12, seed=1)
    assert labels.shape == (120,)
    for label in np.unique(labels):
        assert len(set(truth[labels == label])) == 1
    assert (cluster(x, 12, seed=1) == labels).all()
    assert cluster(x[:2], 5).shape == (2,)


def test_coverage_worked_by_hand() -> None:
    x = np.array([[0.0], [1.0], [5.0], [6.0]])
    # From 0: 0, 1, 5, 6. With 6 too: 0, 1, 1, 0. With all: 0.
    got = coverage(x, np.array([0, 3, 1, 2]), [1, 2, 4])
    np.testing.assert_allclose(got, [12 / 4, 2 / 4, 0], atol=1e-6)


def test_coverage_against_scipy_in_blocks() -> None:
    distance = pytest.importorskip("scipy.spatial.distance")
    x = RNG.normal(size=(5000, 4)).astype(np.float32)
    picks = RNG.permutation(5000)[:4500]
    got = coverage(x, picks, [10, 4500], sample=5000)
    whole = distance.cdist(x, x[picks])
    np.testing.assert_allclose(got, [whole[:, :10].min(1).mean(), whole.min(1).mean()], atol=2e-4)


def test_whitening_fewer_rows_than_columns_agrees_with_more() -> None:
    # The same rows with columns of zeros behind: their components are the same, found in another way.
    x = np.random.default_rng(3).normal(size=(20, 12)) * np.arange(1, 13)
    few, many = transform(np.pad(x, ((0, 0), (0, 30))), "whiten"), transform(x, "whiten")
    assert few.shape == (20, 12)
    np.testing.assert_allclose(few @ few.T, many @ many.T, atol=1e-4)


def test_a_transform_can_work_in_its_input() -> None:
    x = np.random.default_rng(4).normal(size=(30, 5)).astype(np.float32)
    expected = transform(x, "centre_l2")
    assert transform(x, "centre_l2", overwrite=True) is x
    np.testing.assert_array_equal(x, expected)
