"""What the learning curves, the savings and the losses are drawn from, on the page and in files alike: JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thriftune.report.analysis import Analysis, Comparison, Metric, Point
from thriftune.report.evidence import Evidence, Tuned
from thriftune.report.findings import compared, metric_words, ordered_metrics, saved_words
from thriftune.types import FloatArray

_MOST_STEPS = 400


def experiment_series(evidence: Evidence, colours: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Everything drawn of the experiments.

    Args:
        evidence: what was measured.
        colours: see `findings.palettes`.

    Returns:
        ``name``, ``baseline``, ``level`` and ``metrics`` of each analysed experiment; of each metric its words,
        ``base`` (the model before fine-tuning), ``budgets``, ``lines`` and ``saved``.
    """
    return [
        {
            "name": experiment.name,
            "baseline": analysis.baseline,
            "level": analysis.level,
            "metrics": [_metric(m, analysis, colours[experiment.name]) for m in ordered_metrics(experiment, analysis)],
        }
        for experiment, analysis in evidence.analysed
    ]


def _metric(metric: Metric, analysis: Analysis, colours: Mapping[str, int]) -> dict[str, Any]:
    label, unit = metric_words(metric.metric)
    reads = {c.strategy for c in metric.strategies if c.reads_tasks}
    points: dict[str, list[Point]] = {}
    for p in metric.curves:
        if p.budget > 0 and p.mean is not None:  # a logarithmic axis has no place for the untouched model
            points.setdefault(p.strategy, []).append(p)
    # The baseline first, under the rest.
    names = sorted(points, key=lambda n: (n != analysis.baseline, colours[n]))
    return {
        "metric": metric.metric,
        "label": label,
        "unit": unit,
        "better": "higher" if metric.higher_is_better else "lower",
        "base": None if metric.base is None else _short(metric.base.mean),
        "budgets": sorted({p.budget for found in points.values() for p in found}),
        "lines": [
            {
                "strategy": name,
                "colour": colours[name],
                "reads": name in reads,
                "points": [_point(p) for p in sorted(points[name], key=lambda p: p.budget)],
            }
            for name in names
        ],
        "saved": [_saved(c, colours) for c in compared(metric, analysis)],
    }


def _point(p: Point) -> dict[str, Any]:
    return {
        "budget": p.budget,
        "mean": _short(p.mean),
        "low": _short(p.low),
        "high": _short(p.high),
        "seeds": [_short(s) for s in p.seeds if s is not None],
    }


def _saved(c: Comparison, colours: Mapping[str, int]) -> dict[str, Any]:
    return {
        "strategy": c.strategy,
        "colour": colours[c.strategy],
        "reads": c.reads_tasks,
        "bound": c.bound,
        "standing": c.standing,
        "saved": None if c.bound == "unidentified" else _short(c.saved),
        "low": _short(c.saved_low),
        "high": _short(c.saved_high),
        "detectable": _short(c.smallest_detectable),
        "text": saved_words(c),
    }


def loss_series(models: Sequence[Tuned]) -> list[dict[str, Any]]:
    """The loss of each model against its steps: as noted (averaged in blocks where that is much), and smoothed."""
    return [{"name": m.name, **_losses(m)} for m in models if len(m.loss)]


def _losses(model: Tuned) -> dict[str, Any]:
    block = -(-len(model.loss) // _MOST_STEPS)
    starts = np.arange(0, len(model.loss), block)
    sizes = np.diff([*starts, len(model.loss)])
    loss = np.add.reduceat(model.loss, starts) / sizes
    steps = np.add.reduceat(np.asarray(model.steps, np.float64), starts) / sizes
    reach = len(loss) // 20
    return {
        "steps": [_short(s) for s in steps],
        "loss": [_short(v) for v in loss],
        "smooth": [_short(v) for v in moving_mean(loss, reach)] if reach else None,
        "block": int(block),
        "window": int((2 * reach + 1) * block),
    }


def moving_mean(values: FloatArray, reach: int) -> FloatArray:
    """The mean of each value and the ``reach`` before and after it, as many as there are."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
