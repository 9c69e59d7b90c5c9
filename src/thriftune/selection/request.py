"""What a request means: which strategy, with which parameters, for how many prompts."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from thriftune import geometry
from thriftune.errors import StrategyError
from thriftune.selection import registry
from thriftune.selection.registry import Strategy
from thriftune.study import Study
from thriftune.types import BoolArray, Candidates

TRANSFORM = "transform"  # a parameter of every strategy that reads embeddings
_SHARE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)%\Z")


def resolve(
    source: Study | Candidates, strategy: str | None, params: Mapping[str, Any], run: str | None = None
) -> tuple[Strategy, dict[str, Any], str]:
    """What a request means, before anything heavy is loaded.

    Args:
        source: a study or candidates.
        strategy: its name, or None for the default.
        params: as given, ``transform`` included.
        run: which score run of a study.

    Returns:
        The strategy, all of its parameters, and why it was taken when none was named (else "").

    Raises:
        StrategyError: the strategy is unknown, or a parameter is unknown, missing or impossible.
    """
    why = ""
    if strategy is None:
        strategy, why = default_strategy(source, run)
    chosen = registry.get(strategy)
    own = dict(params)
    how = own.pop(TRANSFORM, None)
    resolved = chosen.resolve(own)
    if how is not None and how not in geometry.TRANSFORMS:
        raise StrategyError(f"unknown transform {how!r}: choose one of {', '.join(geometry.TRANSFORMS)}")
    if "embeddings" in (*chosen.needs, *chosen.uses):
        resolved[TRANSFORM] = how or (geometry.HIDDEN_STATES if isinstance(source, Study) else "none")
    elif how is not None:
        raise StrategyError(f"{chosen.name} reads no embeddings: leave transform out")
    return chosen, resolved, why


def default_strategy(source: Study | Candidates, run: str | None = None) -> tuple[str, str]:
    """The strategy taken when none is named.

    Args:
        source: a study or candidates.
        run: which score run of a study, the latest if None.

    Returns:
        Its name, and why in one clause.
    """
    if isinstance(source, Study):
        scored = run is not None or bool(source.score_runs())
        has_embeddings = scored and (source.score_directory(source.score_run(run)) / "embeddings.npy").exists()
        tasks = source.pool(["task"])["task"]
        has_tasks = tasks.null_count < len(tasks)
    else:
        has_embeddings, has_tasks = source.embeddings is not None, source.tasks is not None
    if has_embeddings:
        return (
            "facility_location",
            "it picks prompts that stand for many others, and proves how close to the best it comes",
        )
    if has_tasks:
        return "random_within_task", "there are no embeddings to cover the pool by, but task labels to spread over"
    return "random", "there are neither embeddings nor task labels to go by"


def seed_of(seed: Any) -> int:
    """``seed`` as an int.

    Raises:
        StrategyError: it is not a whole number of at least 0.
    """
    try:
        value = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        value = -1
    if value < 0:
        raise StrategyError(f"seed is {seed!r}: give a whole number of at least 0")
    return value


def budget_of(budget: Any, annotated: BoolArray) -> int:
    """How many prompts ``budget`` means.

    Args:
        budget: a whole number, or text: digits, or a percentage of the pool.
        annotated: (n,) which prompts cannot be picked.

    Returns:
        The number, from 1 to as many as are not annotated.

    Raises:
        StrategyError: it is none such.
    """
    n, free = len(annotated), int((~annotated).sum())
    wrong = StrategyError(f"budget is {budget!r}: give a whole number from 1 to {free}, or a share such as '10%'")
    share = _SHARE.match(budget.strip()) if isinstance(budget, str) else None
    if share is not None:
        count = int((Decimal(share[1]) * n / 100).to_integral_value(ROUND_HALF_UP))
    elif isinstance(budget, str) and budget.strip().isdecimal() and len(budget) < 20:
        count = int(budget)
    else:
        try:
            count = operator.index(budget)
        except TypeError:
            raise wrong from None
        if isinstance(budget, bool):
            raise wrong
    if free == 0:
        raise StrategyError(f"all {n} prompts are annotated: there is nothing left to select")
    if not 1 <= count <= free:
        counted = f"{budget}, which is {count} prompts" if share is not None else f"{count}"
        raise StrategyError(
            f"budget is {counted}: give 1 to {free}"
            + (f" ({n - free} of the {n} prompts are annotated already)" if free < n else "")
        )
    return count
