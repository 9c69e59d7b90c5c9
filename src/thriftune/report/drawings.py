"""Figures for print, drawn with matplotlib from the series that the page draws too."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftune.report.findings import BASELINE, MINUS, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.4  # inches: a column of a two-column page
_STYLE = {
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#454d57",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 7,
    "svg.hashsalt": "thriftune",  # the same figure is the same file
}
_MARKERS = ("s", "^", "D", "v", "p", "h")  # by colour, as on the page
_BASELINE_MARKER = "o"
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 2)), (0, (6, 2, 1, 2)))
_GRID = "#dde1e6"
_INK, _MUTED = "#15181c", "#626b76"
_TICKS = (0, 0.5, -1, 0.75, -0.5, 0.25, -3, 0.875, -0.25, -7)  # the most important first
_MOST = math.log(10)
_LONGEST = 26


def _palette() -> dict[str, str]:
    """The page's colours on white paper, by their names in the style sheet."""
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", css.partition("}")[0]))


def _looks(line: Mapping[str, Any]) -> dict[str, Any]:
    index = line["colour"]
    colour = _MUTED if index == BASELINE else _palette()[f"c{index % 6 + 1}"]
    marker = _BASELINE_MARKER if index == BASELINE else _MARKERS[index % 6]
    return {
        "color": colour,
        "marker": marker,
        "markersize": 4,
        "markerfacecolor": "white" if line["reads"] else colour,
        "markeredgecolor": colour,
        "markeredgewidth": 1,
    }


def _dashes(line: Mapping[str, Any]) -> Any:
    return "-" if line["colour"] == BASELINE else _DASHES[line["colour"] // 6 % len(_DASHES)]


def _named(line: Mapping[str, Any]) -> str:
    return f"{_cut(line['strategy'])} (reads task labels)" if line["reads"] else _cut(line["strategy"])


def _cut(name: str) -> str:
    """A name that leaves room for the figure; a dollar sign is no formula."""
    return (name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…").replace("$", r"\$")


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Settings of matplotlib under which figures are drawn and saved, put back afterwards."""
    import matplotlib as mpl

    # From matplotlib's defaults, whatever the user's own settings are; the backend alone is theirs.
    settings: Any = {**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **_STYLE}
    with mpl.rc_context(settings):
        yield


def save(figure: Figure, file: Path) -> None:
    """Save a figure as its file's suffix says: the same series gives the same file."""
    with style():
        figure.savefig(file, dpi=300, metadata={"Date": None} if file.suffix == ".svg" else None)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def learning_curves(metric: Mapping[str, Any]) -> Figure:
    """Quality against annotations.

    Args:
        metric: one of the metrics of `series.experiment_series`, with at least one budget.

    Returns:
        The figure, a column wide.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    with style():
        lines, budgets = metric["lines"], metric["budgets"]
        rows = -(-(len(lines) + 1) // 2)
        figure, axes = _figure(2.35 + 0.14 * rows)
        ratios = [b / a for a, b in itertools.pairwise(budgets)]
        # Side by side, as far as the nearest two budgets leave room.
        room = min([math.log(r) for r in ratios], default=1.0) * 0.55
        step = min(room / max(len(lines), 1), 0.02 * math.log(max(budgets[-1] / budgets[0], 3)))
        for i, line in enumerate(lines):
            aside = math.exp((i - (len(lines) - 1) / 2) * step)
            looks = _looks(line)
            x = [p["budget"] * aside for p in line["points"]]
            for at, p in zip(x, line["points"], strict=True):
                # Beside their whisker, which would hide them.
                beside = [at * math.exp(0.35 * step)] * len(p["seeds"])
                axes.scatter(beside, p["seeds"], s=5, color=looks["color"], alpha=0.4, linewidths=0)
                if p["low"] is not None and p["high"] is not None:
                    axes.errorbar(
                        [at],
                        [p["mean"]],
                        [[max(p["mean"] - p["low"], 0)], [max(p["high"] - p["mean"], 0)]],
                        color=looks["color"],
                        elinewidth=0.9,
                        capsize=1.8,
                        capthick=0.9,
                        zorder=2,
                    )
            means = [p["mean"] for p in line["points"]]
            axes.plot(x, means, linewidth=1.2, linestyle=_dashes(line), label=_named(line), zorder=3, **looks)
        axes.set_ylim(*_range(lines))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_apart(budgets)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        edge = math.exp(step * len(lines) / 2 + (0.04 * math.log(budgets[-1] / budgets[0]) or 0.25))
        axes.set_xlim(budgets[0] / edge, budgets[-1] * edge)
        axes.set_xlabel("annotations (log scale)")
        axes.set_ylabel(metric["unit"] or _cut(metric["label"]))
        axes.set_title(f"{_cut(metric['label'])}, {metric['better']} is better", loc="left")
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        _base(axes, metric["base"])
        figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=2.4, columnspacing=1.2)
        return figure


def _range(lines: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """What of the quality axis is shown: all means and seeds, and intervals as far as they do not flatten those."""
    points = [p for line in lines for p in line["points"]]
    measured = [v for p in points for v in (p["mean"], *p["seeds"])]
    ends = [v for p in points for v in (p["low"], p["high"]) if v is not None]
    low, high = min(measured), max(measured)
    most = (high - low or abs(high) * 0.1 or 0.1) * 0.75
    low, high = max(low - most, min([low, *ends])), min(high + most, max([high, *ends]))
    edge = 0.06 * (high - low or most)
    # What cannot be negative has no axis below zero.
    floor = -0.5 * edge if min(measured) >= 0 else -math.inf
    return max(low - edge, floor), high + edge


def _apart(budgets: Sequence[int]) -> list[int]:
    """Budgets far enough from each other for their labels; the last always stays."""
    least = math.log(max(budgets[-1] / budgets[0], 1.0001)) / 8
    kept = [budgets[-1]]
    for budget in reversed(budgets[:-1]):
        if math.log(kept[-1] / budget) >= least:
            kept.append(budget)
    return kept[::-1]


def _base(axes: Axes, base: float | None) -> None:
    """The model before fine-tuning as a dashed line, or a note where it lies far off."""
    if base is None:
        return
    low, high = axes.get_ylim()
    reach = 0.6 * (high - low)
    if low - reach < base < high + reach:
        axes.axhline(base, linestyle=(0, (5, 3)), color=_INK, linewidth=0.9, label="before fine-tuning", zorder=1)
        return
    above = base > high
    axes.annotate(
        f"before fine-tuning: {f'{base:.4g}'.replace('-', MINUS)} {'↑' if above else '↓'}",
        (0.99, 0.98 if above else 0.03),  # where learning curves lead away from
        xycoords="axes fraction",
        ha="right",
        va="top" if above else "bottom",
        fontsize=7,
        color=_INK,
    )


def savings(experiment: Mapping[str, Any]) -> Figure:
    """Annotations saved against the baseline: a dot and its interval for every strategy and metric.

    Args:
        experiment: one of `series.experiment_series`, with at least one comparison.

    Returns:
        The figure, a column wide. The axis is logarithmic in the ratio of annotations needed.
    """
    groups = [m for m in experiment["metrics"] if m["saved"]]
    rows: list[tuple[str, Mapping[str, Any] | None]] = []
    for m in groups:
        if len(groups) > 1:
            rows.append((m["label"], None))
        rows += [(s["strategy"], s) for s in m["saved"]]
    with style():
        figure, axes = _figure(0.75 + 0.2 * len(rows))
        ends = [s[key] for _, s in rows if s for key in ("saved", "low", "high", "detectable") if s[key] is not None]
        known = [_scaled(v) for v in ends]
        low = max(-_MOST, min([_scaled(-0.5), *known]) * 1.08)
        high = min(_MOST, max([_scaled(0.5), *known]) * 1.08)
        axes.set_xlim(low, high)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        ticks = _ticks(low, high)
        axes.set_xticks([_scaled(t) for t in ticks], [f"{share(t)} %" for t in ticks])
        axes.grid(axis="x", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.axvline(0, color=_MUTED, linewidth=1)
        for y, (_, s) in enumerate(rows):
            if s is not None:
                _whisker(axes, y, s, low, high)
        axes.set_yticks(range(len(rows)), [_cut(name) for name, _ in rows])
        axes.tick_params(axis="y", length=0, pad=8)
        axes.spines["left"].set_visible(False)
        for label, (_, s) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if s is None else "normal")
        level = f"{100 * experiment['level']:g} % intervals"
        axes.set_xlabel(f"annotations saved against {experiment['baseline']}\n({level}; log of the ratio)", loc="right")
        handles = _keys([s for _, s in rows if s is not None])
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False)
        return figure


def _ticks(low: float, high: float) -> list[float]:
    """Round savings that fit side by side, the most important first."""
    kept: list[float] = []
    for tick in _TICKS:
        at = _scaled(tick)
        if low <= at <= high and all(abs(at - _scaled(k)) >= 0.16 * (high - low) for k in kept):
            kept.append(tick)
    return sorted(kept)


def _scaled(saved: float) -> float:
    return -math.log(max(1 - saved, 1e-9))


def _whisker(axes: Axes, y: int, s: Mapping[str, Any], low: float, high: float) -> None:
    looks = _looks(s)
    if s["saved"] is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text((low + high) / 2, y, "cannot be told", ha="center", va="center", size=7, color=_MUTED, bbox=box)
        return
    if s["detectable"] is not None and _scaled(s["detectable"]) <= high:
        at = _scaled(s["detectable"])
        axes.plot([at, at], [y - 0.32, y + 0.32], color=_MUTED, linewidth=1.1, linestyle=(0, (2, 1.2)))
    open_low = s["low"] is None or _scaled(s["low"]) < low or s["bound"] == "at most"
    open_high = s["high"] is None or _scaled(s["high"]) > high or s["bound"] == "at least"
    left = low if open_low else _scaled(s["low"])
    right = high if open_high else _scaled(s["high"])
    axes.plot([left, right], [y, y], color=looks["color"], linewidth=1.3, solid_capstyle="butt", zorder=2)
    for at, is_open, arrow in ((left, open_low, "<"), (right, open_high, ">")):
        axes.plot([at], [y], marker=arrow if is_open else "|", markersize=5, color=looks["color"], clip_on=False)
    axes.plot([min(max(_scaled(s["saved"]), low), high)], [y], linestyle="none", zorder=3, **{**looks, "markersize": 5})


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    keys = []
    if any(s["detectable"] is not None and s["saved"] is not None for s in rows):
        keys.append(Line2D([], [], marker="|", markersize=7, linestyle="none", color=_MUTED, markeredgewidth=1.1))
        keys[-1].set_label("smallest saving it could have shown")
    if any(s["reads"] for s in rows):
        keys.append(Line2D([], [], marker="o", markerfacecolor="white", linestyle="none", color=_MUTED, markersize=4))
        keys[-1].set_label("reads task labels")
    return keys


def training_loss(model: Mapping[str, Any]) -> Figure:
    """The loss of one model against its steps.

    Args:
        model: one of `series.loss_series`.

    Returns:
        The figure, a column wide.
    """
    with style():
        figure, axes = _figure(2.1)
        colour = _palette()["accent"]
        smooth = model["smooth"]
        noted = "as noted" if model["block"] == 1 else f"mean of {model['block']} steps"
        axes.plot(model["steps"], model["loss"], color=colour, linewidth=0.7, alpha=0.45 if smooth else 1, label=noted)
        if smooth:
            axes.plot(model["steps"], smooth, color=colour, linewidth=1.4, label=f"mean of {model['window']} steps")
            axes.legend(frameon=False)
        axes.set_xlabel("step")
        axes.set_title("training loss", loc="left")
        axes.set_ylabel("nats per response token")
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        return figure
