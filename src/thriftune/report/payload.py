"""What the scripts of the page draw: the figures' numbers as JSON values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thriftune import geometry
from thriftune.report.figures import Coverage, histogram, shown_points
from thriftune.report.material import Material
from thriftune.report.reasons import SCORE_WORDS

LISTED_TASKS = 40
_COLOURED_TASKS = 6
_BACKGROUND = 4000
_MOST_POINTS = 20_000
_SNIPPET_BYTES = 1_000_000


def payload(
    material: Material,
    covered: Coverage | None,
    correlations: Mapping[str, float | None],
    shares: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What the scripts draw, as JSON values.

    Args:
        material: the study.
        covered: the coverage curves, or None without embeddings.
        correlations: of every score with prompt length.
        shares: of every task, the most common first.

    Returns:
        ``selections``, ``columns`` (histograms), ``points`` (map and scatter plot), ``coverage``, ``tasks`` and what
        the page says of them.
    """
    picks = material.picks
    columns: dict[str, Any] = {}
    for name, column in {**material.scores, "length": material.lengths.astype(np.float64)}.items():
        counted = histogram(column, picks, logarithmic=name == "length")
        if counted is None:
            continue
        counted["edges"] = [_short(e) for e in counted["edges"]]
        label, unit, meaning = SCORE_WORDS.get(name, ("prompt length", material.length_unit, "on a logarithmic axis"))
        quantiles = np.quantile(column[np.isfinite(column)], np.linspace(0, 1, 101))
        columns[name] = {
            **counted,
            "label": label,
            "unit": unit,
            "meaning": meaning,
            "logarithmic": name == "length",
            "quantiles": [_short(q) for q in quantiles],
            "rho": correlations.get(name),
        }
    points, selections = _points(material, [s["task"] for s in shares])
    return {
        "selections": selections,
        "columns": columns,
        "points": points,
        "shown": {"background": len(points["sample"]), "picks": max((s["drawn"] for s in selections), default=0)},
        "length_unit": material.length_unit,
        "coverage": None if covered is None else _curves(covered),
        "tasks": shares[:LISTED_TASKS],
        "first": max(len(selections) - 1, 0),  # the latest is what the user is at work on
        "coloured": [s["task"] for s in shares[:_COLOURED_TASKS]],
    }


def _curves(covered: Coverage) -> dict[str, Any]:
    return {
        "budgets": covered.budgets,
        "random": {
            "mean": [_short(v) for v in covered.random.mean(axis=0)],
            "low": [_short(v) for v in covered.random.min(axis=0)],
            "high": [_short(v) for v in covered.random.max(axis=0)],
        },
        "selections": {name: [_short(v) for v in curve] for name, curve in covered.selections.items()},
    }


def _points(material: Material, tasks: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The prompts that the map and the scatter plot draw, and which of them each selection picked."""
    rows, sample = shown_points(len(material), list(material.picks.values()), _BACKGROUND, _MOST_POINTS)
    place = {int(row): i for i, row in enumerate(rows)}
    snippet = min(120, max(24, _SNIPPET_BYTES // max(len(rows), 1)))
    x: list[int] | None = None
    y: list[int] | None = None
    variance = 0.0
    if material.embeddings is not None:
        flat = geometry.plane(material.embeddings)
        centred = material.embeddings - material.embeddings.mean(axis=0)
        total = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64))
        variance = float(np.einsum("ij,ij->", flat, flat, dtype=np.float64)) / total if total > 0 else 0.0
        low, high = flat.min(axis=0), flat.max(axis=0)
        # One scale for both axes, so that distances on the map are distances in the plane.
        scaled = (flat[rows] - (low + high) / 2) / max(float((high - low).max()), 1e-12) * 4000
        x, y = np.rint(scaled[:, 0]).astype(int).tolist(), np.rint(-scaled[:, 1]).astype(int).tolist()
    number_of = {task: i for i, task in enumerate(tasks)}
    points = {
        "id": [str(i)[:80] for i in material.ids[rows]],
        "text": material.starts(rows, snippet),
        "task": None if material.tasks is None else [number_of[t] for t in material.tasks[rows]],
        "names": list(tasks),
        "length": material.lengths[rows].tolist(),
        "scores": {name: [_short(v) for v in column[rows]] for name, column in material.scores.items()},
        "x": x,
        "y": y,
        "variance": variance,
        "sample": [place[int(r)] for r in sample],
        "answered": [i for i, row in enumerate(rows) if material.annotated[row]],
    }
    selections = []
    for c in material.chosen:
        # Where not all picks fit, a later one may still be among the background; the first ones are what is promised.
        drawn = [place[int(r)] for r in itertools.takewhile(lambda r: int(r) in place, c.rows)]
        selections.append(
            {"name": c.name, "strategy": c.strategy, "picked": len(c.rows), "drawn": len(drawn), "points": drawn}
        )
    return points, selections


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
