"""Scorers: how a user's own check judges an answer."""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

from thriftune.errors import EvaluationError, ThriftuneError, require
from thriftune.evaluation.metrics import HIGHER_IS_BETTER
from thriftune.types import Prompt

ENTRY_POINTS = "thriftune.scorers"

Scorer = Callable[[Prompt, str, str | None], float | bool]
"""``scorer(prompt, answer, reference)``: how good the answer is, higher = better; the reference is None where no
response is known."""


def load_scorer(spec: str) -> tuple[str, Scorer]:
    """The scorer that a user names, and the name of its metric.

    Args:
        spec: a built-in scorer, one of an installed package (entry point group ``thriftune.scorers``), or
            ``module:function``, found as Python finds modules and in the current directory.

    Returns:
        (metric, scorer): the metric is the name, or the function's name.

    Raises:
        EvaluationError: there is no such scorer, it cannot be imported, or its name is one of our metrics.
    """
    module, colon, function = spec.partition(":")
    metric = (function if colon else spec).rpartition(".")[2]
    if metric in HIGHER_IS_BETTER:
        raise EvaluationError(f"the scorer {spec!r} has the name of a built-in metric: rename it")
    found = _imported(module, function) if colon else _named(spec)
    if not callable(found):
        raise EvaluationError(f"the scorer {spec!r} is no function, but a {type(found).__name__}")
    return metric, found


def _named(name: str) -> Any:
    if name in BUILT_IN:
        return BUILT_IN[name]
    entries = {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
    if name not in entries:
        known = sorted({*BUILT_IN, *entries})
        near = difflib.get_close_matches(name, known, 1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"there: {', '.join(known)}; your own: --scorer MODULE:FUNCTION"
        )
        raise EvaluationError(f"no scorer {name!r} ({hint})")
    try:
        return entries[name].load()
    except Exception as error:  # a package of somebody else's: anything can happen while it loads
        raise EvaluationError(
            f"the scorer {name!r} ({entries[name].value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _imported(module: str, function: str) -> Any:
    here = os.getcwd()
    added = here not in sys.path
    if added:  # an installed command does not look where it is run, where users keep their own file
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except Exception as error:  # the user's own file: anything can happen while it is imported
        raise EvaluationError(
            f"the scorer {module}:{function} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    return found


def score_answer(metric: str, scorer: Scorer, prompt: Prompt, answer: str, reference: str | None) -> float:
    """What ``scorer`` says about one answer, as a finite number.

    Raises:
        EvaluationError: it failed or returned something else; the message names the prompt.
    """
    try:
        value = scorer(prompt, answer, reference)
        number = float(value)
    except ThriftuneError:
        raise
    except Exception as error:  # the user's own code
        raise EvaluationError(
            f"the scorer {metric!r} failed on prompt {prompt.id!r}: {type(error).__name__}: {error}"
        ) from error
    if not math.isfinite(number):
        raise EvaluationError(f"the scorer {metric!r} returned {value!r} for prompt {prompt.id!r}, not a finite number")
    return number


def reasoning_gym(prompt: Prompt, answer: str, reference: str | None) -> bool:
    """Whether a reasoning-gym verifier gives the answer full marks; partial credit does not count.

    Some verifiers give a wrong but well-formed answer a few per cent, or letters that happen to fit a quarter.

    Args:
        prompt: of a pool that has reasoning-gym's entry as a column ``reasoning_gym``:
            ``{"answer": entry["answer"], "metadata": entry["metadata"]}``, so in ``prompt.meta``.
        answer: the model's, white space at the ends does not count.
        reference: not looked at: the entry has its own.

    Raises:
        EvaluationError: the pool's row holds no such entry, or the verifier refuses the entry's own answer.
        MissingDependency: reasoning-gym is not installed.
    """
    entry = prompt.meta.get("reasoning_gym")
    details = entry.get("metadata") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(details, dict) or "answer" not in entry:
        raise EvaluationError(
            f"prompt {prompt.id!r} has no reasoning-gym entry: the scorer reasoning_gym needs a pool with a column "
            '"reasoning_gym" that holds {"answer": ..., "metadata": {...}}'
        )
    task = str(details.get("source_dataset") or prompt.task)
    full = {"question": prompt.text, "answer": entry["answer"], "metadata": details}
    verify = _verifier(task)
    # Verifiers may raise on what they cannot parse. That an entry is whole shows on its own answer, so that a
    # failure on the model's can only mean the model's.
    if not _passes(verify, str(entry["answer"]), full):
        raise EvaluationError(
            f"reasoning-gym's verifier of {task!r} refuses the known answer of prompt {prompt.id!r}: the entry was "
            "made by another version of reasoning-gym, or is damaged"
        )
    return _passes(verify, answer.strip(), full)


def _passes(verify: Callable[..., float], answer: str, entry: dict[str, Any]) -> bool:
    try:
        return verify(answer, entry) >= 1
    except Exception:  # int("I do not know") inside a verifier, and its like
        return False


@functools.cache
def _verifier(task: str) -> Callable[..., float]:
    gym = require("reasoning_gym", command="--scorer reasoning_gym", install="'thriftune[demo]'")
    try:
        verify: Callable[..., float] = gym.get_score_answer_fn(task)
    except ValueError as error:
        raise EvaluationError(f"reasoning-gym has no task {task!r} ({error})") from error
    return verify


BUILT_IN: dict[str, Scorer] = {"reasoning_gym": reasoning_gym}
