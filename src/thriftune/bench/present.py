"""An experiment in words: what will be done, what it costs, how a cell ended, what came out."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftune.artifacts import read_table
from thriftune.bench.design import BASE, RANDOM, Cell, seeds_of
from thriftune.bench.estimate import Rates, duration, passes
from thriftune.bench.plan import Plan
from thriftune.errors import BenchError, StudyError
from thriftune.study import Study

if TYPE_CHECKING:
    from thriftune.bench.power import Noise


def introduction(plan: Plan) -> list[str]:
    """What is compared, on what."""
    config, known = plan.config, plan.known
    others = [arm.name for arm in plan.arms if arm.name != RANDOM]
    sizes = sorted({len(rows) for rows in plan.pools.values()})
    items = sorted({len(ids) for ids in plan.items.values()})
    seeds = [f"{config.seeds} {_plural('seed', config.seeds)}"]
    extra = len(seeds_of(config, RANDOM)) - config.seeds
    if extra:
        seeds.append(f"{extra} more for random")
    left_out = f" ({known.without:,} without one take no part)" if known.without else ""
    lines = [
        f"bench {config.name!r}: {', '.join(others) or 'no strategy'} against random at "
        f"{', '.join(f'{b:,}' for b in config.budgets)} annotations, {' and '.join(seeds)}: {len(plan.cells)} cells",
        f"each seed draws {_span(sizes)} of the {len(known.ids):,} prompts whose response is known{left_out}"
        + (f" and is evaluated on {_span(items)} held-out prompts" if items != [0] else "")
        + f"; fine-tuned: {plan.model['spec']}",
    ]
    if known.held_without and items != [0]:
        lines.append(f"{known.held_without:,} held-out prompts have no known response and are left out")
    return [*lines, *(f"Look at this: {warning}" for warning in plan.warnings)]


def cost(plan: Plan, cells: Sequence[Cell], rates: Rates) -> list[str]:
    """How much is trained, and about how long that takes."""
    config = plan.config
    examples = sum(cell.budget for cell in cells)
    tokens = sum(passes(config.finetune, cell.budget) for cell in cells) * rates.tokens_per_example
    seconds = rates.seconds(cells, config.finetune, config.jobs)
    evaluating = rates.evaluate * len(cells) / config.jobs
    benchmarks = [task for task in config.tasks.split(",") if task.strip() != "heldout"]
    return [
        f"{len(cells)} cells train on {examples:,} examples, {tokens:,.0f} tokens with all epochs: about "
        f"{duration(seconds)} at the speed just measured, {duration(evaluating)} of it to evaluate"
        + (f", {config.jobs} cells at a time" if config.jobs > 1 else "")
        + (f"; {', '.join(benchmarks)} come on top, timed with the first cell" if benchmarks else "")
    ]


def other_precision(plan: Plan, loaded: Mapping[str, Any]) -> list[str]:
    """A caution where the model now computes in another precision than when it scored the pool."""
    scored = plan.model["scored_in"]
    if scored in (None, loaded["dtype"]):
        return []
    return [f"the pool was scored in {scored} and what is fine-tuned computes in {loaded['dtype']}"]


def detectable(plan: Plan, study: Study) -> list[str]:
    """The smallest saving that an experiment of this size can find, by the noise of an earlier one if there is any."""
    from thriftune.bench.power import ASSUMED, detectable_words, smallest_detectable

    metric, items = plan.config.metric, len(plan.items[plan.seeds[0]])
    noise = _noise(study, metric)
    if noise is None and (metric != "nll" or not items):
        return [f"which saving this can detect by {metric} is not known before a first bench has measured its noise"]
    saving = smallest_detectable(
        seeds=plan.config.seeds,
        budgets=plan.config.budgets,
        items=max(items, 1),
        comparisons=max(len(plan.arms) - 1, 1),
        noise=noise or ASSUMED,
    )
    return [detectable_words(saving, noise or ASSUMED)]


def _noise(study: Study, metric: str) -> Noise | None:
    from thriftune.bench.power import noise_of
    from thriftune.evaluation.metrics import higher_is_better

    for name in reversed(study.benches()):
        file = study.bench_directory(name) / "results.parquet"
        with contextlib.suppress(StudyError, BenchError):
            results = read_table(file) if file.exists() else None
            if results is not None and metric in results["metric"].unique().to_pylist():
                found = noise_of(results, metric, higher_is_better(metric))
                if found is not None:
                    return found
    return None


def finished(cell: Cell, record: Mapping[str, Any], number: int, total: int) -> str:
    """One line for a cell that ended well."""
    loss = record.get("final_loss")
    trained = f"trained in {duration(record['finetune_seconds'])}" if cell.budget else "not trained"
    final = f" to a loss of {loss:.3f}" if loss is not None else ""
    return f"{number}/{total} {cell.id}: {trained}{final}, evaluated in {duration(record['evaluate_seconds'])}"


def results(analysis: Mapping[str, Any], study: Path) -> list[str]:
    """The table of the declared metric, the verdicts, what to look at, and the next command."""
    chosen = analysis["metric"]
    one = next(m for m in analysis["metrics"] if m["metric"] == chosen)
    better = "higher" if one["higher_is_better"] else "lower"
    level = f"{analysis['level']:.0%}".replace("%", " %")
    lines = ["", f"{chosen} by annotations, {better} is better; in brackets {level} intervals"]
    lines += _aligned(_table(analysis, one))
    lines += ["", *(s["verdict"] for s in one["strategies"])]
    others = [m["metric"] for m in analysis["metrics"] if m["metric"] != chosen]
    if others:
        lines.append(f"Also measured: {', '.join(others)}; the report has them all.")
    lines += [f"Look at this: {warning}" for warning in analysis["warnings"]]
    return [*lines, f"next: thriftune report {shlex.quote(str(study))} --open"]


def _table(analysis: Mapping[str, Any], one: Mapping[str, Any]) -> list[list[str]]:
    points = {(p["strategy"], p["budget"]): p for p in one["curves"]}
    saved = {s["strategy"]: s for s in one["strategies"]}
    names = dict.fromkeys([analysis["baseline"], *(p["strategy"] for p in one["curves"] if p["strategy"] != BASE)])
    rows = [["", *(f"{b:,}" for b in analysis["budgets"]), "annotations saved"]]
    for name in names:
        cells = [_point(points.get((name, budget))) for budget in analysis["budgets"]]
        rows.append([name, *cells, _saved(saved[name]) if name in saved else ""])
    if one.get("base"):
        rows.append(["before fine-tuning", f"{one['base']['mean']:.4g}", *[""] * len(analysis["budgets"])])
    return rows


def _point(point: Mapping[str, Any] | None) -> str:
    if point is None or point["mean"] is None:
        return "-"
    if point["low"] is None or point["high"] is None:
        return f"{point['mean']:.4g}"
    return f"{point['mean']:.4g} [{point['low']:.4g}, {point['high']:.4g}]"


def _saved(one: Mapping[str, Any]) -> str:
    if one["saved"] is None:
        return "-"
    ends = [f"{end:.0%}" if end is not None else "?" for end in (one["saved_low"], one["saved_high"])]
    prefix = "" if one["bound"] == "within" else f"{one['bound']} "
    return f"{prefix}{one['saved']:.0%} [{', '.join(ends)}]"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _span(sizes: Sequence[int]) -> str:
    return f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
