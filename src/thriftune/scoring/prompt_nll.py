"""How improbable a prompt's own text is to the model: final hidden states through the vocabulary, a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thriftune.errors import ModelError, ScoreError
from thriftune.model import LanguageModel
from thriftune.render import Rendered

_VOCABULARY_ROWS = 256  # rows of (row, vocabulary) logits held at once


def overflow(lm: LanguageModel) -> str:
    """What to say when the model's numbers are not finite."""
    return f"{lm.spec} yields numbers that are not finite in {lm.dtype}: use --dtype bfloat16 or float32"


def prompt_nll(
    lm: LanguageModel, prompts: Sequence[Rendered], starts: Sequence[int], hidden: Any
) -> list[float | None]:
    """Mean NLL of the user's tokens.

    Args:
        lm: the model.
        prompts: b of them.
        starts: the column in which each begins.
        hidden: final hidden states [b x t x d].

    Returns:
        Nats a token of each; None where no token can be predicted.
    """
    import torch

    # Position i - 1 predicts token i; the very first token has nothing before it.
    targets = [np.flatnonzero(p.user[1:]) + 1 for p in prompts]
    owner = np.repeat(np.arange(len(prompts)), [len(t) for t in targets])
    if not len(owner):
        return [None] * len(prompts)
    column = np.concatenate([t - 1 + s for t, s in zip(targets, starts, strict=True)])
    token = np.concatenate([p.ids[t] for p, t in zip(prompts, targets, strict=True)])
    sums = np.zeros(len(prompts))
    for begin in range(0, len(owner), _VOCABULARY_ROWS):
        part = slice(begin, begin + _VOCABULARY_ROWS)
        rows = hidden[torch.from_numpy(owner[part]), torch.from_numpy(column[part])]
        logits = _project(lm, rows)
        wanted = torch.from_numpy(token[part]).to(logits.device)
        nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        np.add.at(sums, owner[part], nll.cpu().double().numpy())
    return [float(total) / len(t) if len(t) else None for total, t in zip(sums, targets, strict=True)]


def check_projection(lm: LanguageModel, hidden: Any, logits: Any) -> None:
    """Compare our projection of final hidden states [b x d] with the model's own ``logits`` [b x v].

    Raises:
        ScoreError: the logits are not finite in this dtype.
        ModelError: the model does more to its logits than is known here.
    """
    import torch

    if not torch.isfinite(logits).all():
        raise ScoreError(overflow(lm))
    tolerance = 1e-3 if lm.dtype == "float32" else 0.5
    if not torch.allclose(_project(lm, hidden), logits.float(), atol=tolerance, rtol=0.02):
        raise ModelError(f"{lm.spec} changes its logits in a way thriftune does not know: add --no-prompt-nll")


def _project(lm: LanguageModel, hidden: Any) -> Any:
    """Vocabulary logits of final hidden states [m x d], as the model's own forward makes them."""
    config = lm.model.config.get_text_config()
    logits = lm.model.get_output_embeddings()(hidden).float()
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    if getattr(config, "logit_scale", None):
        logits = logits * config.logit_scale
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if not cap else (logits / cap).tanh() * cap
