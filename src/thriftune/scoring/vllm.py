"""Scores from vLLM in this process, through its documented interface (LLM, SamplingParams, RequestOutput).

Experimental: tested against a stand-in for that interface only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.config import ScoreConfig
from thriftune.errors import ModelError, ScoreError, require
from thriftune.model import fingerprint, locate
from thriftune.progress import progress
from thriftune.render import Rendered, Renderer
from thriftune.scoring.columns import draft
from thriftune.scoring.parts import Parts, Say
from thriftune.scoring.prompts import prompts_of
from thriftune.scoring.served import Served
from thriftune.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 1024  # prompts handed over at once: the engine batches among them


@dataclass(frozen=True)
class Engine:
    """vLLM with a model, and what we read of the model ourselves.

    Args:
        llm: ``vllm.LLM``.
        params: ``vllm.SamplingParams`` of a greedy answer with log-probabilities.
        tokenizer: transformers fast tokenizer.
        vocabulary: how many tokens there are.
        context: tokens.
        revision: hub commit, or a fingerprint of the local files.
    """

    llm: Any
    params: Any
    tokenizer: Any
    vocabulary: int
    context: int
    revision: str


def open_engine(config: ScoreConfig) -> Engine:
    """Load the model into vLLM.

    Raises:
        MissingDependency: vllm or transformers is not installed.
        ModelError: the model cannot be loaded.
    """
    vllm = require("vllm", command="thriftune score --backend vllm", install="vllm")
    transformers = require("transformers", command="thriftune score", install="'thriftune[score]'")
    place = locate(config.model)
    arguments = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **arguments)
        settings = transformers.AutoConfig.from_pretrained(place, **arguments)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{config.model!r} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{config.model} has no fast tokenizer, which is needed to tell the user's text apart")
    text = settings.get_text_config()
    context = int(text.max_position_embeddings)
    if config.max_prompt_tokens is not None:  # less memory for keys and values
        context = min(context, config.max_prompt_tokens + config.max_new_tokens)
    try:
        llm = vllm.LLM(
            model=place,
            revision=config.revision,
            dtype=config.dtype,
            trust_remote_code=config.trust_remote_code,
            max_model_len=context,
            max_logprobs=config.top_logprobs,
            seed=0,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"vLLM cannot load {config.model!r}: {' '.join(str(error).split())[:300]}") from error
    params = vllm.SamplingParams(
        temperature=0.0,
        max_tokens=config.max_new_tokens,
        logprobs=config.top_logprobs,
        prompt_logprobs=1 if config.prompt_nll else None,
    )
    commit = getattr(settings, "_commit_hash", None)
    return Engine(
        llm=llm,
        params=params,
        tokenizer=tokenizer,
        vocabulary=int(text.vocab_size),
        context=context,
        revision=commit or fingerprint(Path(place)),
    )


def run_pool(
    engine: Engine, config: ScoreConfig, pool: pa.Table, rows: IntArray, parts: Parts[Served], *, say: Say
) -> dict[str, Any]:
    """Score all prompts that have no scores yet.

    Args:
        engine: as `open_engine` gave it.
        config: the settings.
        pool: ``id``, ``text`` and ``messages`` of the prompts.
        rows: (m,) rows of it to score.
        parts: takes the answers.
        say: receives the lines meant for people.

    Returns:
        What it took, for the manifest; empty where nothing was left to do.

    Raises:
        ScoreError: the context has no room for the answers, or vLLM reports something else than was asked for.
    """
    left = parts.missing(rows)
    if not len(left):
        return {}
    limit = min(engine.context - config.max_new_tokens, config.max_prompt_tokens or engine.context)
    if limit < 8:
        raise ScoreError(
            f"--max-new-tokens {config.max_new_tokens} leaves no room in the model's context of {engine.context}"
        )
    renderer = Renderer(engine.tokenizer, limit)
    began = time.monotonic()
    say(f"to do: {len(left):,} distinct prompts, at most {len(left) * config.max_new_tokens:,} answer tokens")
    with progress("scoring", len(left)) as advance:
        for start in range(0, len(left), _BLOCK):
            block = left[start : start + _BLOCK]
            rendered = renderer.render(prompts_of(pool.take(block)))
            prompts = [{"prompt_token_ids": r.ids.tolist()} for r in rendered]
            outputs = engine.llm.generate(prompts, engine.params, use_tqdm=False)
            for row, prompt, output in zip(block, rendered, outputs, strict=True):
                parts.add(int(row), _answer(prompt, output, engine))
            parts.flush()
            advance(len(block))
            if start == 0 and len(left) > _BLOCK:
                rate = len(block) / max(time.monotonic() - began, 1e-9)
                say(
                    f"about {(len(left) - len(block)) / rate / 60:.1f} min more at the rate of the first {len(block):,}"
                )
    seconds = time.monotonic() - began
    rate = round(len(left) / max(seconds, 1e-9) * 60, 1)
    say(f"scored {len(left):,} prompts in {seconds / 60:.1f} min: {rate:,.0f} prompts/min")
    return {"seconds": round(seconds, 2), "prompts_scored": len(left), "prompts_per_minute": rate}


def _answer(prompt: Rendered, output: Any, engine: Engine) -> Served:
    best = output.outputs[0]
    tokens = [int(t) for t in best.token_ids]
    try:
        chosen = np.array([step[token].logprob for step, token in zip(best.logprobs, tokens, strict=True)])
        steps = [sorted((entry.logprob for entry in step.values()), reverse=True) for step in best.logprobs]
        if not tokens or min(map(len, steps)) < 2:
            raise ValueError("fewer than two log-probabilities a token")
        prompt_nll = _prompt_nll(prompt, output.prompt_logprobs)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ScoreError(f"vLLM reports something else than was asked for ({error}): is it a newer version?") from error
    top = np.full((len(steps), max(map(len, steps))), -np.inf)
    for row, values in enumerate(steps):
        top[row, : len(values)] = values
    # A stop string ends an answer without an end token; we give none.
    last = engine.tokenizer.added_tokens_decoder.get(tokens[-1])
    end_scored = best.finish_reason == "stop" and last is not None and last.special
    response, ends = draft(tokens[:-1] if end_scored else tokens, engine.tokenizer)
    return Served(
        response=response,
        chosen=chosen,
        top=top,
        ends=[*ends, len(response)] if end_scored else ends,
        tokens=tokens,
        prompt_tokens=len(prompt.ids),
        truncated=prompt.truncated,
        hit_limit=best.finish_reason == "length",
        end_scored=end_scored,
        prompt_nll=prompt_nll,
    )


def _prompt_nll(prompt: Rendered, reported: Sequence[Any] | None) -> float | None:
    """Mean over the user's own tokens; the very first token has nothing before it."""
    if reported is None:
        return None
    places = np.flatnonzero(prompt.user[1:]) + 1
    if not len(places):
        return None
    return -float(np.mean([reported[i][int(prompt.ids[i])].logprob for i in places.tolist()]))
