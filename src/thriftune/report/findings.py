"""What was measured, ready for the template: sentences, rows of the tables, colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thriftune.report.analysis import Analysis, Comparison, Difference, Metric
from thriftune.report.evidence import Evidence, Experiment

# name, unit as an axis tells it
METRIC_WORDS = {
    "nll": ("negative log-likelihood", "nats per response token"),
    "exact_match": ("exact match", "share of items"),
    "rouge_l": ("ROUGE-L", "F1, 0 to 1"),
    "acc": ("accuracy", "share of items"),
    "acc_norm": ("length-normalised accuracy", "share of items"),
    "win_rate": ("win rate", "share of items"),
}
_STANDING_WORDS = {
    "better": "saves annotations",
    "worse": "needs more",
    "same": "no saving shown",
    "unknown": "cannot be told",
}
MINUS = "\u2212"
COLOURS = 6
BASELINE = -1  # the colour of the strategy that the rest are measured against


def metric_words(metric: str) -> tuple[str, str]:
    """What a metric is called and measured in; its own name where it is a user's."""
    return METRIC_WORDS.get(metric, (metric, ""))


def palettes(evidence: Evidence, selections: Iterable[str]) -> dict[str, dict[str, int]]:
    """Which of the page's colours each strategy has, by experiment.

    Args:
        evidence: what is shown.
        selections: strategy of each selection on the page, in its order; such a strategy keeps the first one's colour.

    Returns:
        Experiment -> strategy -> index of the colour, `BASELINE` for what the rest is measured against. As far as
        there are colours no two strategies of an experiment share one, and a strategy has the same in all of them.
    """
    liked: dict[str, int] = {}
    for place, strategy in enumerate(selections):
        liked.setdefault(strategy, place % COLOURS)
    found = {}
    for experiment, analysis in evidence.analysed:
        names: dict[str, None] = {}
        for metric in analysis.metrics:
            names |= dict.fromkeys([c.strategy for c in metric.strategies] + [p.strategy for p in metric.curves])
        names.pop(analysis.baseline, None)
        colours: dict[str, int] = {}
        for name in names:
            if name in liked and liked[name] not in colours.values():
                colours[name] = liked[name]
        free = (i for i in range(2 * len(names) + COLOURS) if i not in set(colours.values()))
        for name in names:
            if name not in colours:
                colours[name] = next(free)
                liked.setdefault(name, colours[name])
        found[experiment.name] = {analysis.baseline: BASELINE, **colours}
    return found


def ordered_metrics(experiment: Experiment, analysis: Analysis) -> list[Metric]:
    """The metrics, first the one that the experiment was planned for."""
    primary = analysis.metric or experiment.config.get("metric")
    return sorted(analysis.metrics, key=lambda m: m.metric != primary)


def compared(metric: Metric, analysis: Analysis) -> list[Comparison]:
    """The strategies set against the baseline; those that read task labels stand apart, at the end."""
    return sorted((c for c in metric.strategies if c.strategy != analysis.baseline), key=lambda c: c.reads_tasks)


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"


def share(value: float) -> str:
    """A share of one as whole percents, the sign before it."""
    text = f"{abs(100 * value):.0f}"
    return f"{MINUS if value < 0 and text != '0' else ''}{text}"


def saved_words(c: Comparison) -> str:
    """Annotations saved and their interval, as short as a table needs it."""
    if c.bound == "unidentified" or c.saved is None:
        return "cannot be told"
    # Where the estimate lies beyond what the budgets can express, only the limit on this side is known.
    if c.bound == "at least":
        return "cannot be told" if c.saved_low is None else f"at least {share(c.saved_low)}\u00a0%"
    if c.bound == "at most":
        return "cannot be told" if c.saved_high is None else f"at most {share(c.saved_high)}\u00a0%"
    return f"{share(c.saved)}\u00a0%{_interval(c.saved_low, c.saved_high)}"


def verdict_words(verdict: str) -> str:
    """A verdict as a sentence; a strategy's name at its beginning stays as it is written."""
    text = verdict.strip()
    if text.startswith("no "):
        text = f"N{text[1:]}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _interval(low: float | None, high: float | None, scale: float = 1) -> str:
    """An interval in whole percents; an end that is not known is one that the data do not limit."""
    if low is None and high is None:
        return " [no limit]"
    if low is None or high is None:
        return f" [{share(scale * (low or 0))} or more]" if high is None else f" [{share(scale * high)} or less]"
    return f" [{share(scale * low)}, {share(scale * high)}]"


def duration(seconds: float | None) -> str:
    """Seconds as a person would say them."""
    if seconds is None:
        return "not known"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            value = seconds / size
            return f"{value:.1f}\u00a0{unit}" if value < 10 else f"{value:,.0f}\u00a0{unit}"
    if seconds < 0.01:
        return "<\u00a00.01\u00a0s"
    return f"{seconds:.2g}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"


def experiment_view(evidence: Evidence, experiment: Experiment, colours: Mapping[str, int]) -> dict[str, Any]:
    """What the template shows of an experiment."""
    analysis = experiment.analysis
    view: dict[str, Any] = {
        "name": experiment.name,
        "says": list(experiment.says),
        "about": _about(experiment),
        "metrics": [],
        "warnings": [],
        "warnings_apart": [],
        "costs": None,
    }
    if analysis is None or not analysis.metrics:
        return view
    metrics = ordered_metrics(experiment, analysis)
    largest = max(analysis.budgets, default=0)
    apart = tuple(f"{m.metric}: " for m in metrics[1:])  # warnings of the other metrics stand with their verdicts
    return view | {
        "warnings": [w for w in analysis.warnings if not w.startswith(apart)],
        "warnings_apart": [w for w in analysis.warnings if w.startswith(apart)],
        "baseline": analysis.baseline,
        "level": f"{100 * analysis.level:g}\u00a0%",
        "largest": largest,
        "metrics": [_metric(m, analysis, colours, evidence, largest) for m in metrics],
        "costs": _costs(analysis, evidence, colours),
        "tasks_read": any(c.reads_tasks for m in metrics for c in m.strategies),
        "based": any(m.base is not None and m.base.mean is not None for m in metrics),
        "answering": evidence.answering is not None,
    }


def _about(experiment: Experiment) -> str:
    analysis = experiment.analysis
    if analysis is None or not analysis.metrics:
        if experiment.says:
            return ""
        if not experiment.planned:
            return "It is planned; nothing of it is measured yet."
        left = experiment.planned - experiment.finished
        return (
            f"{experiment.finished:,} of {experiment.planned:,} cells are finished"
            + (", so there is no verdict yet" if left > 0 else ", but they are not analysed yet")
            + ": the same `thriftune bench` command goes on where it stopped."
        )
    names = {p.strategy for m in analysis.metrics for p in m.curves} - {analysis.baseline, "base"}
    parts = [
        f"{counted(len(names), 'strategy', 'strategies')} against {analysis.baseline}",
        f"budgets of {_listed([f'{b:,}' for b in analysis.budgets])} answers",
        counted(len(analysis.seeds), "seed"),
    ]
    held = ""
    if analysis.items:
        of = f" of {counted(analysis.tasks, 'task')}" if analysis.tasks else ""
        held = f" Quality is measured on {counted(analysis.items, 'held-out item')}{of}."
    text = f"{'; '.join(parts)}. Every point is a model fine-tuned on that many answers.{held}"
    if experiment.finished < experiment.planned:
        text += f" So far {experiment.finished:,} of {experiment.planned:,} cells are finished."
    return text[0].upper() + text[1:]


def _metric(
    metric: Metric, analysis: Analysis, colours: Mapping[str, int], evidence: Evidence, largest: int
) -> dict[str, Any]:
    label, unit = metric_words(metric.metric)
    budgets = sorted({d.budget for c in metric.strategies for d in c.differences})
    return {
        "name": metric.metric,
        "label": label,
        "unit": unit,
        "better": "higher" if metric.higher_is_better else "lower",
        "budgets": budgets,
        "rows": [
            {
                "strategy": c.strategy,
                "colour": colours[c.strategy],
                "reads_tasks": c.reads_tasks,
                "standing": c.standing,
                "tag": _STANDING_WORDS[c.standing],
                "verdict": verdict_words(c.verdict),
                "saved": saved_words(c),
                "answers": _answers(c, largest),
                "time": _time(c, largest, evidence),
                "detectable": "" if c.smallest_detectable is None else f"{share(c.smallest_detectable)}\u00a0%",
                "differences": [_difference(c.differences, b) for b in budgets],
            }
            for c in compared(metric, analysis)
        ],
    }


def _answers(c: Comparison, largest: int) -> str:
    """The saving as answers, in place of the baseline's largest budget."""
    if c.bound != "within" or c.saved is None or not largest:
        return ""
    return f"{share(c.saved * largest / 100)}{_interval(c.saved_low, c.saved_high, largest / 100)}"


def _time(c: Comparison, largest: int, evidence: Evidence) -> str:
    if c.bound != "within" or c.saved is None or evidence.answering is None:
        return ""
    sign = MINUS if c.saved < 0 else ""
    return f"{sign}{duration(abs(c.saved) * largest * evidence.answering.seconds)}"


def _difference(differences: Sequence[Difference], budget: int) -> dict[str, str] | None:
    found = next((d for d in differences if d.budget == budget), None)
    if found is None or found.mean is None:
        return None
    standing = "same"
    interval = ""
    if found.low is not None and found.high is not None:
        standing = "better" if found.low > 0 else "worse" if found.high < 0 else "same"
        interval = f"[{signed(found.low)}, {signed(found.high)}]"
    return {"mean": signed(found.mean), "interval": interval, "standing": standing}


def _costs(analysis: Analysis, evidence: Evidence, colours: Mapping[str, int]) -> dict[str, Any] | None:
    costs = analysis.costs
    readers = {c.strategy for m in analysis.metrics for c in m.strategies if c.reads_tasks}
    if not costs.select_seconds and costs.finetune_seconds_mean is None:
        return None
    finetune = costs.finetune_seconds_mean
    answering = evidence.answering
    rows = []
    for strategy, seconds in costs.select_seconds.items():
        # The baseline needs no model.
        score = 0.0 if strategy == analysis.baseline else costs.score_seconds
        total = None if seconds is None or score is None else seconds + score
        rows.append(
            {
                "strategy": strategy,
                "colour": colours.get(strategy, BASELINE),
                "reads_tasks": strategy in readers,
                "score": "–" if strategy == analysis.baseline else duration(score),
                "select": duration(seconds),
                "total": duration(total),
                "share": "" if total is None or not finetune else _times(total / finetune),
                "answers": "" if total is None or answering is None else f"{total / answering.seconds:,.1f}",
            }
        )
    sentences = []
    if finetune is not None:
        sentences.append(f"Fine-tuning one model took {duration(finetune)} on average.")
    if costs.evaluate_seconds_mean is not None:
        sentences.append(f"Evaluating it took {duration(costs.evaluate_seconds_mean)}.")
    if answering is not None:
        of = counted(answering.count, "timed answer")
        sentences.append(f"A person took {duration(answering.seconds)} to answer a prompt (the median of {of}).")
    else:
        sentences.append("No answer in this study was timed, so that people's time is not set against it.")
    return {
        "rows": rows,
        "sentence": " ".join(sentences),
        "finetune": finetune is not None,
        "answering": answering is not None,
    }


def counted(n: int, what: str, many: str = "") -> str:
    return f"{n:,} {what if n == 1 else many or f'{what}s'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "no"


def _times(ratio: float) -> str:
    return "<\u00a00.01\u00a0×" if ratio < 0.005 else f"{ratio:.2f}\u00a0×" if ratio < 10 else f"{ratio:,.0f}\u00a0×"
