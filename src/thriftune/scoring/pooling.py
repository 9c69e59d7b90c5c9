"""From hidden states of a prompt's tokens to one embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from thriftune.render import Rendered

Pooling = Literal["mean", "last", "weighted"]


def pool(hidden: Any, prompts: Sequence[Rendered], starts: Sequence[int], pooling: Pooling) -> Any:
    """Hidden states pooled over each prompt's user tokens.

    Args:
        hidden: torch tensor [b x t x d].
        prompts: b of them.
        starts: the column in which each begins.
        pooling: ``mean``, ``last`` token or ``weighted`` (mean weighted by position).

    Returns:
        [b x d] float32.
    """
    import torch

    pooled = []
    for row, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
        places = np.flatnonzero(prompt.user)
        if len(places) > 1 and places[0] == 0:
            places = places[1:]  # the first position holds massive activations whatever the token
        if not len(places):
            places = np.array([len(prompt.ids) - 1])
        if pooling == "last":
            places = places[-1:]
        weights = np.arange(1, len(places) + 1) if pooling == "weighted" else np.ones(len(places))
        share = torch.from_numpy((weights / weights.sum()).astype(np.float32)).to(hidden.device)
        pooled.append(share @ hidden[row, torch.from_numpy(places + start).to(hidden.device)].float())
    return torch.stack(pooled)
