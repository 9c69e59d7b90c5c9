"""Held-out prompts: likelihood of their known responses, and the model's own answers against them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from thriftune.config import EvaluateConfig
from thriftune.errors import EvaluationError, ModelError
from thriftune.evaluation.generate import Reply, batches, generate, text_of
from thriftune.evaluation.metrics import exact_match, rouge_l
from thriftune.evaluation.scorers import load_scorer, score_answer
from thriftune.examples import Example, tokenize
from thriftune.memory import halving
from thriftune.model import LanguageModel
from thriftune.progress import progress
from thriftune.render import Rendered, Renderer
from thriftune.types import Prompt

if TYPE_CHECKING:
    import pyarrow as pa

Say = Callable[[str], None]
HELDOUT = "heldout"
"""What users call this suite, and the task of prompts that have none."""
_CPU_TOKENS = 1024  # a CPU is busy with so many already; larger batches only pad more


@dataclass(frozen=True)
class Items:
    """Held-out prompts as tokens; of use for every model with the same tokenizer.

    Args:
        prompts: n prompts.
        references: the known response of each, or None.
        examples: one for each prompt that has a reference, in order.
        rendered: the prompts, each with room for an answer; empty where no answers are asked for.
    """

    prompts: tuple[Prompt, ...]
    references: tuple[str | None, ...]
    examples: tuple[Example, ...]
    rendered: tuple[Rendered, ...]


def heldout(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    responses: Sequence[str | None],
    config: EvaluateConfig,
    *,
    say: Say = print,
) -> tuple[pa.Table, pa.Table]:
    """Measure a model on prompts whose responses are known.

    Args:
        language_model: the model, in eval mode.
        prompts: n prompts.
        responses: the known response of each prompt; prompts with None are only answered, for the scorer.
        config: ``generate``, ``max_new_tokens``, ``max_prompt_tokens``, ``scorer`` and ``batch_size`` count here.
        say: receives the lines meant for people.

    Returns:
        One row an item and metric (``task``, ``item``, ``metric``, ``value``), and the answers (``id``, ``answer``,
        ``n_tokens``, ``hit_limit``), none unless ``config.generate``. Metrics: ``nll`` (nats a token of the response,
        its end token included), ``exact_match``, ``rouge_l`` and the scorer's name.

    Raises:
        EvaluationError: nothing can be measured, it does not fit into memory, or the scorer failed.
        ModelError: a prompt cannot be rendered, or the model's numbers are not finite.
    """
    return measure(language_model, prepare(language_model, prompts, responses, config), config, say=say)


def prepare(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    responses: Sequence[str | None],
    config: EvaluateConfig,
) -> Items:
    """The part of `heldout` that does not depend on the weights.

    Raises:
        EvaluationError: ``max_new_tokens`` leaves no room for a prompt.
        ModelError: a prompt cannot be rendered.
    """
    context = language_model.context
    pairs = [(p, r) for p, r in zip(prompts, responses, strict=True) if r is not None]
    examples = tokenize(language_model, [p for p, _ in pairs], [r for _, r in pairs], context)
    if config.max_prompt_tokens is not None:
        shorter = Renderer(language_model.tokenizer, config.max_prompt_tokens)
        examples = [_shortened(e, p, shorter) for e, (p, _) in zip(examples, pairs, strict=True)]
    rendered: list[Rendered] = []
    if config.generate:
        room = context - config.max_new_tokens
        if room < 8:
            raise EvaluationError(
                f"--max-new-tokens {config.max_new_tokens} leaves no room in the model's context of {context}"
            )
        limit = min(room, config.max_prompt_tokens or room)
        rendered = Renderer(language_model.tokenizer, limit).render(prompts)
    return Items(tuple(prompts), tuple(responses), tuple(examples), tuple(rendered))


def _shortened(example: Example, prompt: Prompt, renderer: Renderer) -> Example:
    """The example with its prompt, and only that, cut to the renderer's limit."""
    if int((~example.response).sum()) <= renderer.limit:
        return example
    ids, answer = renderer.render([prompt])[0].ids, example.ids[example.response]
    response = np.arange(len(ids) + len(answer)) >= len(ids)
    return replace(example, ids=np.concatenate([ids, answer]), response=response, truncated=True)


def measure(
    language_model: LanguageModel, items: Items, config: EvaluateConfig, *, say: Say = print
) -> tuple[pa.Table, pa.Table]:
    """The part of `heldout` that runs the model; arguments, results and errors as there."""
    import pyarrow as pa

    # Before the model runs, so that a misspelt scorer does not cost an hour.
    scorer = load_scorer(config.scorer) if config.scorer else None
    if scorer and not config.generate:
        raise EvaluationError(f"the scorer {config.scorer!r} judges answers: leave out --no-generate")
    if not items.examples and not scorer:
        raise EvaluationError("no prompt has a known response and there is no scorer: nothing can be measured")
    values: list[tuple[Prompt, str, float]] = []
    known = [p for p, reference in zip(items.prompts, items.references, strict=True) if reference is not None]
    cut = sum(e.truncated for e in items.examples)
    if cut:
        say(f"{cut} of {len(items.examples)} prompts with their responses were too long and were cut")
    for prompt, value in zip(known, _likelihoods(language_model, items.examples, config), strict=True):
        values.append((prompt, "nll", value))
    answers: list[str] = []
    replies: list[Reply] = []
    if config.generate:
        replies = generate(
            language_model, items.rendered, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size
        )
        answers = [text_of(language_model, r) for r in replies]
        found = list(zip(items.prompts, answers, items.references, strict=True))
        values += [(p, "exact_match", float(exact_match(a, r))) for p, a, r in found if r is not None]
        values += [(p, "rouge_l", rouge_l(a, r)) for p, a, r in found if r is not None]
        if scorer:
            values += [(p, scorer[0], score_answer(*scorer, p, a, r)) for p, a, r in found]
        stopped = sum(not r.finished for r in replies)
        if stopped:
            say(f"{stopped} of {len(replies)} answers were stopped at --max-new-tokens {config.max_new_tokens}")
    rows = {
        "task": pa.array([p.task or HELDOUT for p, _, _ in values], pa.string()),
        "item": pa.array([p.id for p, _, _ in values], pa.string()),
        "metric": pa.array([metric for _, metric, _ in values], pa.string()),
        "value": pa.array([value for _, _, value in values], pa.float64()),
    }
    written = {
        "id": pa.array([p.id for p in items.prompts] if replies else [], pa.string()),
        "answer": pa.array(answers, pa.string()),
        "n_tokens": pa.array([len(r.tokens) for r in replies], pa.int32()),
        "hit_limit": pa.array([not r.finished for r in replies], pa.bool_()),
    }
    return pa.table(rows), pa.table(written)


def _likelihoods(lm: LanguageModel, examples: Sequence[Example], config: EvaluateConfig) -> list[float]:
    """Nats a response token of each example."""
    import torch

    from thriftune.likelihood import response_nll

    def run(batch: Sequence[Example]) -> list[float]:
        with torch.inference_mode():
            total, tokens = response_nll(lm.model, list(batch))
            return (total.cpu().double() / tokens.cpu()).tolist()  # Apple's GPUs have no double precision

    found = np.full(len(examples), np.nan)
    lengths = [len(e.ids) for e in examples]
    with progress("likelihood", float(sum(lengths)), "tokens") as advance:
        for rows in batches(lengths, lm, config.batch_size, _CPU_TOKENS if lm.device == "cpu" else None):
            found[rows], _ = halving(run, [examples[i] for i in rows], lm.device, _refuse)
            advance(float(sum(lengths[i] for i in rows)))
    wrong = next((e.id for e, value in zip(examples, found, strict=True) if not math.isfinite(value)), None)
    if wrong is not None:
        raise ModelError(
            f"{lm.spec} gives the response to prompt {wrong!r} a likelihood that is not finite in {lm.dtype}: use "
            "--dtype bfloat16 or float32"
        )
    return [float(value) for value in found]


def _refuse(example: Example) -> EvaluationError:
    return EvaluationError(
        f"prompt {example.id!r} with its response, {len(example.ids):,} tokens, does not fit into memory: lower "
        "--max-prompt-tokens, use --dtype bfloat16, a smaller model or a machine with more memory"
    )
