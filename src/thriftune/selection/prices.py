"""What annotating each prompt costs: a column of the study, checked, and a budget in its unit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from thriftune import meta
from thriftune.errors import StrategyError
from thriftune.selection.registry import Strategy, strategies
from thriftune.study import Study
from thriftune.types import Candidates, FloatArray

_NAMED = 12  # columns that a message lists
# Numbers of scores.parquet that are no property of the prompt.
_NO_PRICES = ("embedding_scale", "truncated_prompt", "hit_limit")


def money_of(budget_cost: Any, strategy: Strategy, budget: Any, costs: Any, limits: Any) -> float | None:
    """``budget_cost`` as a number; None where the number of picks is what is limited.

    Args:
        budget_cost, budget, costs: as given to `select`.
        strategy: who is asked.
        limits: quotas, if any.

    Raises:
        StrategyError: they do not go together, or it is no number > 0.
    """
    if budget_cost is None:
        if costs is not None and strategy.priced:
            raise StrategyError("costs are given and no budget_cost: say what the picks may cost together")
        return None
    if not strategy.priced:
        known = ", ".join(s.name for s in strategies().values() if s.priced)
        raise StrategyError(f"{strategy.name} does not go by costs: take one of {known}, or a budget in prompts")
    if budget is not None:
        raise StrategyError(f"both budget={budget!r} and budget_cost={budget_cost!r} were given: give one of them")
    if costs is None:
        raise StrategyError(f"budget_cost is {budget_cost!r} and there are no costs: say what each prompt costs")
    if limits:
        raise StrategyError("quotas count prompts and do not go with budget_cost: leave one of them out")
    try:
        money = float(budget_cost)
    except (TypeError, ValueError):
        money = math.nan
    if isinstance(budget_cost, bool) or not math.isfinite(money) or money <= 0:
        raise StrategyError(f"budget_cost is {budget_cost!r}: give a number greater than 0, in the unit of the costs")
    return money


def check_affordable(candidates: Candidates, money: float) -> None:
    """Refuse a budget that buys nothing.

    Raises:
        StrategyError: all prompts are annotated, or the cheapest costs more than ``money``.
    """
    assert candidates.costs is not None
    if candidates.annotated.all():
        raise StrategyError(f"all {len(candidates)} prompts are annotated: there is nothing left to select")
    least = float(candidates.costs[~candidates.annotated].min())
    if least > money:
        raise StrategyError(f"budget_cost is {money:g} and the cheapest prompt costs {least:g}: raise it")


def prices(study: Study, run: str | None, column: str) -> FloatArray:
    """The numbers of a column, rows in pool order.

    Args:
        study: which.
        run: a finished score run, or None.
        column: one of the pool file's own columns (``meta``); else ``n_chars``; else a number of the score run's
            scores.parquet, such as ``n_prompt_tokens``.

    Returns:
        (n,) float64, NaN for prompts that are annotated already and have none: they are not to be paid again.

    Raises:
        StrategyError: there is no such column, or a prompt has no number > 0 in it.
    """
    table = study.pool(["id", "meta", "n_chars", "source", "line"])
    scored = [] if run is None else _numbers_of(study, run)
    own = meta.column(table["meta"], column)
    if own is not None:
        values = own
    elif column == "n_chars" or column in scored:
        values = (table["n_chars"] if column == "n_chars" else study.scores(run, [column])[column]).to_pylist()
    else:
        names = [*meta.numeric(table["meta"]), "n_chars", *scored]
        listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        raise StrategyError(f"there is no column {column!r} to take costs from: choose one of {listed}")
    annotated = study.annotations.answered()
    found = np.full(len(values), np.nan)
    for row, (value, name) in enumerate(zip(values, table["id"].to_pylist(), strict=True)):
        number = meta.number_of(value)
        if number is not None and math.isfinite(number) and number > 0:
            found[row] = number
        elif name not in annotated:
            where = f" ({table['source'][row]}, line {table['line'][row]})" if own is not None else ""
            seen = "has none" if value is None or value == "" else f"has {value!r}"
            raise StrategyError(
                f"{column} of prompt {name!r}{where} {seen}: a cost is a number greater than 0; mend the pool file and "
                "make the study again, or take another column"
            )
    return found


def _numbers_of(study: Study, run: str) -> list[str]:
    """Names of the columns of a score run that hold one number a prompt."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(study.score_directory(run) / "scores.parquet")
    found = [f.name for f in schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    return [name for name in found if name not in _NO_PRICES]
