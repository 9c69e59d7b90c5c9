"""Greedy answers of a model, batched by length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from thriftune.errors import EvaluationError, ModelError
from thriftune.memory import batch_limits, halving
from thriftune.model import LanguageModel
from thriftune.progress import progress
from thriftune.render import Rendered

_CPU_TOKENS = 4096  # larger batches gain nothing on a CPU
_COMPACT = 0.25  # finished share of a batch at which its cache is worth copying


@dataclass
class Reply:
    """What the model answered.

    Args:
        tokens: (t,) token ids, the one that ended the answer included.
        finished: True when the model ended the answer itself, False when it was stopped at the limit.
    """

    tokens: list[int] = field(default_factory=list)
    finished: bool = False


def generate(
    lm: LanguageModel,
    prompts: Sequence[Rendered],
    *,
    max_new_tokens: int,
    batch_size: int | Literal["auto"] = "auto",
) -> list[Reply]:
    """Greedy answers: at each step the most probable token, until one that ends an answer or the limit.

    A model's own generation settings (sampling, penalties) do not apply: two models are compared by what they find
    most probable. In float32 an answer does not depend on what else is in its batch; in 16 bits near ties may fall
    otherwise.

    Args:
        lm: the model, in eval mode.
        prompts: n prompts, each with room for the answer in the model's context.
        max_new_tokens: longest answer, the end token included.
        batch_size: prompts a batch; ``auto``: by length, as many as fit.

    Returns:
        n replies, in order.

    Raises:
        EvaluationError: not even a single prompt fits into memory.
        ModelError: the model yields numbers that are not finite.
    """
    if getattr(lm.model.config.get_text_config(), "num_attention_heads", None) is None:
        raise ModelError(f"{lm.spec} has no attention, and thriftune cannot let it answer: add --no-generate")
    replies: list[Reply] = [Reply()] * len(prompts)
    run = partial(_answer, lm, max_new_tokens=max_new_tokens)
    with progress("answering", len(prompts)) as advance:
        lengths = [len(p.ids) + max_new_tokens for p in prompts]
        for rows in batches(lengths, lm, batch_size, _CPU_TOKENS if lm.device == "cpu" else None):
            found, _ = halving(run, [prompts[i] for i in rows], lm.device, _refuse)
            for row, reply in zip(rows, found, strict=True):
                replies[row] = reply
            advance(len(rows))
    return replies


def text_of(lm: LanguageModel, reply: Reply) -> str:
    """A reply as text, without the tokens that only a machine reads."""
    return str(lm.tokenizer.decode(reply.tokens, skip_special_tokens=True))


def batches(
    lengths: Sequence[int], lm: LanguageModel, batch_size: int | Literal["auto"], most_tokens: int | None
) -> list[list[int]]:
    """Rows of similar length together, the longest first: what does not fit shows at once.

    Args:
        lengths: (n,) tokens of each sequence.
        lm: the model that will run.
        batch_size: sequences a batch; ``auto`` for as many as the padded tokens allow.
        most_tokens: with ``auto``, padded tokens of a batch at most; None: as many as fit.

    Returns:
        Rows, each in exactly one batch.
    """
    tokens, most = batch_limits(lm) if batch_size == "auto" else (None, batch_size)
    if tokens is not None and most_tokens is not None:
        tokens = min(tokens, most_tokens)
    found: list[list[int]] = []
    for row in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        room = bool(found) and len(found[-1]) < most
        if room and (tokens is None or (len(found[-1]) + 1) * lengths[found[-1][0]] <= tokens):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _refuse(prompt: Rendered) -> EvaluationError:
    return EvaluationError(
        f"a single prompt of {len(prompt.ids):,} tokens does not fit into memory: lower --max-prompt-tokens or "
        "--max-new-tokens, use --dtype bfloat16, a smaller model or a machine with more memory"
    )


def _answer(lm: LanguageModel, prompts: Sequence[Rendered], *, max_new_tokens: int) -> list[Reply]:
    """One batch, padded on the left; sequences that end leave it."""
    import torch

    longest = max(len(p.ids) for p in prompts)
    ids = torch.full((len(prompts), longest), next(iter(lm.stop_ids), 0), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.ids) :] = torch.from_numpy(prompt.ids)
        mask[row, longest - len(prompt.ids) :] = 1
    ids, mask = ids.to(lm.device), mask.to(lm.device)
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    replies = [Reply() for _ in prompts]
    rows = list(range(len(prompts)))  # which reply each row of the cache belongs to
    stops = lm.stop_ids
    with torch.inference_mode():
        output = _forward(lm)(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        positions = positions[:, -1:] + 1
        for number in range(max_new_tokens):
            logits, cache = output.logits[:, -1], output.past_key_values
            best, tokens = logits.max(dim=-1)
            if not torch.isfinite(best).all():
                raise ModelError(
                    f"{lm.spec} yields numbers that are not finite in {lm.dtype}: use --dtype bfloat16 or float32"
                )
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if not replies[row].finished:  # others wait in the cache until enough are done
                    replies[row].tokens.append(token)
                    replies[row].finished = token in stops
            going = [i for i, row in enumerate(rows) if not replies[row].finished]
            if not going or number + 1 == max_new_tokens:
                break
            if len(rows) - len(going) >= _COMPACT * len(rows):
                keep = torch.tensor(going, device=lm.device)
                cache.reorder_cache(keep)  # every kind of cache has it, and takes fewer rows
                mask, positions, tokens = mask[keep], positions[keep], tokens[keep]
                rows = [rows[i] for i in going]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            output = _forward(lm)(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            positions = positions + 1
    return replies


def _forward(lm: LanguageModel) -> Callable[..., Any]:
    # A PEFT wrapper's own forward knows prompt tuning and adds its own arguments; the model inside has the adapter.
    inner = getattr(lm.model, "get_base_model", None)
    return inner() if inner is not None else lm.model
