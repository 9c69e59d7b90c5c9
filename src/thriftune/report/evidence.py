"""What was measured after selecting: experiments, fine-tuned models and evaluations, read from a study once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from thriftune.artifacts import read_json, read_record, read_table
from thriftune.errors import StudyError
from thriftune.report.analysis import Analysis, read_analysis
from thriftune.report.averages import Average, macro_average
from thriftune.study import Study
from thriftune.types import FloatArray

_SHOWN_MODELS = 12
_SHOWN_EVALUATIONS = 30

Read = TypeVar("Read")


@dataclass(frozen=True)
class Experiment:
    """An experiment of a study.

    Args:
        name: its name.
        plan: its plan.json.
        planned: how many cells it consists of.
        finished: how many of them are there.
        analysis: what it found, or None where it is not analysed yet or cannot be read.
        says: what it says in its own words.
    """

    name: str
    plan: Mapping[str, Any]
    planned: int
    finished: int
    analysis: Analysis | None = None
    says: Sequence[str] = ()

    @property
    def config(self) -> Mapping[str, Any]:
        config = self.plan.get("config")
        return config if isinstance(config, Mapping) else {}


@dataclass(frozen=True, eq=False)
class Tuned:
    """A fine-tuned model.

    Args:
        name: its name.
        manifest: its manifest.json.
        steps: (t,) int64, optimiser steps at which the loss was noted.
        loss: (t,) float64, nats a response token.
    """

    name: str
    manifest: Mapping[str, Any]
    steps: FloatArray
    loss: FloatArray


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: macro averages over tasks.

    Args:
        name: its name.
        record: what made it.
        suites: averages by suite of tasks (held-out prompts, a public benchmark) and metric, in the order of the file.
    """

    name: str
    record: Mapping[str, Any]
    suites: Mapping[str, Mapping[str, Average]]


@dataclass(frozen=True)
class Answering:
    """How long answers took: ``count`` of them were timed, ``seconds`` is their median."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Evidence:
    """Everything measured in a study.

    Args:
        experiments: the latest first.
        models: the latest first.
        evaluations: the latest last.
        judged: what a judge's comparisons of two evaluations came to, as their records say it.
        more_models: older models that are left out.
        answering: how long people took to answer, or None where nobody was timed.
        problems: one sentence for everything that could not be read.
    """

    experiments: Sequence[Experiment] = ()
    models: Sequence[Tuned] = ()
    evaluations: Sequence[Evaluation] = ()
    judged: Sequence[Mapping[str, Any]] = ()
    more_models: int = 0
    answering: Answering | None = None
    problems: Sequence[str] = field(default_factory=list)

    @property
    def analysed(self) -> list[tuple[Experiment, Analysis]]:
        """The experiments that have something to show."""
        return [(e, e.analysis) for e in self.experiments if e.analysis is not None and e.analysis.metrics]


def load_evidence(study: Study) -> Evidence:
    """Read what was measured; what is damaged is named among the problems and left out."""
    problems: list[str] = []

    def read_all(names: Sequence[str], read: Callable[[str], Read]) -> list[Read]:
        found = []
        for name in names:
            try:
                found.append(read(name))
            except StudyError as error:
                problems.append(str(error))
        return found

    models = study.models()[::-1]
    return Evidence(
        experiments=read_all(study.benches()[::-1], lambda name: _experiment(study, name, problems)),
        models=read_all(models[:_SHOWN_MODELS], lambda name: _tuned(study, name)),
        evaluations=read_all(study.evaluations()[-_SHOWN_EVALUATIONS:], lambda name: _evaluation(study, name)),
        judged=read_all(_judged(study), lambda name: _judgement(study, name)),
        more_models=max(0, len(models) - _SHOWN_MODELS),
        answering=_answering(study),
        problems=problems,
    )


def _experiment(study: Study, name: str, problems: list[str]) -> Experiment:
    directory = study.bench_directory(name)
    plan = _object(directory / "plan.json")
    cells = plan.get("cells")
    analysis, found = None, {}
    if (directory / "analysis.json").exists():
        try:
            found = _object(directory / "analysis.json")
            # What a control arm found is told in words alone.
            analysis = read_analysis(directory / "analysis.json") if "metrics" in found or "says" not in found else None
        except StudyError as error:
            problems.append(str(error))
    return Experiment(
        name=name,
        plan=plan,
        planned=len(cells) if isinstance(cells, list) else 0,
        finished=sum(1 for _ in (directory / "cells").glob("[!.]*.parquet")),
        analysis=analysis,
        says=_sentences(found.get("says", plan.get("says"))),
    )


def _sentences(says: Any) -> list[str]:
    if isinstance(says, str):
        return [says]
    return [str(s) for s in says] if isinstance(says, list) else []


def _object(file: Path) -> dict[str, Any]:
    found = read_json(file)
    if not isinstance(found, dict):
        raise StudyError(f"{file} is damaged (no JSON object): restore it from a copy or remove it and rerun")
    return found


def _columns(file: Path, names: list[str]) -> dict[str, Any]:
    """Columns of a Parquet artifact as arrays.

    Raises:
        StudyError: it is damaged or lacks one of them.
    """
    table = read_table(file)
    missing = [n for n in names if n not in table.column_names]
    if missing:
        raise StudyError(f"{file} is damaged (no column {missing[0]!r}): remove it and rerun the stage that makes it")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in names}


def _tuned(study: Study, name: str) -> Tuned:
    directory = study.model_directory(name)
    log = _columns(directory / "log.parquet", ["step", "loss"])
    loss = np.asarray(log["loss"], np.float64)
    known = np.isfinite(loss)
    return Tuned(name, _object(directory / "manifest.json"), np.asarray(log["step"])[known], loss[known])


def _evaluation(study: Study, name: str) -> Evaluation:
    file = study.evaluation_file(name)
    rows = _columns(file, ["suite", "task", "metric", "value"])
    suites, metrics = rows["suite"].astype(str), rows["metric"].astype(str)
    values = np.asarray(rows["value"], np.float64)
    found: dict[str, dict[str, Average]] = {}
    for suite, metric in dict.fromkeys(zip(suites.tolist(), metrics.tolist(), strict=True)):
        at = (suites == suite) & (metrics == metric)
        average = macro_average(rows["task"][at], values[at])
        if average is not None:
            found.setdefault(suite, {})[metric] = average
    return Evaluation(name, read_record(file), found)


def _judged(study: Study) -> list[str]:
    return sorted(p.name for p in (study.path / "evaluations").glob("[!.]*.judgements.parquet"))


def _judgement(study: Study, name: str) -> Mapping[str, Any]:
    file = study.path / "evaluations" / name
    result = read_record(file).get("result")
    if not isinstance(result, Mapping) or not {"a", "b", "judge", "items", "wins", "ties", "losses"} <= set(result):
        raise StudyError(
            f"{file} is damaged (no result in its record): remove it and run the same thriftune judge again"
        )
    return result


def _answering(study: Study) -> Answering | None:
    seconds = [
        a.seconds
        for a in study.annotations.in_force()
        if a.status == "final" and a.source == "human" and a.seconds is not None and a.seconds > 0
    ]
    return Answering(len(seconds), float(np.median(seconds))) if seconds else None
