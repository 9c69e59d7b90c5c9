"""The largest logits in float32, where the model makes them in 16 bits.

A bfloat16 number has 8 significant bits, so logits between 16 and 32 are multiples of 1/8 and the two largest are often
equal: a margin of 0, however far apart they are in truth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_LARGEST = 8  # more than the two that a margin needs: which are the two is not known before


@contextlib.contextmanager
def resolved(model: Any) -> Iterator[None]:
    """Within, ``model`` makes its largest logits in float32 from the same hidden state and weights.

    A head that is no plain linear layer in 16 bits (float32, quantised, adapted) is left as it is.

    Args:
        model: a causal language model of transformers.
    """
    import torch

    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    handle = head.register_forward_hook(_resolve)
    try:
        yield
    finally:
        handle.remove()


def _resolve(head: Any, inputs: tuple[Any, ...], logits: Any) -> Any:
    largest = logits.topk(min(_LARGEST, logits.shape[-1]), dim=-1).indices
    exact = (head.weight[largest].float() @ inputs[0].float().unsqueeze(-1)).squeeze(-1)
    if head.bias is not None:
        exact = exact + head.bias[largest].float()
    return logits.float().scatter_(-1, largest, exact)
