"""Does the analysis of `thriftune bench` tell the truth? Coverage and false verdicts on experiments with known answers.

    python benchmarks/calibration.py --experiments 1000

Thousands of experiments are drawn for each setting (thriftune.bench.synthetic) and analysed as a real one is. Printed
are the shares of experiments in which all intervals hold the truth ("all", to be 95 %), of single intervals that do
("each", wider because they are simultaneous; with one strategy both are the same), in which any saving is shown that
is none ("false saving", at most 5 %), and in which any verdict of either kind is false; the median width of intervals
in log ratio, "open" where most have no end; bias and spread of the estimated log ratio; and, where ratios differ from
1, how often savings are shown. With --power each null is also run (a quarter as often) at the saving that an experiment
of its size is said to find with 80 % probability.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # this folder holds a select.py, which would hide the standard library's

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from thriftune.bench.efficiency import infer
from thriftune.bench.power import Noise, smallest_detectable
from thriftune.bench.synthetic import World, draw

DRAWS = 1000  # of the resampling inside each analysis


def settings() -> Iterator[tuple[str, World]]:
    """The study's own size first, then what may go wrong."""
    study = World()
    for shape in ("power", "straight", "saturating", "convex", "flat", "falling"):
        yield f"study, {shape}, null", replace(study, shape=shape)
    for shape in ("power", "straight", "saturating", "convex"):
        yield f"study, {shape}, 0.8 1.25 2", replace(study, shape=shape, ratios=(0.8, 1.25, 2.0))
        yield f"study, {shape}, 0.5 1 1.25", replace(study, shape=shape, ratios=(0.5, 1.0, 1.25))
    yield "one strategy, power, null", replace(study, ratios=(1.0,))
    yield "one strategy, power, 1.25", replace(study, ratios=(1.25,))
    yield "one strategy, power, 2", replace(study, ratios=(2.0,))
    yield "two metrics, null", replace(study, metrics=2)
    yield "two metrics, 0.8 1.25 2", replace(study, metrics=2, ratios=(0.8, 1.25, 2.0))
    yield "ten strategies, null", replace(study, ratios=(1.0,) * 10)
    yield "accuracy, null", replace(study, accuracy=True)
    yield "accuracy, 0.8 1.25 2", replace(study, accuracy=True, ratios=(0.8, 1.25, 2.0))
    yield "1,488 items, 0.8 1.25 2", replace(study, items=1488, ratios=(0.8, 1.25, 2.0))
    yield "items differ by seed, 0.8 1.25 2", replace(study, same_items=False, ratios=(0.8, 1.25, 2.0))
    yield "items dominate, null", replace(study, item_sd=0.6, seed_sd=0.02)
    yield "items dominate, 0.8 1.25 2", replace(study, item_sd=0.6, seed_sd=0.02, ratios=(0.8, 1.25, 2.0))
    yield "no item effect, null", replace(study, item_sd=0.0)
    yield "noise doubled, null", replace(study, seed_sd=0.07, residual_sd=0.8)
    yield "heavy-tailed seeds, null", replace(study, heavy=True, seed_sd=0.05)
    yield "strategies noisier than random, null", replace(study, uneven=2.0)
    yield "never reach random, power", replace(study, ratios=(0.2, 0.2, 0.2), behind=0.3)
    yield "never reach random, flat", replace(study, shape="flat", behind=0.1)
    yield "a tenth of the cells missing, null", replace(study, missing=0.1)
    yield "a tenth of the cells missing, 0.8 1.25 2", replace(study, missing=0.1, ratios=(0.8, 1.25, 2.0))
    small = replace(study, seeds=3, budgets=(50, 100, 200))
    yield "3 seeds, 3 budgets, power, null", small
    yield "3 seeds, 3 budgets, flat, null", replace(small, shape="flat")
    yield "3 seeds, 3 budgets, 0.8 1.25 2", replace(small, ratios=(0.8, 1.25, 2.0))
    two = replace(study, seeds=3, budgets=(50, 400))
    yield "3 seeds, 2 budgets, power, null", two
    yield "3 seeds, 2 budgets, 0.8 1.25 2", replace(two, ratios=(0.8, 1.25, 2.0))
    yield "5 seeds, 4 budgets, null", replace(study, seeds=5)
    yield "2 seeds, 2 budgets, 60 items, null", replace(two, seeds=2, items=60, tasks=5)


def measure(world: World, experiments: int, seed: int) -> dict[str, float]:
    """Shares over drawn experiments; see the top of the file."""
    rng = np.random.default_rng(seed)
    truth = np.log(np.tile(world.ratios, world.metrics))
    known = world.behind == 0.0 and world.shape not in ("flat", "falling")
    nothing = truth <= 0
    held = np.zeros((experiments, len(truth)), bool)
    savings, costs = np.zeros_like(held), np.zeros_like(held)
    widths, errors = np.full(held.shape, np.inf), np.full(held.shape, np.nan)
    for one in range(experiments):
        found = infer(draw(world, rng), draws=DRAWS, seed=one)
        for j, (c, theta) in enumerate(zip(found, truth, strict=True)):
            held[one, j] = (c.low is None or c.low <= theta) and (c.high is None or theta <= c.high)
            savings[one, j], costs[one, j] = c.saving, c.costing
            if c.low is not None and c.high is not None:
                widths[one, j] = c.high - c.low
            if c.theta is not None:
                errors[one, j] = c.theta - theta
    dearer = (truth < 0) | (world.behind > 0.0)
    errors = errors if known else np.full_like(errors, np.nan)
    return {
        "all": float(held.all(axis=1).mean()) if world.behind == 0.0 else math.nan,
        "each": float(held.mean()) if world.behind == 0.0 else math.nan,
        "false saving": float((savings & nothing).any(axis=1).mean()),
        "false verdict": float(((savings & nothing) | (costs & ~dearer)).any(axis=1).mean()),
        "width": float(np.median(widths)),
        "bias": float(np.nanmean(errors)) if known else math.nan,
        "worst bias": float(max(np.nanmean(errors, axis=0), key=abs)) if known else math.nan,
        "spread": float(np.nanmean(np.nanstd(errors, axis=0))) if known else math.nan,
        "shown": float(savings[:, truth > 0].mean()) if (truth > 0).any() else math.nan,
    }


def power(world: World, experiments: int, seed: int) -> tuple[float, float, float]:
    """Smallest detectable saving as planned and as experiments say afterwards, and how often that saving is shown."""
    squares = np.array(world.budgets, float) / 50
    fade = float(np.sqrt(np.mean(squares ** (-2 * world.fading))))
    x = np.log(world.budgets)
    curve = draw(replace(world, seed_sd=0, item_sd=0, residual_sd=0, shared_sd=0), np.random.default_rng(0))[0]
    level = curve.values[0].mean(axis=(1, 2))
    noise = Noise(
        float((level[-1] - level[0]) / (x[-1] - x[0])),
        world.seed_sd * fade,
        world.item_sd,
        world.residual_sd * fade,
        "known",
    )
    planned = smallest_detectable(
        seeds=world.seeds, budgets=world.budgets, items=world.items, comparisons=len(world.ratios), noise=noise
    )
    if planned is None:
        return math.nan, math.nan, math.nan
    true = replace(world, ratios=(1 / (1 - planned), *world.ratios[1:]))
    rng = np.random.default_rng(seed)
    found = [infer(draw(true, rng), draws=DRAWS, seed=one)[0] for one in range(experiments)]
    after = [one.detectable for one in found if one.detectable is not None]
    return planned, float(np.median(after)), float(np.mean([one.saving for one in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1000, help="drawn for each setting")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--power", action="store_true", help="also run each null at its smallest detectable saving")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    print(f"{given.experiments} experiments a setting, seed {given.seed}; intervals of 95 %, simultaneous")
    columns = ("all", "each", "false saving", "false verdict", "width", "worst bias", "spread", "shown")
    print(f"| {'setting':42} | " + " | ".join(f"{name:>13}" for name in columns) + " |")
    print(f"|{'-' * 44}|" + "|".join("-" * 14 + ":" for _ in columns) + "|")
    for number, (name, world) in enumerate(settings()):
        seed = 1000 * given.seed + number  # other errors for each setting
        if given.only not in name:
            continue
        got = measure(world, given.experiments, seed)
        cells = [_cell(column, got[column]) for column in columns]
        print(f"| {name:42} | " + " | ".join(f"{cell:>13}" for cell in cells) + " |", flush=True)
        if given.power and name.endswith("null"):
            planned, after, shown = power(world, max(given.experiments // 4, 1), seed)
            print(
                f"    smallest detectable saving: {planned:.3f} as planned, {after:.3f} as the experiments say; "
                f"a true one of {planned:.3f} is shown in {shown:.3f}",
                flush=True,
            )
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


def _cell(column: str, value: float) -> str:
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "open"
    return f"{value:.3f}" if column in ("width", "bias", "worst bias", "spread") else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
