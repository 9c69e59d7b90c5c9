"""Sequences in one row: no padding, and what all of them begin with is computed once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thriftune.attention import Packed, packed, use
from thriftune.types import IntArray

if TYPE_CHECKING:
    from torch import Tensor

# Models that give packed sequences what they give each alone; found out once for each.
_PACKABLE: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def common(rows: Sequence[IntArray]) -> int:
    """How many tokens all rows begin with, leaving each one of its own; 0 for a single row."""
    most = min(len(row) for row in rows) - 1
    if len(rows) < 2 or most <= 0:
        return 0
    same = np.all([row[:most] == rows[0][:most] for row in rows[1:]], axis=0)
    return int(most if same.all() else same.argmin())


def pack(rows: Sequence[IntArray]) -> tuple[Packed, Tensor, Tensor]:
    """Lay rows of tokens out one after the other.

    Args:
        rows: (t,) int64 each, not empty.

    Returns:
        Where they are, their tokens (1, n) and positions (1, n).
    """
    prefix = common(rows)
    sequences = Packed(prefix, tuple(len(row) - prefix for row in rows))
    ids = np.concatenate([rows[0][:prefix], *(row[prefix:] for row in rows)])
    positions = np.concatenate([np.arange(prefix), *(np.arange(prefix, len(row)) for row in rows)])
    return sequences, torch.from_numpy(ids)[None], torch.from_numpy(positions)[None]


def places(sequences: Packed, row: int, columns: IntArray) -> IntArray:
    """Where the tokens of a sequence that had these columns alone are among packed ones."""
    return np.where(columns < sequences.prefix, columns, columns + sum(sequences.lengths[:row]))


def packable(model: Any, longest: int) -> bool:
    """Whether a model on a CPU gives packed sequences what it gives each alone.

    Args:
        model: a transformers language model without wrappers; it is tried out once, on eight tokens.
        longest: tokens of the longest sequence.
    """
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if (
        model.device.type != "cpu"
        or any(w is not None and w < longest for w in windows)
        or (model.training and (model.is_gradient_checkpointing or getattr(config, "attention_dropout", 0)))
    ):
        return False
    if model not in _PACKABLE:
        _PACKABLE[model] = use(model) and _equal(model)
    return _PACKABLE[model]


def _equal(model: Any) -> bool:
    rows = [torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[5, 6, 7, 10, 11, 12]])]
    sequences, ids, positions = pack([r[0].numpy() for r in rows])
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = [model(input_ids=r, use_cache=False).logits for r in rows]
            with packed(sequences):
                together = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    except (AttributeError, TypeError, IndexError, NotImplementedError, RuntimeError):
        return False
    finally:
        model.train(training)
    exact = torch.cat([alone[0], alone[1][:, sequences.prefix :]], dim=1)
    near = 1e-4 if exact.dtype == torch.float32 else 0.1
    return exact.shape == together.shape and bool(torch.allclose(exact, together, rtol=near, atol=near))
