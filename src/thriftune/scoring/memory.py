"""What fits: batch limits before a run, the estimate, out-of-memory during it, the peak after it."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from thriftune.errors import ScoreError
from thriftune.model import LanguageModel
from thriftune.render import Rendered
from thriftune.scoring.plan import Plan
from thriftune.types import IntArray

if TYPE_CHECKING:
    from thriftune.scoring.transformers import Answer, Pass

_CPU_BATCH = (8192, 64)
_EXHAUSTED = ("can't allocate memory", "out of memory", "not enough memory", "cublas_status_alloc_failed")
_GPU_MOST_PROMPTS = 256
_PROBE_TOKENS = 128
_PROBE_PROMPTS = 8
_LIBRARIES_GIB = 0.6  # torch, transformers and the tokenizer in a CPU process


def batch_limits(lm: LanguageModel) -> tuple[int, int]:
    """Padded tokens and prompts a batch may hold: enough to keep the hardware busy, little enough to fit.

    Args:
        lm: the loaded model.

    Returns:
        (tokens, prompts).
    """
    if not lm.device.startswith("cuda"):
        # On a CPU larger batches gain nothing once the matrix products are large, and pad more.
        return _CPU_BATCH
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
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head * torch.finfo(getattr(torch, lm.dtype)).bits // 8)


def estimate(plan: Plan, lengths: IntArray, scorer: Pass, missing: list[int]) -> str:
    """One line on what is ahead: prompts, tokens, minutes and GiB, from a probe of a second or two.

    Args:
        plan: the batches.
        lengths: (m,) prompt tokens in the plan's order.
        scorer: ready to run.
        missing: parts still to do.

    Returns:
        The line.
    """
    lm = scorer.lm
    inside = np.isin(plan.part, missing)
    prompts, tokens = int(inside.sum()), int(lengths[inside].sum())
    sizes = np.bincount(plan.batch)
    longest = np.maximum.reduceat(lengths, np.concatenate([[0], np.cumsum(sizes)[:-1]]))
    todo = np.unique(plan.batch[inside])
    prefill, step = _probe(int(np.median(sizes)), int(np.median(lengths)), scorer)
    seconds = float((sizes * longest)[todo].sum()) * prefill + step * scorer.max_new_tokens * len(todo)
    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    cache = int((sizes * (longest + scorer.max_new_tokens)).max()) * cache_bytes(lm)
    # Logits of a step are held in about four float32 copies while they are reduced.
    logits = 16 * int(sizes.max()) * int(lm.model.config.get_text_config().vocab_size)
    gib = (weights + cache + logits) / 2**30 + (_LIBRARIES_GIB if lm.device == "cpu" else 0)
    return (
        f"to do: {prompts:,} distinct prompts, {tokens:,} prompt tokens and at most "
        f"{prompts * scorer.max_new_tokens:,} answer tokens; at most about {seconds / 60:.1f} min and {gib:.1f} GiB "
        f"with {lm.spec} on {lm.device} in {lm.dtype}"
    )


def _probe(batch: int, tokens: int, scorer: Pass) -> tuple[float, float]:
    """Seconds a prompt token, and seconds a decoding step of a batch."""
    length = max(2, min(_PROBE_TOKENS, tokens, scorer.lm.context - 8))
    ids = np.full(length, next(iter(scorer.lm.stop_ids), 0), np.int64)
    long = Rendered(ids, np.ones(length, bool), False)
    short = Rendered(ids[:2], np.ones(2, bool), False)
    new_tokens, scorer.max_new_tokens = scorer.max_new_tokens, 1
    try:
        # The first call of a shape pays for warming up, and a busy machine only ever slows a call down.
        prefill = min(_timed(scorer, [long] * _PROBE_PROMPTS) for _ in range(3)) / (length * _PROBE_PROMPTS)
        # A prefill of two tokens reads the weights once, as a step does.
        step = min(_timed(scorer, [short] * batch) for _ in range(3))
    finally:
        scorer.max_new_tokens = new_tokens
    return prefill, step


def _timed(scorer: Pass, batch: list[Rendered]) -> float:
    began = time.monotonic()
    run_halving(scorer, batch)
    return time.monotonic() - began


def run_halving(scorer: Pass, batch: list[Rendered]) -> tuple[list[Answer], bool]:
    """Score a batch, in halves where it does not fit into memory.

    Args:
        scorer: ready to run.
        batch: prompts.

    Returns:
        The answers in order, and whether the batch was halved.

    Raises:
        ScoreError: not even a single prompt fits.
    """
    try:
        return scorer.run(batch), False
    except (RuntimeError, MemoryError) as error:
        if not exhausted(error):
            raise
    # Outside the handler: the exception's traceback would keep the tensors alive.
    release(scorer.lm.device)
    if len(batch) == 1:
        raise ScoreError(
            f"a single prompt of {len(batch[0].ids):,} tokens does not fit into memory: lower --max-prompt-tokens or "
            "--max-new-tokens, use --dtype bfloat16, a smaller model or a machine with more memory"
        )
    half = len(batch) // 2
    return run_halving(scorer, batch[:half])[0] + run_halving(scorer, batch[half:])[0], True


def exhausted(error: BaseException) -> bool:
    """Whether an exception means that memory ran out."""
    import torch

    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in text for sign in _EXHAUSTED)


def release(device: str) -> None:
    """Give back what an interrupted batch held."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
    elif device == "mps":
        import torch

        torch.mps.empty_cache()


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
