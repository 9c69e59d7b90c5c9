"""What an experiment found: all cells as one table, its analysis, and what everything cost."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thriftune.artifacts import provenance, read_json, read_table, write_json, write_table
from thriftune.bench import cells as cell_files
from thriftune.bench.design import BASE, RANDOM, Cell
from thriftune.bench.plan import Plan
from thriftune.errors import BenchError, StudyError
from thriftune.study import Study


def conclude(
    study: Study,
    plan: Plan,
    directory: Path,
    stored: Mapping[str, Any],
    records: Mapping[Cell, Mapping[str, Any]],
    errors: Mapping[Cell, str],
) -> dict[str, Any]:
    """Write results.parquet and analysis.json of the arms all of whose cells are there.

    Args:
        study: for what scoring took.
        plan: arms and cells.
        directory: of the bench.
        stored: plan.json.
        records: of the finished cells.
        errors: why the other cells failed.

    Returns:
        The analysis.

    Raises:
        BenchError: random or the untouched model failed.
    """
    import pyarrow as pa

    from thriftune.bench.efficiency import analyse
    from thriftune.evaluation.metrics import higher_is_better

    out = sorted({cell.strategy for cell in errors})
    if BASE in out or RANDOM in out:
        lost = next(cell for cell in errors if cell.strategy in (BASE, RANDOM))
        raise BenchError(
            f"cell {lost.id} failed, without which nothing can be compared: {errors[lost]}; the same command tries it "
            f"again (traceback in {directory / 'errors'})"
        )
    kept = [cell for cell in plan.cells if cell.strategy not in out]
    results = pa.concat_tables([read_table(cell_files.cell_file(directory, cell)) for cell in kept])
    results = results.replace_schema_metadata(None)
    write_table(directory / "results.parquet", results, provenance(stage="bench", name=plan.config.name))
    metrics = {m: higher_is_better(m) for m in dict.fromkeys(results["metric"].to_pylist())}
    reads_tasks = frozenset(arm.name for arm in plan.arms if arm.reads_tasks)
    declared = plan.config.metric if plan.config.metric in metrics else next(iter(metrics))
    others = {metric: higher for metric, higher in metrics.items() if metric != declared}
    # Two families: what was declared before looking is not widened by what was measured besides.
    found = analyse(results, metrics={declared: metrics[declared]}, baseline=RANDOM, reads_tasks=reads_tasks)
    if others:
        besides = analyse(results, metrics=others, baseline=RANDOM, reads_tasks=reads_tasks)
        found["metrics"] += besides["metrics"]
        found["warnings"] += [w for w in besides["warnings"] if w not in found["warnings"]]
    warnings = [*stored["warnings"], *_extended(stored), *found["warnings"]]
    if declared != plan.config.metric:
        warnings.append(
            f"the metric {plan.config.metric!r} that was to decide was not measured: {declared} takes its place "
            f"(there: {', '.join(metrics)})"
        )
    warnings += [f"{name} is left out: {sum(c.strategy == name for c in errors)} of its cells failed" for name in out]
    analysis = {
        "name": plan.config.name,
        **found,
        "warnings": warnings,
        "metric": declared,
        "costs": _costs(study, plan, records),
    }
    write_json(directory / "analysis.json", analysis)
    return analysis


def _extended(stored: Mapping[str, Any]) -> list[str]:
    return [
        f"{len(note['cells'])} cells were added on {note['created'][:10]} when {note['finished_cells']} were finished: "
        "if results were looked at before, the intervals are too narrow"
        for note in stored["extensions"]
        if note["finished_cells"]
    ]


def _costs(study: Study, plan: Plan, records: Mapping[Cell, Mapping[str, Any]]) -> dict[str, Any]:
    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    run = {cell: r for cell, r in records.items() if not r.get("reused")}
    scored = None
    if plan.arms[0].run is not None:
        with contextlib.suppress(StudyError):
            manifest = read_json(study.score_directory(plan.arms[0].run) / "manifest.json")
            scored = manifest.get("run", {}).get("seconds")
    chosen = {
        a.name: mean([r["select_seconds"] for c, r in records.items() if c.strategy == a.name]) for a in plan.arms
    }
    return {
        "score_seconds": scored,
        "select_seconds": chosen,
        "finetune_seconds_mean": mean([r["finetune_seconds"] for cell, r in run.items() if cell.budget]),
        "evaluate_seconds_mean": mean([r["evaluate_seconds"] for r in run.values()]),
    }
