"""The uncertainty of greedy answers of which only each step's k largest log-probabilities are known.

Margins and the likelihood of the answer are exact. The entropy is not: it lies between two bounds, which meet where the
tail, the probability of all tokens that were not reported, is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thriftune.types import FloatArray

# More tokens than the vocabularies in use have; where the size is not known, the upper bound rests on it.
MOST_TOKENS = 300_000


class Bounds(NamedTuple):
    """Statistics of an answer's steps, each (t,) float64.

    Args:
        nll: -log p of the token taken, nats.
        margin: 1 - (p(1) - p(2)).
        lower, upper: bounds of H(p), nats.
        tail: probability of the tokens that were not reported.
    """

    nll: FloatArray
    margin: FloatArray
    lower: FloatArray
    upper: FloatArray
    tail: FloatArray


def bounds(chosen: FloatArray, top: FloatArray, vocabulary: int = MOST_TOKENS) -> Bounds:
    """What the reported log-probabilities say of each step.

    No unreported token is more probable than the least probable reported one, q. Entropy being concave, it is least
    where as many tokens as possible share the tail at q each and one has the rest, and greatest where all tokens
    share it alike.

    Args:
        chosen: (t,) log-probability of the token taken, nats.
        top: (t, k) of the k >= 2 most probable tokens, in any order; -inf where a step has fewer.
        vocabulary: how many tokens there are.

    Returns:
        The statistics.
    """
    p = np.sort(np.exp(np.minimum(top.astype(np.float64), 0)), axis=1)[:, ::-1]
    tail = np.clip(1 - p.sum(axis=1), 0, 1)
    reported = (p > 0).sum(axis=1)
    least = np.take_along_axis(p, np.maximum(reported - 1, 0)[:, None], axis=1)[:, 0]
    head = _surprise(p).sum(axis=1)
    full = np.floor(tail / np.maximum(least, np.finfo(float).tiny))
    lower = head + full * _surprise(least) + _surprise(np.maximum(tail - full * least, 0))
    # At least as many as the tail needs, should the vocabulary be larger than thought.
    others = np.maximum(np.maximum(vocabulary - reported, full + 1), 1)
    upper = head + tail * np.log(others) + _surprise(tail)
    return Bounds(-chosen.astype(np.float64), 1 - (p[:, 0] - p[:, 1]), np.minimum(lower, upper), upper, tail)


def _surprise(p: FloatArray) -> FloatArray:
    """-p log p, 0 at 0."""
    return -p * np.log(np.where(p > 0, p, 1))
