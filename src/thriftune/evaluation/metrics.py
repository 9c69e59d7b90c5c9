"""What an answer is worth against a known response, and which way each metric points."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

from thriftune.errors import require

# Everything not listed here is better when it is higher.
HIGHER_IS_BETTER: dict[str, bool] = {
    "nll": False,
    "exact_match": True,
    "rouge_l": True,
    "perplexity": False,
    "word_perplexity": False,
    "byte_perplexity": False,
    "bits_per_byte": False,
}
HELDOUT_METRICS = ("nll", "exact_match", "rouge_l")

# Scripts written without spaces between words: Thai, Lao; Myanmar; Khmer; kana; ideographs with their extensions.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
_UNSPACED += "\U00020000-\U0003ffff"
_ALONE = re.compile(f"([{_UNSPACED}])")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_WORD_CATEGORIES = frozenset("LNM")


def higher_is_better(metric: str) -> bool:
    """Which way ``metric`` points; metrics of benchmarks and scorers are better when higher unless listed above."""
    return HIGHER_IS_BETTER.get(metric, True)


def oriented(metric: str, value: float) -> float:
    """``value`` with the sign that makes larger better."""
    return value if higher_is_better(metric) else -value


def normalise(text: str) -> str:
    """What of a text counts in an exact match: NFC, case folded, runs of white space as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def exact_match(answer: str, reference: str) -> bool:
    """Whether an answer is the reference.

    Upper and lower case, white space and the Unicode form of accents do not count (see `normalise`); punctuation,
    articles and the spelling of numbers do: "4." is not "4". An answer with anything more than the reference fails.

    Args:
        answer: the model's.
        reference: the known response.
    """
    return normalise(answer) == normalise(reference)


def words(text: str) -> list[str]:
    """The tokens of ROUGE-L: lower-case runs of letters and digits; everything else separates.

    On ASCII text these are the tokens of the rouge-score package. Its own tokeniser drops every other character, so
    that a Russian or Chinese text has no token and scores 0; here letters, digits and combining marks of all scripts
    count, and in scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each character is a
    token. Nothing is stemmed.

    Args:
        text: any.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    lowered = unicodedata.normalize("NFC", text).lower()
    kept = "".join(c if unicodedata.category(c)[0] in _WORD_CATEGORIES else " " for c in lowered)
    return _ALONE.sub(r" \1 ", kept).split()


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: F of the longest common subsequence of `words`, 0 to 1; 0 where either text has no word.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", with beta = 1, as computed by the
    rouge-score package.

    Args:
        answer: the model's.
        reference: the known response.

    Raises:
        MissingDependency: rouge-score is not installed.
    """
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


class _Words:
    """`words` in the form in which rouge-score takes a tokeniser."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@functools.cache
def _rouge() -> Any:
    scorer = require("rouge_score.rouge_scorer", command="thriftune evaluate", install="'thriftune[evaluate]'")
    return scorer.RougeScorer(["rougeL"], tokenizer=_Words())
