"""One part of a plan: rendered, run batch by batch, made a table. On this machine and on a cluster alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thriftune.artifacts import provenance
from thriftune.config import ScoreConfig
from thriftune.errors import ScoreError
from thriftune.model import LanguageModel, load
from thriftune.progress import Advance
from thriftune.render import Renderer
from thriftune.scoring import memory
from thriftune.scoring.columns import part_table
from thriftune.scoring.plan import Plan
from thriftune.scoring.prompt_nll import overflow
from thriftune.scoring.transformers import Answer, Pass
from thriftune.types import Prompt

if TYPE_CHECKING:
    import pyarrow as pa


def decisive_versions() -> dict[str, str]:
    """Packages here whose version must not change between the parts of a run."""
    decisive = {"torch", "transformers", "tokenizers"}
    return {name: version for name, version in provenance()["versions"].items() if name in decisive}


def model_of(config: ScoreConfig) -> LanguageModel:
    """The model that a run asks for."""
    return load(
        config.model,
        revision=config.revision,
        dtype=config.dtype,
        quantize=config.quantize,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )


def renderer_of(lm: LanguageModel, config: ScoreConfig) -> Renderer:
    """Prompts to tokens that leave room for the answer.

    Raises:
        ScoreError: there is no room.
    """
    limit = min(lm.context - config.max_new_tokens, config.max_prompt_tokens or lm.context)
    if limit < 8:
        raise ScoreError(
            f"--max-new-tokens {config.max_new_tokens} leaves no room in the model's context of {lm.context}"
        )
    return Renderer(lm.tokenizer, limit)


def pass_of(lm: LanguageModel, config: ScoreConfig) -> Pass:
    """The pass that a run asks for."""
    return Pass(
        lm,
        max_new_tokens=config.max_new_tokens,
        layers=config.layer,
        pooling=config.pooling,
        prompt_nll=config.prompt_nll,
    )


def score_part(
    scorer: Pass, renderer: Renderer, plan: Plan, prompts: Sequence[Prompt], advance: Advance
) -> tuple[pa.Table, list[int]]:
    """Score the prompts of a part.

    Args:
        scorer: ready to run.
        renderer: the model's.
        plan: of this part alone, see `Plan.only`.
        prompts: those of ``plan.rows``, in order.
        advance: called with the number of tokens read and of those that might be written.

    Returns:
        The part's table, and the numbers of the batches that did not fit into memory and were halved.

    Raises:
        ScoreError: numbers are not finite, or not even one prompt fits into memory.
    """
    rendered = renderer.render(prompts)
    answers: list[Answer] = []
    halved: list[int] = []
    for part in np.unique(plan.part):
        for batch in plan.batches(int(part)):
            some = rendered[batch[0] : batch[-1] + 1]
            scored, split = memory.run_halving(scorer, some)
            answers += scored
            if split:
                halved.append(int(plan.batch[batch[0]]))
            advance(float(sum(len(r.ids) + scorer.max_new_tokens for r in some)))
    for a in answers:
        numbers = [*a.entropy, *a.nll, *a.margin, 0.0 if a.prompt_nll is None else a.prompt_nll]
        if not (np.isfinite(numbers).all() and np.isfinite(a.embedding).all()):
            raise ScoreError(overflow(scorer.lm))
    return part_table(plan.rows, rendered, answers, scorer.lm.tokenizer), halved
