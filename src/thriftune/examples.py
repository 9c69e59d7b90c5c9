"""Prompts with their responses as tokens: what training learns from and evaluation measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftune.errors import ModelError
from thriftune.model import LanguageModel
from thriftune.render import Rendered, Renderer
from thriftune.types import BoolArray, IntArray, Prompt

_BLOCK = 1024  # texts tokenised at once
_KEPT = 4  # the user's text keeps a quarter of the limit, however long the response


@dataclass(frozen=True)
class Example:
    """A prompt and its response as one sequence.

    Args:
        id: the prompt's.
        ids: (t,) int64 token ids, template included.
        response: (t,) bool, the response's tokens and the one that ends it.
        truncated: True when prompt or response was cut to fit.
    """

    id: str
    ids: IntArray
    response: BoolArray
    truncated: bool


def tokenize(
    source: LanguageModel | Any, prompts: Sequence[Prompt], responses: Sequence[str], limit: int | None = None
) -> list[Example]:
    """Prompts and responses as the model's chat template writes them.

    The prompt is rendered as for scoring; the response follows as the template writes an assistant's turn, up to and
    including the first token that ends an answer (the tokenizer's end-of-sequence token where the template has none).
    A pair that exceeds the limit loses the middle of its prompt first, until the user's text is down to a quarter of
    the limit, then the end of its response, which then has no end token.

    Args:
        source: a loaded model, or a tokenizer.
        prompts: n prompts.
        responses: n responses.
        limit: longest sequence in tokens; None for the model's context.

    Returns:
        n examples, in order.

    Raises:
        ModelError: the template refuses a prompt, or alone exceeds the limit.
    """
    tokenizer = source.tokenizer if isinstance(source, LanguageModel) else source
    if isinstance(source, LanguageModel):
        stops, context = source.stop_ids, source.context
    else:
        stops, context = {tokenizer.eos_token_id} - {None}, int(min(tokenizer.model_max_length, 1 << 20))
    limit = min(limit or context, context)
    renderer = Renderer(tokenizer, 1 << 40)
    examples = []
    for start in range(0, len(prompts), _BLOCK):
        block = prompts[start : start + _BLOCK]
        whole = renderer.render(block)
        answers = _answers(renderer, block, responses[start : start + _BLOCK], stops)
        for prompt, rendered, answer in zip(block, whole, answers, strict=True):
            examples.append(_join(prompt, rendered, answer, tokenizer, limit))
    return examples


def _answers(
    renderer: Renderer, prompts: Sequence[Prompt], responses: Sequence[str], stops: set[int]
) -> list[IntArray]:
    """Tokens of each response and its end."""
    tokenizer = renderer.tokenizer
    texts = [renderer.complete(p, r) for p, r in zip(prompts, responses, strict=True)]
    encoded = tokenizer(
        [prompt + rest for prompt, rest in texts],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    answers = []
    for (prompt, rest), response, ids, offsets in zip(
        texts, responses, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        # Tokenised with the prompt before it, since some tokenizers treat the start of a text differently.
        first = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids))
        tokens = np.array(ids[first:], np.int64)
        ends = np.array([end for _, end in offsets[first:]], np.int64) - len(prompt)
        if first < len(ids) and offsets[first][0] < len(prompt):
            # A token spans the border; the model continues after the prompt's own last token.
            alone = tokenizer(rest, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            tokens = np.array(alone["input_ids"], np.int64)
            ends = np.array([end for _, end in alone["offset_mapping"]], np.int64)
        answers.append(_ended(tokens, ends, rest, response, stops, tokenizer.eos_token_id))
    return answers


def _ended(tokens: IntArray, ends: IntArray, rest: str, response: str, stops: set[int], eos: int | None) -> IntArray:
    """``tokens`` up to the first that ends an answer; with one appended where there is none."""
    stop = np.flatnonzero(np.isin(tokens, list(stops)))
    if len(stop):
        return tokens[: stop[0] + 1]
    # What follows the response is the template's: its trailing line break belongs to the next turn.
    found = rest.find(response)
    written = max(len(rest.rstrip()), found + len(response) if found >= 0 else 0)
    kept = tokens[ends <= written]
    return kept if eos is None else np.append(kept, eos)


def _join(prompt: Prompt, rendered: Rendered, answer: IntArray, tokenizer: Any, limit: int) -> Example:
    if len(rendered.ids) + len(answer) <= limit:
        return _example(prompt, rendered.ids, answer, rendered.truncated)
    fixed = int((~rendered.user).sum())
    least = min(len(rendered.ids), fixed + limit // _KEPT)
    room = max(limit - len(answer), least)
    if room >= limit:
        raise ModelError(
            f"prompt {prompt.id!r} leaves no room for a response in {limit} tokens: its template takes {fixed} of them"
        )
    cut = rendered if room >= len(rendered.ids) else Renderer(tokenizer, room).render([prompt])[0]
    return _example(prompt, cut.ids, answer[: limit - len(cut.ids)], True)


def _example(prompt: Prompt, ids: IntArray, answer: IntArray, truncated: bool) -> Example:
    response = np.arange(len(ids) + len(answer)) >= len(ids)
    return Example(prompt.id, np.concatenate([ids, answer]), response, truncated)


def random_batches(examples: Sequence[Example], batch_size: int, *, seed: int) -> list[list[int]]:
    """Batches drawn at random, the longest example of each first.

    Batches of examples of like lengths would need less padding, but lengths go with tasks: steps on one task's examples
    made small trainings worse and their luck larger (docs/results/study.md).

    Args:
        examples: n examples.
        batch_size: examples a batch.
        seed: draws them.

    Returns:
        Rows of ``examples``, each in exactly one batch; sizes differ by one at most, so that no batch is a small rest.
    """
    count = -(-len(examples) // batch_size)
    order = np.random.default_rng(seed).permutation(len(examples))
    drawn = np.array_split(order, max(count, 1))
    return [sorted(batch.tolist(), key=lambda i: -len(examples[i].ids)) for batch in drawn if len(batch)]
