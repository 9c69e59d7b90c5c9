"""Memory: how much a batch may hold, halving one that did not fit, the peak afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from thriftune.errors import ThriftuneError
from thriftune.model import LanguageModel

Item = TypeVar("Item")
Result = TypeVar("Result")

_CPU_BATCH = (16_384, 64)
_CPU_CACHE = 1 << 30  # bytes of keys and values a batch may hold
_EXHAUSTED = ("can't allocate memory", "out of memory", "not enough memory", "cublas_status_alloc_failed")
_GPU_MOST_PROMPTS = 256


def batch_limits(lm: LanguageModel) -> tuple[int, int]:
    """Padded tokens and prompts a batch may hold: enough to keep the hardware busy, little enough to fit.

    Args:
        lm: the loaded model.

    Returns:
        (tokens, prompts).
    """
    if not lm.device.startswith("cuda"):
        # On a CPU larger batches gain little once the matrix products of a step are large, and pad more.
        tokens, prompts = _CPU_BATCH
        return max(1024, min(tokens, _CPU_CACHE // cache_bytes(lm))), prompts
    import torch

    free, _ = torch.cuda.mem_get_info(lm.device)
    config = lm.model.config.get_text_config()
    # Activations of one layer and its feed-forward block, in float32 to be safe, and one row of logits in 3 copies.
    activations = 4 * (
        8 * config.hidden_size + 3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    )
    logits = 12 * int(config.vocab_size)
    prompts = int(min(_GPU_MOST_PROMPTS, max(1, 0.2 * free // logits)))
    tokens = int(0.5 * free // (cache_bytes(lm) + activations))
    return max(tokens, 1024), prompts


def cache_bytes(lm: LanguageModel) -> int:
    """Bytes of key-value cache a token takes."""
    import torch

    config = lm.model.config.get_text_config()
    queries = getattr(config, "num_attention_heads", None) or 1  # not all models have any
    heads = getattr(config, "num_key_value_heads", None) or queries
    head = getattr(config, "head_dim", None) or config.hidden_size // queries
    return int(2 * config.num_hidden_layers * heads * head * torch.finfo(getattr(torch, lm.dtype)).bits // 8)


def halving(
    run: Callable[[Sequence[Item]], list[Result]],
    batch: Sequence[Item],
    device: str,
    refuse: Callable[[Item], ThriftuneError],
) -> tuple[list[Result], bool]:
    """Run a batch, in halves where it does not fit into memory.

    Args:
        run: makes one result of each item.
        batch: items.
        device: where it runs.
        refuse: the error that says what to do when not even this one item fits.

    Returns:
        The results in order, and whether the batch was halved.
    """
    try:
        return run(batch), False
    except (RuntimeError, MemoryError) as error:
        if not exhausted(error):
            raise
    # Outside the handler: the exception's traceback would keep the tensors alive.
    release(device)
    if len(batch) == 1:
        raise refuse(batch[0])
    half = len(batch) // 2
    first, _ = halving(run, batch[:half], device, refuse)
    return first + halving(run, batch[half:], device, refuse)[0], True


def exhausted(error: BaseException) -> bool:
    """Whether an exception means that memory ran out."""
    import torch

    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in _EXHAUSTED)


def release(device: str) -> None:
    """Give back what an interrupted batch held, or what a training and its evaluation leave behind."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
    elif device == "mps":
        import torch

        torch.mps.empty_cache()
    elif sys.platform == "linux":
        # glibc keeps freed tensors of up to 32 MiB in its heap, and what still lives between them keeps them there.
        with contextlib.suppress(AttributeError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)


def peak(device: str) -> float:
    """Peak memory of this process, GiB: the GPU's where one is used, else resident memory."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.max_memory_allocated(device) / 2**30)
    if os.name != "posix":
        return float("nan")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30)
