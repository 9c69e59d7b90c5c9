"""Attention on a CPU, where torch's fused kernels run far below the speed of plain matrix products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.nn.functional import softmax
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "thriftune_cpu"
_BLOCK = 128  # queries at once; their scores stay in the processor's caches
_UNUSUAL = ("softcap", "s_aux", "position_bias", "cache")


class Packed(NamedTuple):
    """Sequences that stand one after the other in a single row, what all of them begin with once and first.

    Args:
        prefix: tokens that all sequences begin with; 0 for none.
        lengths: of what follows the prefix in each sequence.
    """

    prefix: int
    lengths: tuple[int, ...]


_packed: ContextVar[Packed | None] = ContextVar("packed", default=None)


def use(model: Any) -> bool:
    """Let a model attend this way, where it attends with torch's ``scaled_dot_product_attention`` so far.

    Returns:
        Whether it does now.
    """
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, _mask)
        model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


@contextlib.contextmanager
def packed(sequences: Packed) -> Iterator[None]:
    """While the block runs, a model that attends this way is given these sequences in one row, without a mask."""
    token = _packed.set(sequences)
    try:
        yield
    finally:
        _packed.reset(token)


def _mask(*arguments: Any, **named: Any) -> Any:
    return None if _packed.get() is not None else sdpa_mask(*arguments, **named)


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
    """transformers' attention interface, queries [b x heads x t x d] to [b x t x heads x d]: packed sequences, and in
    bfloat16 one prompt without padding, are computed here, all else by torch."""
    steps = query.shape[2]
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    usual = not dropout and all(others.get(name) is None for name in _UNUSUAL)
    plain = usual and causal and attention_mask is None
    sequences = _packed.get()
    if sequences is not None and not plain:
        raise NotImplementedError("packed sequences with this kind of attention")
    if sequences is None and plain and query.dtype == torch.bfloat16 and len(query) == 1 and 1 < steps == key.shape[2]:
        sequences = Packed(0, (steps,))
    if sequences is not None:
        query = query[0] * (query.shape[3] ** -0.5 if scaling is None else scaling)
        # Under autocast they come in several precisions.
        return _Sequences.apply(query.to(value.dtype), key[0].to(value.dtype), value[0], sequences), None
    found: tuple[Any, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **others
    )
    return found


class _Sequences(torch.autograd.Function):
    """Causal attention of packed sequences, queries [heads x t x d] to [1 x t x heads x d].

    A block of queries after the other, so that what they may not see is hardly computed and weights take little memory;
    they are made again for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, sequences: Packed) -> Any:
        ctx.save_for_backward(query, key, value)
        ctx.sequences = sequences
        found = query.new_empty(1, query.shape[1], len(query), value.shape[-1])
        for own, seen in _blocks(sequences):
            weights = _weights(_grouped(query, key, own), key[:, seen], own).to(value.dtype)
            found[0, own] = _ungrouped(torch.bmm(weights, value[:, seen]), len(query)).transpose(0, 1)
        return found

    @staticmethod
    def backward(ctx: Any, slope: Any) -> tuple[Any, Any, Any, None]:
        query, key, value = ctx.saved_tensors
        slope = slope[0].transpose(0, 1)
        to_query = torch.empty_like(query)
        # In float32: every sequence adds to the prefix.
        to_key, to_value = (torch.zeros_like(t, dtype=torch.float32) for t in (key, value))
        for own, seen in _blocks(ctx.sequences):
            asked, given = _grouped(query, key, own), _grouped(slope, key, own)
            weights = _weights(asked, key[:, seen], own)
            to_value[:, seen] += torch.bmm(weights.to(value.dtype).transpose(1, 2), given)
            to_weights = torch.bmm(given, value[:, seen].transpose(1, 2)).float()
            to_weights -= (to_weights * weights).sum(dim=-1, keepdim=True)
            to_scores = to_weights.mul_(weights).to(query.dtype)
            to_query[:, own] = _ungrouped(torch.bmm(to_scores, key[:, seen]), len(query))
            to_key[:, seen] += torch.bmm(to_scores.transpose(1, 2), asked)
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None


def _blocks(sequences: Packed) -> Iterator[tuple[slice, Any]]:
    """Where each block of queries stands, and the columns that its last one sees; the prefix comes first."""
    prefix, start = sequences.prefix, sequences.prefix
    for begin in range(0, prefix, _BLOCK):
        yield slice(begin, min(prefix, begin + _BLOCK)), slice(0, min(prefix, begin + _BLOCK))
    before = torch.arange(prefix)
    for length in sequences.lengths:
        for begin in range(start, start + length, _BLOCK):
            end = min(start + length, begin + _BLOCK)
            yield slice(begin, end), torch.cat([before, torch.arange(start, end)]) if prefix else slice(start, end)
        start += length


def _grouped(query: Any, key: Any, own: slice) -> Any:
    """Queries [heads x t x d] of a block: [shared x (heads / shared) t x d], those together that share keys."""
    return query[:, own].reshape(len(key), -1, query.shape[-1])


def _ungrouped(found: Any, heads: int) -> Any:
    return found.view(heads, -1, found.shape[-1])


def _weights(query: Any, key: Any, own: slice) -> Any:
    """Float32 weights of a block's grouped queries on the columns seen, the block's own being the last."""
    length = own.stop - own.start
    scores = torch.bmm(query, key.transpose(1, 2)).float().view(len(key), -1, length, key.shape[1])
    scores[..., -length:] += scores.new_full((length, length), -torch.inf).triu(1)
    return softmax(scores, dim=-1).view(len(key), -1, key.shape[1])
