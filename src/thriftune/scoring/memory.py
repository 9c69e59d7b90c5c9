"""What a scoring run needs: the estimate before it, out-of-memory during it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from thriftune.errors import ScoreError
from thriftune.memory import cache_bytes, halving
from thriftune.render import Rendered
from thriftune.scoring.plan import Plan
from thriftune.types import IntArray

if TYPE_CHECKING:
    from thriftune.scoring.transformers import Answer, Pass

_PROBE_TOKENS = 128
_PROBE_PROMPTS = 8
_LIBRARIES_GIB = 0.6  # torch, transformers and the tokenizer in a CPU process


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
    answers = f"at most {prompts * scorer.max_new_tokens:,} answer tokens" if scorer.max_new_tokens else "no answers"
    return (
        f"to do: {prompts:,} distinct prompts, {tokens:,} prompt tokens and {answers}; "
        f"at most about {seconds / 60:.1f} min and {gib:.1f} GiB "
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
    return halving(scorer.run, batch, scorer.lm.device, _too_long)


def _too_long(prompt: Rendered) -> ScoreError:
    return ScoreError(
        f"a single prompt of {len(prompt.ids):,} tokens does not fit into memory: lower --max-prompt-tokens or "
        "--max-new-tokens, use --dtype bfloat16, a smaller model or a machine with more memory"
    )
