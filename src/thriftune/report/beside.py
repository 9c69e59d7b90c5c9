"""What lies beside the page: its figures as PNG and SVG, its tables as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftune.artifacts import atomic_path
from thriftune.errors import ConfigError, require
from thriftune.outputs import check_output
from thriftune.report.analysis import Analysis
from thriftune.report.evidence import Evidence, load_evidence
from thriftune.report.findings import palettes
from thriftune.report.series import experiment_series, loss_series
from thriftune.spreadsheet import guard
from thriftune.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAVED = ("saved", "saved_low", "saved_high", "bound", "rho", "rho_low", "rho_high")
_SAVINGS = (*_SAVED, "shown", "smallest_detectable", "verdict")


def write_beside(
    study: Study | str | Path, directory: str | Path, *, selections: Sequence[str] | None = None, draw: bool = True
) -> list[Path]:
    """Write the figures and tables of what was measured in a study.

    Args:
        study: the study or its directory.
        directory: where to, made if need be.
        selections: names of the selections on the page, whose colours their strategies keep; None for all.
        draw: False to write the tables alone, which need no matplotlib.

    Returns:
        The files written, none where nothing was measured.

    Raises:
        ConfigError: ``directory`` is a file.
        StudyError: it is one of a study's own.
        MissingDependency: matplotlib is not installed and there is something to draw.
    """
    study = study if isinstance(study, Study) else Study(study)
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--figures {directory} is a file: name a directory")
    check_output(directory)
    evidence = load_evidence(study)
    written = _tables(evidence, directory)
    if draw:
        names = study.selections() if selections is None else selections
        strategies = [str(study.selection(name)[2].get("strategy")) for name in names]
        written += _figures(evidence, palettes(evidence, strategies), directory)
    return written


def _figures(evidence: Evidence, colours: Mapping[str, Mapping[str, int]], directory: Path) -> list[Path]:
    experiments, losses = experiment_series(evidence, colours), loss_series(evidence.models)
    if not experiments and not losses:
        return []
    require("matplotlib", command="thriftune report --figures", install="'thriftune[figures]'")
    from thriftune.report import drawings

    written: list[Path] = []

    def save(name: str, draw: Callable[[Any], Figure], what: Mapping[str, Any]) -> None:
        figure = draw(what)
        for suffix in (".svg", ".png"):
            file = directory / f"{name}{suffix}"
            with atomic_path(file) as temporary:
                drawings.save(figure, temporary)
            written.append(file)

    for experiment in experiments:
        name = _file_name(experiment["name"])
        for metric in experiment["metrics"]:
            if metric["budgets"]:
                save(f"{name}-curves-{_file_name(metric['metric'])}", drawings.learning_curves, metric)
        if any(metric["saved"] for metric in experiment["metrics"]):
            save(f"{name}-savings", drawings.savings, experiment)
    for model in losses:
        save(f"loss-{_file_name(model['name'])}", drawings.training_loss, model)
    return written


def _tables(evidence: Evidence, directory: Path) -> list[Path]:
    written = []
    for experiment, analysis in evidence.analysed:
        name = _file_name(experiment.name)
        for kind, header, rows in (
            ("savings", ("metric", "strategy", "reads_tasks", *_SAVINGS, "level", "baseline"), _savings(analysis)),
            ("differences", ("metric", "strategy", "budget", "mean", "low", "high"), _differences(analysis)),
            ("curves", ("metric", "strategy", "budget", "mean", "low", "high", "seeds"), _curves(analysis)),
        ):
            file = directory / f"{name}-{kind}.csv"
            with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerow(header)
                writer.writerows([guard(c) if isinstance(c, str) else c for c in row] for row in rows)
            written.append(file)
    return written


def _savings(analysis: Analysis) -> Iterable[list[Any]]:
    for m in analysis.metrics:
        for c in m.strategies:
            values = [getattr(c, column) for column in _SAVINGS]
            yield [m.metric, c.strategy, c.reads_tasks, *values, analysis.level, analysis.baseline]


def _differences(analysis: Analysis) -> Iterable[list[Any]]:
    for m in analysis.metrics:
        for c in m.strategies:
            for d in c.differences:
                yield [m.metric, c.strategy, d.budget, d.mean, d.low, d.high]


def _curves(analysis: Analysis) -> Iterable[list[Any]]:
    for m in analysis.metrics:
        if m.base is not None:
            yield [m.metric, "base", 0, m.base.mean, None, None, ""]
        for p in m.curves:
            yield [
                m.metric,
                p.strategy,
                p.budget,
                p.mean,
                p.low,
                p.high,
                " ".join(f"{s:.6g}" for s in p.seeds if s is not None),
            ]


def _file_name(name: str) -> str:
    """A name as part of a file name: a user's metric may be called anything."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", name).strip("._") or "unnamed"
