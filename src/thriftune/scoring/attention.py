"""Attention in bfloat16 on a CPU, where torch's fused kernel runs far below the speed of plain matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import softmax
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "thriftune_cpu"
_BLOCK = 128  # queries at once; their scores stay in the processor's caches
_UNUSUAL = ("softcap", "s_aux", "position_bias", "cache")


def use(model: Any) -> None:
    """Let a model attend this way, where it attends with torch's ``scaled_dot_product_attention`` so far."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """transformers' attention interface, queries [b x heads x t x d] to [b x t x heads x d]: one prompt without padding
    is computed here, all else by torch."""
    steps = query.shape[2]
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    usual = query.dtype == torch.bfloat16 and not dropout and all(others.get(name) is None for name in _UNUSUAL)
    if usual and causal and attention_mask is None and len(query) == 1 and 1 < steps == key.shape[2]:
        return _prompt(query[0] * (query.shape[3] ** -0.5 if scaling is None else scaling), key[0], value[0]), None
    found: tuple[Any, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **others
    )
    return found


def _prompt(query: Any, key: Any, value: Any) -> Any:
    """Causal attention of one prompt [heads x t x d], a block of queries after the other; what they may not see is
    never computed."""
    heads, length, width = query.shape
    shared = key.shape[0]
    query = query.view(shared, heads // shared, length, width)
    key = key.transpose(1, 2)
    found = query.new_empty(1, length, heads, value.shape[-1])
    later = query.new_full((_BLOCK, _BLOCK), -torch.inf, dtype=torch.float32).triu(1)
    for start in range(0, length, _BLOCK):
        end = min(length, start + _BLOCK)
        size = end - start
        block = query[:, :, start:end].reshape(shared, -1, width)
        scores = torch.bmm(block, key[:, :, :end]).view(shared, -1, size, end).float()
        scores[..., start:] += later[:size, :size]
        weights = softmax(scores, dim=-1).to(value.dtype).view(shared, -1, end)
        found[0, start:end] = torch.bmm(weights, value[:, :end]).view(heads, size, -1).transpose(0, 1)
    return found
