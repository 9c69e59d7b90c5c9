"""Bounds on the entropy from the k largest probabilities: by hand, and against whole distributions."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from thriftune.scoring.topk import bounds


def of(p, k, vocabulary=None):
    """Bounds of one step with probabilities ``p``, of which the ``k`` largest are reported."""
    top = np.log(np.sort(np.asarray(p, float))[::-1][:k])[None]
    return bounds(top[:, 0], top, vocabulary or len(p))


def test_by_hand() -> None:
    # Reported 1/2 and 1/4 of six tokens. Least: the tail 1/4 is one token. Most: four tokens of 1/16.
    found = of([0.5, 0.25, 0.1, 0.05, 0.05, 0.05], 2)
    log2 = math.log(2)
    assert found.tail[0] == pytest.approx(0.25)
    assert found.lower[0] == pytest.approx(
        0.5 * log2 + 0.5 * log2 + 0.25 * 2 * log2 - 0.25 * 2 * log2 + 0.25 * 2 * log2
    )
    assert found.upper[0] == pytest.approx(0.5 * log2 + 0.25 * 2 * log2 + 4 * (1 / 16) * 4 * log2)
    assert found.margin[0] == pytest.approx(0.75)
    assert found.nll[0] == pytest.approx(log2)


def test_a_tail_larger_than_a_reported_token_is_several_tokens() -> None:
    # Reported 0.4 and 0.2; the tail of 0.4 cannot be one token: at least two of 0.2.
    found = of([0.4, 0.2, 0.2, 0.2], 2)
    assert found.lower[0] == pytest.approx(scipy.stats.entropy([0.4, 0.2, 0.2, 0.2]))


@given(st.lists(st.floats(-30, 0), min_size=3, max_size=60), st.integers(2, 60))
def test_whole_distributions_lie_between(logits: list[float], k: int) -> None:
    p = np.exp(logits) / np.exp(logits).sum()
    truth = scipy.stats.entropy(p)
    found = of(p, k)
    assert found.lower[0] - 1e-9 <= truth <= found.upper[0] + 1e-9
    assert (
        found.upper[0]
        <= bounds(np.log(p.max(keepdims=True)), np.log(np.sort(p)[::-1][None, :k]), 10**6).upper[0] + 1e-9
    )
    if k >= len(p):
        assert found.lower[0] == pytest.approx(truth, abs=1e-6) == found.upper[0]


def test_steps_with_fewer_and_in_any_order() -> None:
    top = np.log(
        [[0.1, 0.6, 0.3], [0.7, 0.3, 0.0]], where=[[True] * 3, [True, True, False]], out=np.full((2, 3), -np.inf)
    )
    found = bounds(np.log([0.6, 0.7]), top, 3)
    assert found.margin.tolist() == pytest.approx([0.7, 0.6])
    assert found.lower[1] == pytest.approx(scipy.stats.entropy([0.7, 0.3]))


def test_rounded_numbers_that_exceed_one_stay_finite() -> None:
    found = bounds(np.array([0.0]), np.array([[0.0, -9999.0]]))
    assert (found.lower[0], found.upper[0], found.tail[0], found.nll[0]) == (0, 0, 0, 0)
    assert np.isfinite(bounds(np.array([-0.1]), np.array([[-0.1, -2.0, -3.0e38]])).upper).all()
