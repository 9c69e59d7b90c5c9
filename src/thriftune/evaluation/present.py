"""The table that `thriftune evaluate` ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftune.artifacts import read_record, read_table, reading
from thriftune.evaluation.heldout import HELDOUT
from thriftune.evaluation.metrics import higher_is_better
from thriftune.evaluation.summary import Estimate, Summary, changes, columns, paired, summary_of
from thriftune.study import Study

if TYPE_CHECKING:
    from rich.console import Console

_MINUS = "\u2212"
_NLL = "nll"
_TYPES = {**dict.fromkeys(("suite", "task", "item", "metric"), "string"), "value": "double"}


def show(study: Study, file: Path, console: Console) -> None:
    """Print an evaluation: each metric with its interval, and the paired difference against the base model.

    Args:
        study: where it is.
        file: as `evaluate` returned it.
        console: prints it.
    """
    from rich.table import Table

    record, found = _read(file)
    base, why = _base(study, file.stem, record)
    suites = list(dict.fromkeys(suite for suite, _ in found))
    compared = False
    for suite in suites:
        metrics = {metric: values for (name, metric), values in found.items() if name == suite}
        whole = {metric: summary_of(values) for metric, values in metrics.items()}
        items, tasks = max((s.n_items, s.n_tasks) for s in whole.values())
        console.print(
            f"\n{suite}: {_counted(items, 'item')} of {_counted(tasks, 'task')}, {record['model']}", markup=False
        )
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("metric", overflow="fold")
        table.add_column("mean over items", overflow="fold")
        if tasks > 1:
            table.add_column("mean over tasks", overflow="fold")
        table.add_column("", overflow="fold")
        for metric, values in metrics.items():
            summary = whole[metric]
            few = "" if summary.n_items == items else _counted(summary.n_items, "item")
            _line(table, metric, summary, few, tasks)
            before = base and _comparable(suite, metric, record, *base)
            if before and (difference := paired(values, before)) is not None:
                moved = changes(values, before)
                verdict = _verdict(metric, difference, moved["same"] == difference.n_items)
                _line(table, f"  vs {base[0] if base else ''}", difference, verdict, tasks, signed=True)
                compared = True
        console.print(table)
    notes = ["[ ]: 95 % interval over items; another seed of fine-tuning moves the means, too"]
    lower = list(dict.fromkeys(metric for _, metric in found if not higher_is_better(metric)))
    if lower:
        unit = " (nats a token of the known response)"
        notes.append(", ".join(m + unit * (m == _NLL) for m in lower) + ": lower is better")
    if compared:
        notes.append("vs: difference on the same items; unclear: its interval contains 0")
    if why and not compared:
        notes.append(why)
    console.print()
    for note in notes:
        console.print(note, style="dim", soft_wrap=True, markup=False)
    console.print(str(file), soft_wrap=True, markup=False)


def _read(file: Path) -> tuple[dict[str, Any], dict[tuple[str, str], dict[Any, float]]]:
    record = read_record(file)
    with reading(file):
        named = [record["model"], *(part["task"] for part in record.get("parts", []) if "settings" in part)]
        if not all(isinstance(name, str) for name in named) or not isinstance(record.get("base") or {}, dict):
            raise TypeError("its record is no evaluation's")
        return record, columns(read_table(file, types=_TYPES))


def _line(table: Any, label: str, summary: Summary, remark: str, tasks: int, *, signed: bool = False) -> None:
    cells = [_number(summary.items, signed)]
    if tasks > 1:
        cells.append(_number(summary.tasks, signed))
    table.add_row(label, *cells, remark)


def _number(estimate: Estimate, signed: bool) -> str:
    form = "+.3f" if signed else ".3f"
    text = format(estimate.mean, form)
    if estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:{form}}, {estimate.high:{form}}]"
    return text.replace("-", _MINUS)


def _verdict(metric: str, difference: Summary, unchanged: bool) -> str:
    if unchanged:
        return "all the same"
    low, high = difference.items.low, difference.items.high
    if low is None or high is None or low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) == higher_is_better(metric) else "worse"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _base(
    study: Study, name: str, record: Mapping[str, Any]
) -> tuple[tuple[str, Mapping[str, Any], dict[tuple[str, str], dict[Any, float]]] | None, str]:
    """The latest evaluation of the model that this one was fine-tuned from; or what to do to have one."""
    base = record.get("base")
    if not base:
        return None, ""
    for other in reversed(study.evaluations()):
        file = study.evaluation_file(other)
        theirs, values = _read(file)
        same = theirs.get("revision") == base.get("revision") and theirs.get("dtype") == record.get("dtype")
        if other != name and same:
            return (other, theirs, values), (
                f"{other} has no task with the same items and settings: evaluate both models alike for their difference"
            )
    dtype = "" if record.get("dtype") == "float32" else f" --dtype {record.get('dtype')}"
    return None, f"for the difference to the base model: thriftune evaluate {study.quoted} --model base{dtype}"


def _comparable(
    suite: str,
    metric: str,
    record: Mapping[str, Any],
    name: str,
    theirs: Mapping[str, Any],
    found: Mapping[tuple[str, str], dict[Any, float]],
) -> dict[Any, float]:
    """The other evaluation's values of a metric on tasks that had the same items and settings."""
    ours, other = ({p["task"]: p["settings"] for p in r.get("parts", [])} for r in (record, theirs))
    alike = {task for task, settings in ours.items() if other.get(task) == settings}
    if suite == HELDOUT:
        # A token of another tokenizer is another unit.
        if HELDOUT not in alike or (metric == _NLL and record.get("tokenizer") != theirs.get("tokenizer")):
            return {}
        return found.get((suite, metric), {})
    return {key: value for key, value in found.get((suite, metric), {}).items() if key[1] in alike}
