"""Uncertainty sampling: the prompts with the highest score."""

from __future__ import annotations

import numpy as np

from thriftune.selection.registry import strategy
from thriftune.types import Candidates, Picks

_BHATT = "Bhatt et al. 2024, arXiv 2401.06692"


def _highest(candidates: Candidates, budget: int, name: str) -> Picks:
    free = np.flatnonzero(~candidates.annotated)
    scores = candidates.scores[name][free]
    # Stable, so that equal scores keep the order of the rows.
    order = np.argsort(-scores, kind="stable")[:budget]
    return Picks(free[order], gains=scores[order])


@strategy(name="mean_entropy", needs=("scores:mean_entropy",), source=_BHATT, prefix=True)
def mean_entropy(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """Prompts whose draft answer has the highest entropy of the next token, averaged over its steps. Being a
    mean it does not favour long answers as a sum would, so take it where answers differ in length."""
    return _highest(candidates, budget, "mean_entropy")


@strategy(name="max_entropy", needs=("scores:max_entropy",), source=_BHATT, prefix=True)
def max_entropy(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """Prompts with the highest entropy at any one step of the draft answer (maximum token uncertainty). Use it where
    one wrong decision spoils an answer; longer answers have more chances to score high."""
    return _highest(candidates, budget, "max_entropy")


@strategy(name="least_confidence", needs=("scores:least_confidence",), source=_BHATT, prefix=True)
def least_confidence(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """Prompts whose whole draft answer is least probable to the model. Being a sum over the answer's tokens it
    prefers long answers: compare with length_matched_random before crediting the score."""
    return _highest(candidates, budget, "least_confidence")


@strategy(name="mean_nll", needs=("scores:mean_nll",), source=_BHATT, prefix=True)
def mean_nll(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """Prompts whose draft answer is least probable per token (length-normalised least confidence). Use it instead of
    least_confidence where answers differ in length."""
    return _highest(candidates, budget, "mean_nll")


@strategy(name="mean_margin", needs=("scores:mean_margin",), source=_BHATT, prefix=True)
def mean_margin(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """Prompts where the model's two most probable next tokens are closest, averaged over the steps of the draft
    answer. Use it where confusion between two alternatives matters more than a flat distribution."""
    return _highest(candidates, budget, "mean_margin")


@strategy(name="min_margin", needs=("scores:min_margin",), source=_BHATT, prefix=True)
def min_margin(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """Prompts with the single least decided token anywhere in the draft answer. Use it with short answers; with long
    ones nearly every prompt has a token that could have gone either way.
    """
    return _highest(candidates, budget, "min_margin")


@strategy(
    name="prompt_nll",
    needs=("scores:prompt_nll",),
    source="perplexity of the text itself, as in Marion et al. 2023, arXiv 2309.04564",
    prefix=True,
)
def prompt_nll(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """Prompts whose own text surprises the model most, per token. Use it to find kinds of prompt the model has rarely
    seen; it also finds garbled text, so look at the top picks."""
    return _highest(candidates, budget, "prompt_nll")


@strategy(
    name="top_k",
    needs=("scores:{score}",),
    source="uncertainty sampling, Lewis and Gale 1994, arXiv cmp-lg/9407020",
    prefix=True,
)
def top_k(candidates: Candidates, budget: int, rng: np.random.Generator, *, score: str) -> Picks:
    """Prompts with the highest value of the score you name. Use it for scores of your own, such as a column of numbers
    of the pool file, higher meaning that an annotation is worth more."""
    return _highest(candidates, budget, score)
