"""Fine-tuned models and evaluations, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thriftune.report.averages import Average
from thriftune.report.evidence import Evaluation, Tuned
from thriftune.report.findings import MINUS, counted, duration, metric_words


def interval_words(average: Average | None, digits: int = 3) -> str:
    """An average with its interval."""
    if average is None:
        return ""
    mean = f"{average.mean:.{digits}f}"
    if average.low is None or average.high is None:
        return mean
    return f"{mean} [{average.low:.{digits}f}, {average.high:.{digits}f}]".replace("-", MINUS)


def model_view(model: Tuned) -> dict[str, Any]:
    """What the template shows of a fine-tuned model."""
    manifest = model.manifest
    base = manifest.get("base")
    facts = []
    for key, what in (("examples", "example"), ("steps", "step")):
        if isinstance(manifest.get(key), int):
            facts.append(counted(manifest[key], what))
    if isinstance(manifest.get("seconds"), int | float):
        facts.append(duration(float(manifest["seconds"])))
    if manifest.get("selection"):
        facts.append(f"selection {manifest['selection']}")
    if isinstance(base, Mapping) and base.get("model"):
        facts.append(f"from {str(base['model']).rstrip('/').rpartition('/')[2]}")
    final = manifest.get("final_loss")
    if not isinstance(final, int | float):
        final = float(model.loss[-1]) if len(model.loss) else None
    return {"name": model.name, "facts": " · ".join(facts), "final": final}


def evaluation_table(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Columns and rows of the table of evaluations: a row for each suite of tasks that a model was put to."""
    metrics = list(dict.fromkeys(m for e in evaluations for found in e.suites.values() for m in found))
    rows = []
    for e in evaluations:
        model = e.record.get("model")
        if isinstance(model, Mapping):
            model = model.get("spec") or model.get("id") or model.get("name") or model.get("model")
        for suite, found in e.suites.items():
            items, tasks = max((a.items, a.tasks) for a in found.values())
            rows.append(
                {
                    "name": e.name,
                    "model": str(model or "").rstrip("/").rpartition("/")[2],
                    "tuned": bool(e.record.get("adapter")),
                    "suite": suite,
                    "items": items,
                    "tasks": tasks,
                    "values": [interval_words(found.get(m)) for m in metrics],
                }
            )
    columns = [{"name": m, "label": metric_words(m)[0], "unit": metric_words(m)[1]} for m in metrics]
    return {"metrics": columns, "rows": rows}


def judged_words(result: Mapping[str, Any]) -> str:
    """A judge's comparison of two models' answers in one sentence."""
    a, b = result["a"], result["b"]
    text = f"{a} against {b}, judged by {result['judge']} on {counted(result['items'], 'prompt')} in both orders: "
    rate, low, high = (result.get(k) for k in ("win_rate", "low", "high"))
    if rate is None or low is None or high is None:
        return f"{text}no usable verdict."
    found = f"{a} is preferred" if low > 0.5 else f"{b} is preferred" if high < 0.5 else "no difference shown"
    return (
        f"{text}{found}. Won {result['wins']:,}, tied {result['ties']:,}, lost {result['losses']:,}; win rate "
        f"{100 * rate:.0f}\u00a0% [{100 * low:.0f}, {100 * high:.0f}], ties counting half."
    )
