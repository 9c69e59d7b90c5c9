"""How alike the answers of several people to the same prompts are."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Words, and each character of scripts that are written without spaces.
_UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_MOST_ANSWERS = 300


@dataclass(frozen=True)
class Agreement:
    """Figures over the prompts that several people answered.

    Args:
        prompts: how many.
        exact: share of pairs of answers to the same prompt that are equal but for case and white space.
        overlap: mean F1 of the words of such pairs, 0 to 1.
        chance: the same for pairs of answers to different prompts; None where there is one prompt.
        alpha: 1 - (1 - overlap) / (1 - chance): 0 is what chance gives, 1 is agreement throughout; None where chance
            is None or 1.
        pairs: for each two people (names in order), on how many prompts they met, and their mean F1.
    """

    prompts: int
    exact: float | None
    overlap: float | None
    chance: float | None
    alpha: float | None
    pairs: dict[tuple[str, str], tuple[int, float]]


def word_f1(first: str, second: str) -> float:
    """Harmonic mean of precision and recall of two texts' words, repeats counted, 0 to 1; 1 for two empty texts.

    Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", without their removal of
    articles and punctuation inside words.
    """
    return _f1(_words(first), _words(second))


def agreement(answers: Mapping[str, Mapping[str, str]]) -> Agreement:
    """Agreement of people on prompts.

    Args:
        answers: prompt id -> name -> answer; prompts with fewer than two answers do not count.

    Returns:
        The figures, in the form of Krippendorff's alpha with the distance 1 - F1 (Krippendorff 2018, "Content
        Analysis", chapter 12), each prompt's pairs weighing alike; chance over about 300 answers, evenly spaced.
    """
    shared = {prompt: by for prompt, by in answers.items() if len(by) > 1}
    words = {(prompt, name): _words(text) for prompt, by in shared.items() for name, text in by.items()}
    exact, alike = [], []
    met: dict[tuple[str, str], list[float]] = {}
    for prompt, by in shared.items():
        for first, second in itertools.combinations(sorted(by), 2):
            score = _f1(words[prompt, first], words[prompt, second])
            alike.append(score)
            exact.append(_plain(by[first]) == _plain(by[second]))
            met.setdefault((first, second), []).append(score)
    if not alike:
        return Agreement(0, None, None, None, None, {})
    overlap = _mean(alike)
    strangers = _chance(list(words))
    chance = _mean([_f1(words[a], words[b]) for a, b in strangers]) if strangers else None
    alpha = None if chance is None or chance >= 1 else 1 - (1 - overlap) / (1 - chance)
    pairs = {names: (len(scores), _mean(scores)) for names, scores in met.items()}
    return Agreement(len(shared), _mean(exact), overlap, chance, alpha, pairs)


def _chance(keys: Sequence[tuple[str, str]]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of answers to different prompts."""
    # An odd step, so that answers of the same person are not all that is taken.
    step = (len(keys) // _MOST_ANSWERS) | 1
    return [(a, b) for a, b in itertools.combinations(keys[::step], 2) if a[0] != b[0]]


def _words(text: str) -> Counter[str]:
    return Counter(_TOKEN.findall(text.casefold()))


def _f1(first: Counter[str], second: Counter[str]) -> float:
    if not first and not second:
        return 1.0
    both = (first & second).total()
    return 2 * both / (first.total() + second.total())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
