"""The uncertainty of greedy answers, from next-token distributions: pure mathematics.

Natural logarithms throughout (nats); higher = more uncertain. Definitions: Bhatt et al. 2024, arXiv 2401.06692,
section 3, and docs/artifacts.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from thriftune.types import FloatArray


class Step(NamedTuple):
    """What is kept of the next-token distributions p of one decoding step; each a tensor [b].

    Args:
        token: int64, the most probable token.
        entropy: float32, H(p), nats.
        nll: float32, -log p of that token, nats.
        margin: float32, 1 - (p(1) - p(2)) of the two largest probabilities.
    """

    token: Any
    entropy: Any
    nll: Any
    margin: Any


def reduce_logits(logits: Any) -> Step:
    """Reduce one step's logits at once, so that no (batch, time, vocabulary) tensor is ever held.

    Args:
        logits: tensor [b x v] of any float dtype; reduced in float32.

    Returns:
        The step's token and statistics.
    """
    import torch

    x = logits.float()
    token = x.max(dim=-1, keepdim=True).indices  # of equal ones the first, as transformers takes
    # A logit of -inf has p = 0; 0 * -inf would be NaN where 0 is meant.
    log_p = x.log_softmax(dim=-1).clamp_min_(torch.finfo(torch.float32).min)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    first = log_p.gather(-1, token).squeeze(-1)
    second = log_p.scatter_(-1, token, -torch.inf).amax(dim=-1)
    margin = 1 - (first.exp() - second.exp())
    return Step(token.squeeze(-1), entropy.clamp_min(0), -first, margin)


def aggregate(entropy: FloatArray, nll: FloatArray, margin: FloatArray) -> dict[str, float]:
    """The score columns of one answer from its steps.

    Args:
        entropy: (t,) nats, t >= 1; the end-of-sequence step counts.
        nll: (t,) nats, of the tokens decoded.
        margin: (t,) 1 - (p(1) - p(2)).

    Returns:
        Column name -> value. ``least_confidence`` is the sum of the NLLs: the order of 1 - prod p, which itself
        rounds to 1 beyond 17 nats.
    """
    h, n, m = (np.asarray(a, np.float64) for a in (entropy, nll, margin))
    return {
        "mean_entropy": float(h.mean()),
        "max_entropy": float(h.max()),
        "least_confidence": float(n.sum()),
        "mean_nll": float(n.mean()),
        "mean_margin": float(m.mean()),
        "min_margin": float(m.max()),
    }
