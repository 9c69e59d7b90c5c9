from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import RHO, write_bench, write_model

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg

from thriftune.errors import ConfigError
from thriftune.report import drawings
from thriftune.report.beside import write_beside
from thriftune.report.evidence import load_evidence
from thriftune.report.findings import palettes
from thriftune.report.series import experiment_series
from thriftune.study import Study


@pytest.fixture
def series(full_study: Study) -> dict[str, Any]:
    write_bench(full_study)
    evidence = load_evidence(full_study)
    return experiment_series(evidence, palettes(evidence, []))[0]


def _sticks_out(figure: Any) -> bool:
    """Whether anything drawn lies beyond the edge of the figure."""
    canvas = FigureCanvasAgg(figure)
    with drawings.style():
        canvas.draw()
        box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    return bool(min(box.x0, box.y0) < -0.01 or box.x1 > width + 0.01 or box.y1 > height + 0.01)


def test_learning_curves_have_ticks_at_the_budgets_and_show_the_means(series: dict[str, Any]) -> None:
    for metric in series["metrics"]:
        figure = drawings.learning_curves(metric)
        (axes,) = figure.axes
        assert axes.get_xscale() == "log"
        assert axes.get_xticks().tolist() == [50, 100, 200, 400]
        assert len(axes.get_xticks(minor=True)) == 0
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert "random" in lines and "task_diversity (reads task labels)" in lines
        shown = {line["strategy"]: line for line in metric["lines"]}
        assert lines["k_center"].get_ydata() == pytest.approx([p["mean"] for p in shown["k_center"]["points"]])
        assert metric["unit"] == axes.get_ylabel()
        assert not _sticks_out(figure)
    base = [line for line in axes.get_lines() if line.get_label() == "before fine-tuning"]
    assert base[0].get_ydata() == [0.1, 0.1]


def test_savings_lie_on_the_logarithm_of_the_ratio(series: dict[str, Any]) -> None:
    figure = drawings.savings(series)
    (axes,) = figure.axes
    dots = [line for line in axes.get_lines() if line.get_marker() in ("s", "^", "D", "v")]
    placed = sorted(float(line.get_xdata()[0]) for line in dots)
    # rho itself: by both metrics, but for the one that cannot be told.
    expected = sorted(2 * [np.log(RHO[s]) for s in RHO if s not in ("random", "mean_entropy")] + [np.log(0.8)])
    assert placed == pytest.approx(expected, abs=1e-4)
    assert [t.get_text() for t in axes.texts] == ["cannot be told"]
    assert not _sticks_out(figure)


@pytest.mark.parametrize("budgets", [(100,), (100, 110, 121, 5000), (10, 30, 100, 300, 1000, 3000, 10000)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_unusual_grids_can_be_drawn(full_study: Study, budgets: tuple[int, ...], seeds: int) -> None:
    long = "weighted_filtered_facility_location"
    write_bench(full_study, rho={"random": 1.0, long: 1.2, "k_center": 3.0}, budgets=budgets, seeds=seeds)
    evidence = load_evidence(full_study)
    drawn = experiment_series(evidence, palettes(evidence, []))[0]
    for figure in (*map(drawings.learning_curves, drawn["metrics"]), drawings.savings(drawn)):
        assert not _sticks_out(figure)
    axes = drawings.learning_curves(drawn["metrics"][0]).axes[0]
    assert set(axes.get_xticks()) <= set(budgets)
    assert budgets[-1] in axes.get_xticks()


def test_intervals_without_measure_do_not_flatten_the_curves(series: dict[str, Any]) -> None:
    metric = series["metrics"][0]
    means = [p["mean"] for line in metric["lines"] for p in line["points"]]
    metric["lines"][1]["points"][0].update(low=-900.0, high=900.0)
    low, high = drawings.learning_curves(metric).axes[0].get_ylim()
    assert high - low < 4 * (max(means) - min(means))


def test_files_are_the_same_each_time_and_complete(full_study: Study, tmp_path: Path) -> None:
    write_bench(full_study)
    write_model(full_study, "tuned")
    first = write_beside(full_study, tmp_path / "a")
    second = write_beside(full_study, tmp_path / "b")
    assert [f.name for f in first] == [f.name for f in second]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
        if a.suffix == ".svg":
            ET.parse(a)
        if a.suffix == ".png":
            assert a.read_bytes()[16:20] == (1020).to_bytes(4, "big")  # 3.4 inches at 300 dpi
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(f.name for f in first)


def test_tables_hold_the_analysis_in_full(full_study: Study, tmp_path: Path) -> None:
    analysis = write_bench(full_study)
    write_beside(full_study, tmp_path, draw=False)
    with (tmp_path / "bench-savings.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    found = [(m["metric"], c) for m in analysis["metrics"] for c in m["strategies"]]
    assert len(rows) == len(found) == 8
    for row, (metric, c) in zip(rows, found, strict=True):
        assert (row["metric"], row["strategy"], row["verdict"]) == (metric, c["strategy"], c["verdict"])
        assert row["saved"] == ("" if c["saved"] is None else str(c["saved"]))
        assert row["shown"] == str(c["shown"])
    with (tmp_path / "bench-curves.csv").open(encoding="utf-8", newline="") as handle:
        curves = list(csv.DictReader(handle))
    assert len(curves) == 2 * (1 + 5 * 4)
    assert len(curves[1]["seeds"].split()) == 4


def test_metrics_may_be_called_anything(full_study: Study, tmp_path: Path) -> None:
    analysis = write_bench(full_study, rho={"random": 1.0, "k_center": 1.3})
    for metric in analysis["metrics"]:
        metric["metric"] = f"my/../{metric['metric']}:$f$ score"
    write_bench(full_study, rho={"random": 1.0, "k_center": 1.3}, metrics=analysis["metrics"])
    written = write_beside(full_study, tmp_path / "figures")
    assert all(f.parent == tmp_path / "figures" and f.exists() for f in written)


def test_a_file_is_no_directory(full_study: Study, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        write_beside(full_study, tmp_path / "f")
