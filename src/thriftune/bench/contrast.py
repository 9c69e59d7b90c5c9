"""A design against its random control at equal sizes: differences with intervals, and what they can and cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thriftune.artifacts import read_table
from thriftune.bench.cells import cell_file
from thriftune.bench.design import BASE, RANDOM, Cell
from thriftune.bench.intervals import t_quantile
from thriftune.evaluation.metrics import higher_is_better
from thriftune.types import FloatArray, IntArray

LEVEL = 0.95


def compare(directory: Path, cells: Sequence[Cell], strategy: str) -> list[dict[str, Any]]:
    """Differences of every metric at every size.

    Args:
        directory: of the bench.
        cells: all of it, finished, with the same items.
        strategy: the design's name in cells; the control's is ``random``.

    Returns:
        For each metric and size ``metric``, ``higher_is_better``, ``budget``, ``designed``, ``control``, ``base``,
        ``difference`` (positive where the design is better), ``low``, ``high``, ``shown``.
    """
    values: dict[str, dict[Cell, dict[tuple[str, str], float]]] = {}
    for cell in cells:
        for row in read_table(cell_file(directory, cell)).to_pylist():
            values.setdefault(row["metric"], {}).setdefault(cell, {})[row["task"], row["item"]] = row["value"]
    found = []
    for metric, by_cell in values.items():
        sign = 1.0 if higher_is_better(metric) else -1.0
        items = sorted(next(iter(by_cell.values())))
        tasks = np.unique([task for task, _ in items], return_inverse=True)[1]
        table = {cell: np.array([rows[item] for item in items]) for cell, rows in by_cell.items()}
        sizes = sorted({c.budget for c in table if c.budget})
        arms = {
            (name, size): np.array([table[c] for c in table if c.strategy == name and c.budget == size])
            for name in (RANDOM, strategy)
            for size in sizes
        }
        weights = _weights(tasks)
        # The spread of random halves of a sample is that of the whole sample over repeated draws: the jackknife that
        # leaves out half (Shao and Wu 1989). It holds the noise of training too, so it is rather too large.
        halves = arms[RANDOM, sizes[0]] @ weights
        drawn = float(np.var(halves, ddof=1)) if len(sizes) > 1 and len(halves) > 1 else float("nan")
        base = next((float(v @ weights) for c, v in table.items() if c.strategy == BASE), None)
        for size in sizes:
            designed, control = arms[strategy, size], arms[RANDOM, size]
            mean, error = difference(sign * (designed - control), tasks, drawn)
            seeds = len(designed)
            reach = float(t_quantile((1 - LEVEL) / 2, float(seeds - 1))) * error if seeds > 1 else float("nan")
            known = bool(np.isfinite(reach))
            found.append(
                {
                    "metric": metric,
                    "higher_is_better": sign > 0,
                    "budget": size,
                    "designed": float((designed @ weights).mean()),
                    "control": float((control @ weights).mean()),
                    "base": base,
                    "difference": mean,
                    "low": mean - reach if known else None,
                    "high": mean + reach if known else None,
                    "shown": known and mean - reach > 0,
                }
            )
    return found


def difference(values: FloatArray, tasks: IntArray, drawn: float) -> tuple[float, float]:
    """Mean and standard error of paired differences.

    Args:
        values: (s, n) differences by seed and item.
        tasks: (n,) task of each item, from 0.
        drawn: variance owed to which control was drawn.

    Returns:
        The mean, tasks counting equally; and the root of the variances between items (within tasks), between seeds
        and of the draw. What is left after seed and item counts twice, which makes the error rather too large.
    """
    weights = _weights(tasks)
    by_item, by_seed = values.mean(axis=0), values @ weights
    between = 0.0
    lonely = np.bincount(tasks)[tasks] == 1
    # A task of one item has no spread of its own: such tasks are taken together.
    strata = np.where(lonely, -1, tasks)
    for stratum in np.unique(strata):
        inside = strata == stratum
        count = int(inside.sum())
        spread = float(np.var(by_item[inside], ddof=1)) if count > 1 else float(np.var(by_item, ddof=1))
        between += float((weights[inside] ** 2).sum()) * spread
    seeds = float(np.var(by_seed, ddof=1)) / len(by_seed) if len(by_seed) > 1 else float("nan")
    return float(by_item @ weights), float(np.sqrt(between + seeds + drawn))


def _weights(tasks: IntArray) -> FloatArray:
    """(n,) weights by which every task counts alike, and in it every item."""
    sizes = np.bincount(tasks)
    return 1.0 / (sizes[tasks] * np.count_nonzero(sizes))


def sentences(analysis: Mapping[str, Any], metric: str, control: int, designed: int) -> list[str]:
    """What a comparison with a control says, can show and cannot show.

    Args:
        analysis: as `control` writes it, without ``says``.
        metric: the one that decides.
        control: answers of the control.
        designed: answers of the design.
    """
    strategy, rows = analysis["strategy"], analysis["comparisons"]
    if all(row["metric"] != metric for row in rows):
        metric = rows[0]["metric"]
    found = sorted((row for row in rows if row["metric"] == metric), key=lambda row: -row["budget"])
    says = [_sentence(row, strategy) for row in found]
    most = found[0]["budget"]
    says.append(
        f"This compares {most:,} answers of each arm with the same held-out prompts and training seeds. The intervals "
        "allow for held-out prompts, training seeds and, by the spread of random halves of the control, for which "
        "control happened to be drawn; they hold for this pool."
    )
    if analysis["prefix"]:
        says.append(f"The design is represented by its first {most:,} picks, which are what it picks at that budget.")
    else:
        says.append(
            f"{strategy} picks anew for every budget: random parts of its {designed:,} answered picks stand for it "
            "here, not what it would have picked at these sizes; one that spreads over the pool is understated."
        )
    if analysis["already"]:
        says.append(f"Both arms also train on the {analysis['already']:,} answers that were there before.")
    if analysis["overlap"]:
        says.append(f"{analysis['overlap']:,} prompts are in both arms, which makes them a little more alike.")
    says.append(
        f"It cannot show a saving in per cent, nor what the design gains at its full {designed:,} answers: that would "
        f"take a control as large. A difference at {most:,} need not hold at {designed:,}, and none shown is no proof "
        "that there is none."
        if designed > control
        else "It cannot show a saving in per cent: that would take controls of several sizes."
    )
    return says


def _sentence(row: Mapping[str, Any], strategy: str) -> str:
    gap = f"{row['difference']:+.3g}"
    within = f" [{row['low']:+.3g}, {row['high']:+.3g}]" if row["low"] is not None else ""
    scores = f"{row['metric']} {row['designed']:.4g} against {row['control']:.4g} of the random control"
    if row["low"] is None:
        verdict = "one seed or size gives no interval, so nothing is shown"
    elif row["shown"]:
        verdict = "the design is better"
    elif row["high"] < 0:
        verdict = "the random control is better"
    else:
        verdict = "no difference is shown"
    return f"At {row['budget']:,} answers {strategy} has {scores}: {gap}{within}, {verdict}."
