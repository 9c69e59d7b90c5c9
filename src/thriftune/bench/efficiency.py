"""Label efficiency: by what factor a strategy makes each annotation count, against the baseline, and how surely.

For every strategy s the efficiency ratio rho solves m_s(b) = g(rho b), g being the baseline's learning curve in log
budget; annotations saved = 1 - 1 / rho. The ratio is where a paired comparison of the two whole curves is zero
(`intervals.shifts`); its interval holds the ratios that the comparison does not reject, for all strategies and metrics
together. docs/statistics.md says how this was calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.bench import power, verdict
from thriftune.bench.curves import Curves, Moments, Pair, by_seed, pairs_of, read
from thriftune.bench.intervals import Compared, compare, estimate, hats, inversion, shifts, simultaneous, t_quantile
from thriftune.bench.power import smallest_detectable
from thriftune.bench.verdict import Bound, Comparison, saved
from thriftune.types import FloatArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["analyse", "infer", "smallest_detectable"]

_DRAWS = 20_000


def analyse(
    results: pa.Table,
    *,
    metrics: Mapping[str, bool],
    baseline: str = "random",
    level: float = 0.95,
    reads_tasks: frozenset[str] = frozenset(),
    seed: int = 0,
) -> dict[str, Any]:
    """Compare every strategy of an experiment with the baseline.

    Args:
        results: columns strategy, budget, seed, task, item, metric, value; strategy "base" is the untouched model.
        metrics: the metrics to analyse and whether higher is better. Intervals of ratios hold for all strategies and
            these metrics together, so each metric more makes them wider.
        baseline: what the strategies are compared with.
        level: probability with which all intervals of ratios hold.
        reads_tasks: strategies that read task labels.
        seed: of the resampling that makes the intervals simultaneous.

    Returns:
        What analysis.json holds (docs/artifacts.md), costs and name left out.

    Raises:
        BenchError: no rows of the baseline, or a row given twice.
    """
    curves, missing = read(results, metrics, baseline)
    found = infer(curves, level=level, seed=seed)
    first = curves[0] if curves else None
    return {
        "level": level,
        "baseline": baseline,
        "budgets": first.budgets.tolist() if first else [],
        "seeds": first.seeds.tolist() if first else [],
        "items": max((len(curve.items) for curve in curves), default=0),
        "tasks": max((len(np.unique(curve.tasks)) for curve in curves), default=0),
        "warnings": missing + verdict.warnings(found, curves, baseline),
        "metrics": [
            {
                "metric": curve.metric,
                "higher_is_better": metrics[curve.metric],
                "base": None if curve.base is None else {"mean": curve.base},
                "curves": _points(curve, metrics[curve.metric], level),
                "strategies": [
                    _described(one, baseline, one.strategy in reads_tasks)
                    for one in found
                    if one.metric == curve.metric
                ],
            }
            for curve in curves
        ],
    }


def infer(curves: Sequence[Curves], *, level: float = 0.95, seed: int = 0, draws: int = _DRAWS) -> list[Comparison]:
    """Every strategy against the first arm, by every metric.

    Args:
        curves: the metrics; the first arm of each is the baseline.
        level: probability with which all intervals of ratios hold together.
        seed: of the resampling.
        draws: of the resampling.

    Returns:
        Metric by metric, strategy by strategy.
    """
    pairs, stats = pairs_of(curves)
    if not pairs:
        return []
    rng = np.random.default_rng(seed)
    total = len(stats.mean)
    shifted = [shifts(np.log(pair.budgets)) for pair in pairs]
    compared = [compare(stats, w, pair.cells, level) for pair, (_, w) in zip(pairs, shifted, strict=True)]
    ratios = [estimate(theta, c.value) for (theta, _), c in zip(shifted, compared, strict=True)]
    family = np.zeros((len(pairs), total))
    for row, pair, (theta, weights), ratio in zip(family, pairs, shifted, ratios, strict=True):
        row[pair.cells] = weights[int(np.argmin(np.abs(theta - ratio)))]
    factor = simultaneous(stats, family, level, draws, rng)
    at_budgets = [np.concatenate([np.eye(len(p.budgets)), -np.eye(len(p.budgets))], axis=1) for p in pairs]
    single = np.zeros((sum(map(len, at_budgets)), total))
    begin = 0
    for pair, weights in zip(pairs, at_budgets, strict=True):
        single[begin : begin + len(weights), pair.cells] = weights
        begin += len(weights)
    wide = simultaneous(stats, single, level, draws // 4, rng)
    return [
        _compared(pair, stats, theta, c, ratio, factor, compare(stats, w, pair.cells, level), wide, level)
        for pair, (theta, _), c, ratio, w in zip(pairs, shifted, compared, ratios, at_budgets, strict=True)
    ]


def _compared(
    pair: Pair,
    stats: Moments,
    theta: FloatArray,
    compared: Compared,
    ratio: float,
    factor: float,
    differences: Compared,
    wide: float,
    level: float,
) -> Comparison:
    low, high = inversion(theta, compared.value, factor * compared.half)
    if len(pair.budgets) < 2:
        low = high = None
    bound: Bound = "within"
    if low is None and high is None:
        bound = "unidentified"
    elif ratio <= theta[0]:
        bound = "at most"
    elif ratio >= theta[-1]:
        bound = "at least"
    ratio = max(ratio, low) if low is not None else ratio
    ratio = min(ratio, high) if high is not None else ratio
    x = np.log(pair.budgets)
    middle, k = len(theta) // 2, len(pair.budgets)
    ends = np.zeros((1, 2 * k))
    ends[0, [k, 2 * k - 1]] = [-1.0, 1.0] if k > 1 else 0.0
    rise = compare(stats, ends, pair.cells, level)
    width = float(x[-1] - x[0])
    at_one = _weights_at_one(x)
    seed = float(at_one @ stats.seed[np.ix_(pair.cells, pair.cells)] @ at_one)
    here = compared.error[middle] ** 2
    detectable = None
    df = int(stats.df_seed[pair.cells].min())
    if width > 0 and df > 0:
        # Half of all estimates with few degrees of freedom lie below this share of the truth (Wilson and Hilferty).
        typical = (1 - 2 / (9 * df)) ** 3
        seeds = factor * t_quantile((1 - level) / 2, df) * math.sqrt(max(seed, 0.0) / typical)
        items = factor * t_quantile((1 - level) / 2, stats.df_item) * math.sqrt(max(here - seed, 0.0))
        error = math.sqrt(max(seed, 0.0) / typical + max(here - seed, 0.0))
        detectable = power.saving_found((seeds, items), error, df, float(rise.value[0]) / width, width)
    return Comparison(
        metric=pair.metric,
        strategy=pair.strategy,
        theta=None if bound == "unidentified" else ratio,
        low=low,
        high=high,
        bound=bound,
        detectable=detectable,
        budgets=tuple(int(b) for b in pair.budgets),
        seeds=pair.seeds,
        rising=bool(rise.value[0] - rise.half[0] > 0),
        item_share=float(1 - seed / here) if here > 0 else 0.0,
        differences=[
            {"budget": int(budget), "mean": float(value), **_ends(value, wide * half)}
            for budget, value, half in zip(pair.budgets, differences.value, differences.half, strict=True)
        ],
        crossing=_crossing(pair, stats, factor, level) if k > 1 else None,
    )


def _weights_at_one(x: FloatArray) -> FloatArray:
    theta, weights = shifts(x)
    return weights[len(theta) // 2]


def _crossing(pair: Pair, stats: Moments, factor: float, level: float) -> dict[str, Any]:
    """The smallest budget with which the strategy reaches the baseline's quality at its largest; None: never."""
    x = np.log(pair.budgets)
    grid = np.linspace(x[0], x[-1], 201)
    last = np.zeros((len(grid), len(x)))
    last[:, -1] = -1.0
    compared = compare(stats, np.concatenate([hats(x, grid, grid), last], axis=1), pair.cells, level)
    half = factor * compared.half

    def first(reached: np.ndarray) -> float | None:
        return round(math.exp(grid[int(np.argmax(reached))]), 1) if reached.any() else None

    return {
        "quality_at": int(pair.budgets[-1]),
        "budget": first(compared.value >= 0),
        "low": first(compared.value + half >= 0),
        "high": first(compared.value - half > 0),
    }


def _ends(value: float, half: float) -> dict[str, float | None]:
    if not math.isfinite(half):
        return {"low": None, "high": None}
    return {"low": float(value - half), "high": float(value + half)}


def _points(curve: Curves, higher_is_better: bool, level: float) -> list[dict[str, Any]]:
    """Learning curves in the metric's own direction; intervals are over seeds, for these held-out items."""
    sign = 1 if higher_is_better else -1
    points = []
    for name, values in zip(curve.arms, curve.values, strict=True):
        means = sign * by_seed(values, curve.tasks)[0]
        for budget, mean in zip(curve.budgets, means, strict=True):
            there = mean[~np.isnan(mean)]
            if not len(there):
                continue
            half = math.inf
            if len(there) > 1:
                half = t_quantile((1 - level) / 2, len(there) - 1) * float(there.std(ddof=1)) / math.sqrt(len(there))
            seeds = [None if np.isnan(m) else float(m) for m in mean]
            center = float(there.mean())
            points.append(
                {"strategy": name, "budget": int(budget), "mean": center, **_ends(center, half), "seeds": seeds}
            )
    return points


def _described(one: Comparison, baseline: str, reads_tasks: bool) -> dict[str, Any]:
    def ratio(theta: float | None) -> float | None:
        return None if theta is None else math.exp(theta)

    return {
        "strategy": one.strategy,
        "reads_tasks": reads_tasks,
        "rho": ratio(one.theta),
        "rho_low": ratio(one.low),
        "rho_high": ratio(one.high),
        "saved": saved(one.theta),
        "saved_low": saved(one.low),
        "saved_high": saved(one.high),
        "bound": one.bound,
        "differences": one.differences,
        "crossing": one.crossing,
        "smallest_detectable": one.detectable,
        "verdict": verdict.sentence(one, baseline, reads_tasks),
        "shown": one.saving,
    }
