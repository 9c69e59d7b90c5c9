"""The smallest saving that an experiment can find, before it starts and after it ended."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thriftune.bench import curves
from thriftune.bench.intervals import compare, shifts, t_quantile
from thriftune.types import FloatArray

if TYPE_CHECKING:
    import pyarrow as pa

POWER = 0.8


@dataclass(frozen=True)
class Noise:
    """What limits an experiment, in units of its metric.

    Args:
        slope: rise of the baseline's curve when its budget grows e times.
        seed_sd: standard deviation between seeds of a cell's difference from the baseline, that of items left out.
        item_sd: standard deviation between items of the difference that an item shows in all cells.
        residual_sd: standard deviation of what is left of an item's difference in a cell.
        source: where the figures come from, as words that follow "noise".
    """

    slope: float
    seed_sd: float
    item_sd: float
    residual_sd: float
    source: str


ASSUMED = Noise(
    slope=0.27,
    seed_sd=0.035,
    item_sd=0.15,
    residual_sd=0.4,
    source="assumed, not measured: a gain of 0.27 nats a token for e times the annotations, paired differences that "
    "vary by 0.035 between seeds",
)


def smallest_detectable(
    *,
    seeds: int,
    budgets: Sequence[int],
    items: int,
    comparisons: int = 1,
    noise: Noise = ASSUMED,
    level: float = 0.95,
    power: float = POWER,
) -> float | None:
    """The smallest saving that an experiment of this size shows with probability ``power``.

    Args:
        seeds: paired seeds.
        budgets: annotations, any order.
        items: held-out items of a seed, the same for all seeds.
        comparisons: strategies times metrics that the intervals hold for together.
        noise: what is assumed, or measured by `noise_of`.
        level: of the intervals.
        power: e.g. 0.8.

    Returns:
        Share of annotations saved, or None where no saving within the budgets can be found.
    """
    x = np.log(np.unique(np.asarray(budgets, float)))
    if seeds < 2 or len(x) < 2 or items < 1:
        return None
    theta, weights = shifts(x)
    squares = float((weights[len(theta) // 2, : len(x)] ** 2).sum())
    seed = squares * (noise.seed_sd**2 + noise.residual_sd**2 / items) / seeds
    item = noise.item_sd**2 / items
    tail = (1 - level) / 2 / max(comparisons, 1)
    halves = t_quantile(tail, seeds - 1) * math.sqrt(seed), t_quantile(tail, max(items - 1, 1)) * math.sqrt(item)
    return saving_found(halves, math.sqrt(seed + item), seeds - 1, noise.slope, float(x[-1] - x[0]), power)


def saving_found(
    halves: tuple[float, float], error: float, df: int, slope: float, width: float, power: float = POWER
) -> float | None:
    """The saving whose comparison with ratio 1 leaves its interval with probability ``power``.

    The part of the interval that seeds account for is itself as uncertain as a chi-square variable with few degrees of
    freedom makes it; with the items' part at zero this is the power of a t test (the noncentral t distribution).

    Args:
        halves: half width of the interval at ratio 1 from seeds alone, and from items alone; squares add up.
        error: standard error of the comparison.
        df: degrees of freedom of the seeds.
        slope: mean rise of the curve for e times the budget.
        width: log of the largest over the smallest budget.
        power: e.g. 0.8.

    Returns:
        Share of annotations saved, or None where it is more than the budgets can express.
    """
    if slope <= 0 or not math.isfinite(sum(halves)) or df < 1:
        return None
    spread, noise = _draws(df)
    need = np.quantile(np.sqrt(halves[0] ** 2 * spread + halves[1] ** 2) - error * noise, power)
    theta = float(need) / slope
    return 1 - math.exp(-theta) if theta <= width else None


@functools.lru_cache(maxsize=16)
def _draws(df: int) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    return rng.chisquare(df, 100_000) / df, rng.standard_normal(100_000)


def noise_of(results: pa.Table, metric: str, higher_is_better: bool, baseline: str = "random") -> Noise | None:
    """The noise that an earlier experiment showed, for planning the next one.

    Args:
        results: its rows, as in results.parquet.
        metric: which metric.
        higher_is_better: its direction.
        baseline: the strategy that the rest were compared with.

    Returns:
        Averages over its strategies, or None where it has fewer than two paired seeds or two budgets.

    Raises:
        BenchError: no rows of the baseline.
    """
    read, _ = curves.read(results, {metric: higher_is_better}, baseline)
    if not read or len(read[0].budgets) < 2:
        return None
    one = read[0]
    x = np.log(one.budgets.astype(float))
    theta, weights = shifts(x)
    weight = weights[len(theta) // 2, : len(x)]
    found = []
    for arm in range(1, len(one.arms)):
        missing = np.isnan(one.values[[0, arm]]).all(axis=3)  # (2, k, r)
        whole = ~np.any(missing.reshape(-1, missing.shape[2]), axis=0)
        if whole.sum() < 2:
            continue
        difference = np.tensordot(weight, one.values[arm] - one.values[0], axes=1)[None, whole]
        means, contributions = curves.by_seed(difference, one.tasks)
        stats = curves.moments(means, contributions, one.tasks)
        count = float((~np.isnan(difference[0])).sum(axis=1).mean())
        within = count * float((contributions**2).sum(axis=(0, 2)).mean())
        item = max(count * float(stats.item[0, 0]), 0.0)
        rest = max(within - item, 0.0)
        seed = max(int(whole.sum()) * float(stats.seed[0, 0]) - rest / count, 0.0)
        squares = float((weight**2).sum())
        ends = compare(_level(one, whole), np.array([[-1.0, 1.0]]), np.arange(2), 0.95)
        found.append([float(ends.value[0]) / (x[-1] - x[0]), seed / squares, item, rest / squares])
    if not found:
        return None
    slope, seed, item, rest = np.mean(found, axis=0)
    return Noise(
        float(slope), math.sqrt(seed), math.sqrt(item), math.sqrt(rest), f"as measured on {metric} in an earlier bench"
    )


def _level(one: curves.Curves, whole: np.ndarray) -> curves.Moments:
    ends = one.values[0][[0, -1]][:, whole]
    return curves.moments(*curves.by_seed(ends, one.tasks), one.tasks)


def detectable_words(saving: float | None, noise: Noise, *, power: float = POWER) -> str:
    """The smallest detectable saving as a sentence for the plan of an experiment."""
    if saving is None:
        return (
            f"this experiment could show no saving that its budgets can express (noise {noise.source}): "
            "give more seeds, more held-out items or budgets further apart"
        )
    return (
        f"the smallest saving it finds with {power:.0%} probability: {saving:.0%} of the annotations "
        f"(noise {noise.source})"
    ).replace("%", " %")
