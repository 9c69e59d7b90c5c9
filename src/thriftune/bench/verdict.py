"""An experiment's verdicts and warnings as plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from thriftune.bench.curves import Curves

Bound = Literal["within", "at least", "at most", "unidentified"]
ENOUGH_SEEDS = 8
FEW_ITEMS = 200


@dataclass(frozen=True)
class Comparison:
    """One strategy against the baseline by one metric.

    Args:
        metric: which metric.
        strategy: which strategy.
        theta: log of the efficiency ratio, None where unidentified.
        low: lower end of its interval, None where there is none.
        high: upper end.
        bound: whether the ratio lies within what the budgets can express, or beyond an end.
        detectable: the smallest saving that the experiment could have shown, or None.
        budgets: those at which both have at least two seeds in common.
        seeds: paired seeds at the budget that has fewest.
        rising: whether the baseline's curve is shown to rise over the budgets.
        item_share: share of the comparison's variance that comes from the choice of held-out items.
        differences: strategy less baseline by budget, larger is better for the strategy.
        crossing: where the strategy reaches the baseline's quality at its largest budget.
    """

    metric: str
    strategy: str
    theta: float | None
    low: float | None
    high: float | None
    bound: Bound
    detectable: float | None
    budgets: tuple[int, ...]
    seeds: int
    rising: bool
    item_share: float
    differences: list[dict[str, Any]] = field(default_factory=list)
    crossing: dict[str, Any] | None = None

    @property
    def saving(self) -> bool:
        """Whether a saving is shown."""
        return self.low is not None and self.low > 0

    @property
    def costing(self) -> bool:
        """Whether it is shown to need more annotations than the baseline."""
        return self.high is not None and self.high < 0


def saved(theta: float | None) -> float | None:
    """Share of annotations saved, 1 - 1 / rho; negative where more are needed."""
    return None if theta is None else -math.expm1(-theta)


def sentence(one: Comparison, baseline: str, reads_tasks: bool) -> str:
    """The verdict in words."""
    name = f"{one.strategy} (which reads task labels)" if reads_tasks else one.strategy
    if one.saving:
        low, theta = _percent(saved(one.low)), _percent(saved(one.theta))
        if one.bound == "at least":
            amount = f"at least {low} fewer annotations than {baseline}"
        elif one.high is None:
            amount = f"{theta} [{low.removesuffix(' %')} or more] fewer annotations than {baseline}"
        else:
            high = _percent(saved(one.high)).removesuffix(" %")
            amount = f"{theta} [{low.removesuffix(' %')}, {high}] fewer annotations than {baseline}"
        return f"{name} needs {amount} for the same held-out {one.metric}"
    if one.costing:
        assert one.high is not None
        high, theta = _more(one.high), _more(one.theta or 0.0)
        if one.bound == "at most":
            amount = f"at least {high} more annotations than {baseline}"
        elif one.low is None:
            amount = f"{theta} [{high.removesuffix(' %')} or more] more annotations than {baseline}"
        else:
            ends = f"[{high.removesuffix(' %')}, {_more(one.low).removesuffix(' %')}]"
            amount = f"{theta} {ends} more annotations than {baseline}"
        return f"{name} needs {amount} for the same held-out {one.metric}"
    if one.seeds < 2:
        return f"no saving shown: {name} on {one.metric} has fewer than two seeds in common with {baseline}"
    could = (
        f"this experiment could have detected {_percent(one.detectable)} or more"
        if one.detectable is not None
        else "this experiment could not have detected any saving that its budgets can express"
    )
    if one.bound == "unidentified":
        return f"no saving shown: {name} on {one.metric} may need any number of annotations; {could}"
    worst = "any number more" if one.low is None else _either(one.low)
    best = "any number fewer" if one.high is None else _either(one.high)
    return f"no saving shown: {name} on {one.metric} needs between {worst} and {best} annotations; {could}"


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.0f} %"


def _more(theta: float) -> str:
    return _percent(math.expm1(-theta))


def _either(theta: float) -> str:
    return f"{_percent(saved(theta))} fewer" if theta >= 0 else f"{_more(theta)} more"


def warnings(found: Sequence[Comparison], curves: Sequence[Curves], baseline: str) -> list[str]:
    """What a reader must know before believing the verdicts."""
    said: list[str] = []
    if not found:
        return said
    fewest = min(one.seeds for one in found)
    if fewest < ENOUGH_SEEDS:
        said.append(
            f"{fewest} paired seed{'' if fewest == 1 else 's'}: fewer than the {ENOUGH_SEEDS} that evidence needs; "
            "take this as a demonstration"
        )
    budgets = min(len(one.budgets) for one in found)
    if budgets == 1:
        said.append("one budget: quality can be compared, annotations saved cannot")
    elif budgets == 2:
        said.append(
            "two budgets: the shape of the curve between them is not seen, so a ratio far from 1 may be off by more "
            "than its interval says"
        )
    for curve in curves:
        said += [f"{curve.metric}: {text}" for text in _of_metric(curve, found, baseline)]
    return said


def _fades(crossing: dict[str, Any], claimed: float | None) -> bool:
    """Whether at the largest budget less than half of the claimed saving is left, and none is shown."""
    largest = crossing["quality_at"]
    budget, high = (largest if crossing[key] is None else crossing[key] for key in ("budget", "high"))
    return bool(1 - budget / largest < (claimed or 0.0) / 2 and high >= largest)


def _of_metric(curve: Curves, found: Sequence[Comparison], baseline: str) -> list[str]:
    said = []
    mine = [one for one in found if one.metric == curve.metric and one.seeds > 1]
    count = int((~np.isnan(curve.values)).any(axis=(0, 1)).sum(axis=1).max())
    if count < FEW_ITEMS:
        said.append(f"only {count} held-out items")
    ratios = [one for one in mine if len(one.budgets) > 1]
    if ratios and not any(one.rising for one in ratios):
        said.append(
            f"{baseline} is not shown to gain from more annotations between {curve.budgets[0]:,} and "
            f"{curve.budgets[-1]:,}, so annotations cannot be traded for quality"
        )
    elif ratios and all(one.detectable is None or one.detectable > 0.5 for one in ratios):
        said.append("underpowered: even a saving of half the annotations would often go unseen")
    if mine and np.mean([one.item_share for one in mine]) > 0.5:
        said.append("which items were held out is most of the noise, so more items would help more than more seeds")
    for one in mine:
        ahead = [d["budget"] for d in one.differences if d["low"] is not None and d["low"] > 0]
        behind = [d["budget"] for d in one.differences if d["high"] is not None and d["high"] < 0]
        if ahead and behind:
            said.append(
                f"{one.strategy} is ahead of {baseline} at {ahead[0]:,} annotations and behind at {behind[0]:,}; one "
                "ratio does not describe it"
            )
        elif one.saving and one.crossing is not None and _fades(one.crossing, saved(one.theta)):
            largest, budget = one.crossing["quality_at"], one.crossing["budget"]
            takes = "more than that" if budget is None else f"about {budget:,.0f}"
            said.append(
                f"what {one.strategy} saves it saves at small budgets: the quality that {baseline} has with "
                f"{largest:,} annotations takes {takes}, and no saving is shown there"
            )
    return said
