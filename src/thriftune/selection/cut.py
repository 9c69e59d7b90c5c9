"""A selection at a smaller budget: its prefix where that is the same thing, a new run where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from thriftune.errors import StrategyError
from thriftune.selection import quotas, registry
from thriftune.selection.run import select
from thriftune.study import Study
from thriftune.types import Candidates, Selection


def cut(selection: Selection, budget: int) -> Selection:
    """The first ``budget`` picks of a selection whose strategy is prefix-closed.

    Args:
        selection: what was picked at a larger budget.
        budget: from 1 to ``len(selection)``.

    Returns:
        What the strategy picks at ``budget``. A certificate speaks of the whole selection and is dropped, except that
        of k_center, which the gains hold for every prefix.

    Raises:
        StrategyError: ``budget`` is out of range, or the prefix is not the selection at that budget.
    """
    if not 1 <= budget <= len(selection):
        raise StrategyError(f"budget is {budget}: this selection can be cut to 1 to {len(selection)} prompts")
    if budget == len(selection) and not selection.partial:
        return selection
    if not prefix_closed(selection):
        raise StrategyError(
            f"{selection.strategy} with these parameters picks anew for each budget: run it again at {budget}"
        )
    certificate = None
    if selection.certificate is not None and selection.certificate.get("kind") == "k_center":
        assert selection.gains is not None
        # What was farthest then is what was picked next.
        radius = float(selection.gains[budget] if budget < len(selection) else selection.certificate["radius"])
        certificate = {"kind": "k_center", "radius": radius, "lower_bound": radius / 2}
    return replace(
        selection,
        ids=selection.ids[:budget],
        rows=selection.rows[:budget],
        gains=None if selection.gains is None else selection.gains[:budget],
        budget=budget,
        certificate=certificate,
        partial=False,
    )


def prefix_closed(selection: Selection) -> bool:
    """Whether a selection may be cut to a smaller budget."""
    if any(name in selection.params for name in (*quotas.NAMES, "budget_cost")):
        return False
    return registry.get(selection.strategy).prefix_closed(selection.params, selection.notes)


def at_budgets(
    source: Study | str | Path | Candidates, strategy: str, budgets: list[int], *, seed: int = 0, **params: Any
) -> list[Selection]:
    """A strategy's selections at several budgets, with as few runs as give the same picks.

    Args:
        source: a study, its directory, or candidates.
        strategy: its name.
        budgets: how many prompts, in any order.
        seed: of randomised strategies.
        params: as `select` takes them, ``transform`` and ``duplicates`` included.

    Returns:
        One selection per budget, in the order of ``budgets``.

    Raises:
        StrategyError: as `select`.
    """
    if not budgets:
        return []
    largest = select(source, strategy, max(budgets), seed=seed, **params)
    if not largest.partial and prefix_closed(largest):
        return [cut(largest, budget) for budget in budgets]
    return [
        largest if budget == largest.budget else select(source, strategy, budget, seed=seed, **params)
        for budget in budgets
    ]
