"""Numbers by task and group from per-item results, by lm-evaluation-harness' own rules."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from thriftune.evaluation.harness_tasks.catalogue import Wanted, children, harness_root, index, members, quiet

if TYPE_CHECKING:
    import pyarrow as pa


def aggregate(rows: pa.Table, wanted: Sequence[Wanted], *, data: str | None = None) -> pa.Table:
    """Numbers by task and group, by the harness' own rules (MMLU: mean over all questions).

    Args:
        rows: task, item, metric, value: one row per item and metric.
        wanted: what was asked for, from `resolve`.
        data: as for `resolve`.

    Returns:
        task, metric, value, stderr (null where the harness gives none) and items: groups before the tasks in them. A
        metric whose aggregate is no function of the stored values is left out.
    """
    import pyarrow as pa

    harness_root()
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows.to_pylist():
        values.setdefault((row["task"], row["metric"]), []).append(row["value"])
    found: list[dict[str, Any]] = []
    for one in wanted:
        entries = index(data, one.name)
        with quiet():
            measured = {leaf.name: _measured(entries[leaf.name].cfg or {}, leaf.label, values) for leaf in one.leaves}
            for group in _groups(entries, one.name):
                found += _lines(group + one.suffix, _grouped(entries, group, measured))
        for leaf in one.leaves:
            found += _lines(leaf.label, measured[leaf.name])
    schema = {
        "task": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "stderr": pa.float64(),
        "items": pa.int64(),
    }
    distinct = {(line["task"], line["metric"]): line for line in found}
    return pa.Table.from_pylist(list(distinct.values()), schema=pa.schema(list(schema.items())))


def metric_name(metric: str, filter_name: str, filters: Sequence[str]) -> str:
    """The harness' metric; with the filter of answers behind it only where a task has several."""
    return metric if len(filters) < 2 else f"{metric},{filter_name}"


def _filters(config: dict[str, Any]) -> list[str]:
    return [f["name"] for f in config.get("filter_list") or []] or ["none"]


def _measured(config: dict[str, Any], label: str, values: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    """What the harness computes for one task: ``metric,filter``, its standard error, and the number of items."""
    registry = importlib.import_module("lm_eval.api.registry")
    metrics = importlib.import_module("lm_eval.api.metrics")
    declared = {str(m["metric"]): m.get("aggregation") for m in config.get("metric_list") or []}
    result: dict[str, Any] = {"sample_len": 0}
    filters = _filters(config)
    for (task, stored), numbers in values.items():
        if task != label:
            continue
        metric, _, kept = stored.partition(",")
        name = declared.get(metric) or "mean"
        try:
            combine = registry.get_aggregation(name)
            result[f"{metric},{kept or filters[0]}"] = float(combine(numbers))
        except (KeyError, TypeError, ValueError):
            continue
        error = metrics.stderr_for_metric(combine, bootstrap_iters=1) if combine is metrics.mean else None
        result[f"{metric}_stderr,{kept or filters[0]}"] = error(numbers) if error and len(numbers) > 1 else "N/A"
        result["sample_len"] = max(result["sample_len"], len(numbers))
    return result


def _groups(entries: dict[str, Any], name: str) -> Iterator[str]:
    if entries[name].kind.name == "GROUP":
        yield name
        for child in children(entries[name]):
            yield from _groups(entries, child)


def _grouped(entries: dict[str, Any], name: str, measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The harness' own aggregation over the tasks of a group."""
    api = importlib.import_module("lm_eval.api.group")
    leaves = [SimpleNamespace(task_name=leaf) for leaf in dict.fromkeys(members(entries, name))]
    kept = {"group", "group_alias", "task", "aggregate_metric_list", "metadata"}
    group = api.Group.from_config({k: v for k, v in entries[name].cfg.items() if k in kept})
    group.get_all_tasks = lambda recursive=True: leaves
    present = {leaf: numbers for leaf, numbers in measured.items() if numbers["sample_len"]}
    return dict(group.aggregate(present))


def _lines(label: str, numbers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    keys = [k for k in numbers if "," in k and "_stderr," not in k]
    filters = sorted({k.partition(",")[2] for k in keys})
    for key in keys:
        metric, _, kept = key.partition(",")
        error = numbers.get(f"{metric}_stderr,{kept}")
        yield {
            "task": label,
            "metric": metric_name(metric, kept, filters),
            "value": float(numbers[key]),
            "stderr": float(error) if isinstance(error, float) else None,
            "items": numbers["sample_len"],
        }
