"""Experiments with a known answer: learning curves, ratios and noise are given, results are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.bench.curves import Curves
from thriftune.types import FloatArray

if TYPE_CHECKING:
    import pyarrow as pa

# Quality against log(budget / 50). All but the last three gain about 0.3 from 50 to 150, as pilots did (nats a token).
SHAPES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "power": lambda z: -1.3 - 0.7 * np.exp(-0.5 * z),
    "straight": lambda z: -2.0 + 0.27 * z,
    "saturating": lambda z: -1.6 - 0.4 * np.exp(-1.2 * z),
    "convex": lambda z: -2.0 + 0.1 * z + 0.06 * z * np.abs(z),
    "flat": lambda z: -2.0 + 0.0 * z,
    "falling": lambda z: -1.5 - 0.1 * z,
}


@dataclass(frozen=True)
class World:
    """What an experiment is drawn from; standard deviations are those of differences from the baseline.

    Args:
        shape: one of `SHAPES`.
        ratios: the true efficiency ratio of each strategy.
        behind: how much worse each strategy is at every budget on top of that, so that it may never reach the baseline.
        budgets: annotations.
        seeds: paired seeds.
        items: held-out items of a seed.
        tasks: tasks that the items belong to, evenly.
        seed_sd: between seeds, of a cell.
        item_sd: between items, alike in all cells of a strategy.
        residual_sd: of an item in a cell.
        shared_sd: between seeds, alike in all strategies at a budget; comparisons do not see it.
        fading: noise of cells goes with (budget / 50) to the power of minus this.
        uneven: the strategies' noise of cells over the baseline's.
        heavy: whether seeds' errors have Student's t with five degrees of freedom, scaled to the same variance.
        same_items: whether all seeds are evaluated on the same items.
        metrics: 1, or 2 with errors correlated by 0.7.
        accuracy: whether each item is right or wrong (the mean is 1 / (1 + exp(-2 (quality + 1.7)))) instead of nats.
        missing: share of cells that are missing.
    """

    shape: str = "power"
    ratios: tuple[float, ...] = (1.0, 1.0, 1.0)
    behind: float = 0.0
    budgets: tuple[int, ...] = (50, 100, 200, 400)
    seeds: int = 8
    items: int = 496
    tasks: int = 31
    seed_sd: float = 0.035
    item_sd: float = 0.15
    residual_sd: float = 0.4
    shared_sd: float = 0.05
    fading: float = 0.3
    uneven: float = 1.0
    heavy: bool = False
    same_items: bool = True
    metrics: int = 1
    accuracy: bool = False
    missing: float = 0.0


def draw(world: World, rng: np.random.Generator) -> list[Curves]:
    """One experiment.

    Args:
        world: what to draw from.
        rng: what draws; other errors each time.

    Returns:
        Curves of each metric; the first arm is "random", the others are "strategy-1" and so on.
    """
    arms, seeds, items = 1 + len(world.ratios), world.seeds, world.items
    budgets = np.array(world.budgets)
    z = np.log(budgets / 50)[None] + np.log([1.0, *world.ratios])[:, None]
    quality = SHAPES[world.shape](z)
    quality[1:] -= world.behind
    count = items if world.same_items else items * seeds
    tasks = np.arange(count) % world.tasks
    columns = np.arange(items)[None] + (0 if world.same_items else items * np.arange(seeds)[:, None])
    columns = np.broadcast_to(columns, (seeds, items))
    # Differences of two arms have twice one arm's variance.
    cell = (budgets / 50.0) ** -world.fading * np.where(np.arange(arms) > 0, world.uneven, 1.0)[:, None] / np.sqrt(2)
    missing = rng.random((arms, len(budgets), seeds)) < world.missing
    curves: list[Curves] = []
    earlier: list[FloatArray] = []
    for metric in range(world.metrics):
        errors = [
            (rng.standard_t(5, (arms, len(budgets), seeds)) * np.sqrt(3 / 5))
            if world.heavy
            else rng.standard_normal((arms, len(budgets), seeds)),
            rng.standard_normal((1, len(budgets), seeds)),
            rng.standard_normal((arms, count)),
            rng.standard_normal((arms, len(budgets), seeds, items)),
        ]
        if earlier:
            errors = [0.7 * a + np.sqrt(1 - 0.49) * b for a, b in zip(earlier, errors, strict=True)]
        earlier = errors
        difficulty = rng.standard_normal(count)
        value = quality[..., None, None] + (world.seed_sd * errors[0] * cell[..., None])[..., None]
        value = value + (world.shared_sd * errors[1])[..., None] + 1.2 * difficulty[columns]
        value = value + (world.item_sd / np.sqrt(2) * errors[2])[:, None, columns]
        if world.accuracy:
            # Mean over difficulties is the same rising function of quality for all arms: the ratio stays the truth.
            value = (rng.random(value.shape) < 1 / (1 + np.exp(-2 * (value + 1.7)))).astype(float)
        else:
            value = value + world.residual_sd * errors[3] * cell[..., None, None]
        value[missing] = np.nan
        values = value
        if not world.same_items:
            values = np.full((arms, len(budgets), seeds, count), np.nan)
            for seed in range(seeds):
                values[:, :, seed, columns[seed]] = value[:, :, seed]
        names = ("random", *(f"strategy-{i}" for i in range(1, arms)))
        curves.append(Curves(f"metric-{metric}", names, budgets, np.arange(seeds), values, tasks, np.arange(count)))
    return curves


def table(curves: list[Curves]) -> pa.Table:
    """The same experiment as the rows of results.parquet, higher values better."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        name: [] for name in ("strategy", "budget", "seed", "task", "item", "metric", "value")
    }
    for curve in curves:
        arm, budget, seed, item = np.nonzero(~np.isnan(curve.values))
        columns["strategy"] += [curve.arms[a] for a in arm]
        columns["budget"] += curve.budgets[budget].tolist()
        columns["seed"] += curve.seeds[seed].tolist()
        columns["task"] += [f"task-{t}" for t in curve.tasks[item]]
        columns["item"] += [f"item-{i}" for i in curve.items[item]]
        columns["metric"] += [curve.metric] * len(arm)
        columns["value"] += curve.values[arm, budget, seed, item].tolist()
    return pa.table(columns)
