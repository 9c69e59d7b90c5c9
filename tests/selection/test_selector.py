"""The selector object does what `select` does, the way scikit-learn expects it."""

from __future__ import annotations

import numpy as np
import pytest

from thriftune import Selector, select
from thriftune.errors import StrategyError

X = np.random.default_rng(2).normal(size=(40, 3))


def test_fit_ranks_and_transform_takes_the_rows() -> None:
    selector = Selector("k_center", 6, transform="l2")
    picked = selector.fit_transform(X)
    direct = select(embeddings=X, strategy="k_center", budget=6, transform="l2")
    assert selector.ranking_.tolist() == direct.rows.tolist()
    assert selector.gains_ is not None
    assert selector.gains_.tolist() == direct.gains.tolist()  # type: ignore[union-attr]
    np.testing.assert_array_equal(picked, X[direct.rows])
    assert selector.selection_.certificate == direct.certificate


def test_columns_pass_through() -> None:
    annotated = np.arange(40) < 20
    selector = Selector("mean_nll", "25%").fit(X, scores={"mean_nll": np.arange(40)}, annotated=annotated)
    assert selector.ranking_.tolist() == list(range(39, 29, -1))


def test_transform_before_fit_says_so() -> None:
    with pytest.raises(StrategyError, match=r"call fit\(X\) first"):
        Selector().transform(X)


def test_scikit_learn_can_clone_it_and_put_it_into_a_pipeline() -> None:
    base = pytest.importorskip("sklearn.base")
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    twin = base.clone(Selector("k_center", 4, seed=2, start="random"))
    assert twin.get_params() == {"strategy": "k_center", "budget": 4, "seed": 2, "start": "random"}
    assert twin.set_params(budget=5, start="mean").fit(X).ranking_.shape == (5,)
    steps = pipeline.make_pipeline(preprocessing.StandardScaler(), Selector("k_center", 4))
    assert steps.fit_transform(X).shape == (4, 3)
