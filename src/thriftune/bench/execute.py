"""Running the cells that are not finished, reporting each, and keeping those that fail from stopping the others."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftune.artifacts import provenance, read_object, write_json
from thriftune.bench import cells as cell_files
from thriftune.bench import present, workers
from thriftune.bench.design import Cell, digest
from thriftune.bench.estimate import Rates, duration
from thriftune.bench.ray_crew import RayCrew
from thriftune.config import BenchConfig
from thriftune.errors import BenchError
from thriftune.study import Study

Say = Callable[[str], None]
Crew = workers.Here | workers.Crew | RayCrew
_SETTINGS = {"finetune", "tasks", "generate", "max_new_tokens", "scorer", "limit", "data", "num_fewshot", "annotations"}
_PROBED = 256  # examples whose tokens are counted for the estimate


@dataclass(frozen=True)
class Job:
    """One cell and what it takes.

    Args:
        cell: which.
        ids: prompts to train on.
        items: held-out prompts to evaluate on.
        select_seconds: what choosing them took.
        salt: whatever else the result depends on.
    """

    cell: Cell
    ids: list[str]
    items: list[str]
    select_seconds: float = 0.0
    salt: str = ""

    @property
    def key(self) -> str:
        """Equal for cells that are the same computation: same prompts, same seed of training, same items."""
        return digest([sorted(self.ids), self.cell.seed if self.ids else None, self.items, self.salt])

    @property
    def details(self) -> dict[str, Any]:
        return {"key": self.key, "select_seconds": self.select_seconds, "items": len(self.items)}


def open_crew(study: Study, config: BenchConfig, model: Mapping[str, Any]) -> Crew:
    """Who runs cells: this process, ``config.jobs`` others, or a Ray cluster. Close it when done."""
    setup = workers.Setup(study.path, config.model_dump(mode="json"), dict(model))
    if config.ray is not None:
        return RayCrew(setup, config.jobs, config.ray)
    return workers.Here(setup) if config.jobs == 1 else workers.Crew(setup, config.jobs)


def probe(crew: Crew, ids: Sequence[str], items: Sequence[str]) -> tuple[Rates, dict[str, Any]]:
    """Load the model and time it.

    Args:
        crew: who will run the cells.
        ids: prompts that may be trained on.
        items: held-out prompts of a cell.

    Returns:
        The speed, and what was loaded (see `model.LanguageModel.resolved`).

    Raises:
        BenchError: the model cannot be loaded, trained or evaluated.
    """
    some = random.Random(0).sample(sorted(ids), min(_PROBED, len(ids)))
    outcome = next(iter(crew.outcomes([("probe", (some, list(items)))])))
    if outcome.value is None:
        raise BenchError(told(outcome))
    return Rates.of_probe(outcome.value, len(items)), outcome.value["loaded"]


def salt_of(config: BenchConfig, loaded: Mapping[str, Any]) -> str:
    """What the results of all cells depend on besides their prompts and seed: settings, and the model as loaded."""
    settings = config.model_dump(mode="json", include=_SETTINGS)
    return digest([settings, {key: loaded.get(key) for key in ("revision", "dtype", "device")}])


def told(outcome: workers.Outcome) -> str:
    """An error for a person; with its traceback where it is a bug."""
    return f"{outcome.error}\n{outcome.trace}" if outcome.trace else str(outcome.error)


def execute(
    config: BenchConfig, directory: Path, crew: Crew, jobs: Sequence[Job], rates: Rates, say: Say
) -> tuple[dict[Cell, dict[str, Any]], dict[Cell, str]]:
    """Run the jobs whose cells are not finished.

    Args:
        config: of the bench.
        directory: of the bench.
        crew: who runs them.
        jobs: in the order to run.
        rates: what they are expected to cost.
        say: gets a line for every cell that ends.

    Returns:
        Records of the finished cells, and the errors of the others.

    Raises:
        BenchError: no cell can run.
    """
    records: dict[Cell, dict[str, Any]] = {}
    errors: dict[Cell, str] = {}
    for job in jobs:
        found = cell_files.finished(directory, job.cell)
        if found is not None and found.get("key") == job.key:
            records[job.cell] = found
    first = {record["key"]: cell for cell, record in records.items()}
    todo: list[Job] = []
    copies: list[Job] = []
    for job in jobs:
        if job.cell not in records:
            (copies if job.key in first else todo).append(job)
            first.setdefault(job.key, job.cell)
    if records and todo:
        say(f"{len(records)} of {len(jobs)} cells are finished already")
    elif records and not copies:
        say(f"all {len(records)} cells are finished: nothing to compute")
    left = {job.cell for job in todo}
    began, before, here = time.monotonic(), len(records), list[dict[str, Any]]()
    for outcome in crew.outcomes([("run", (job.cell, job.ids, job.items, job.details)) for job in todo]):
        cell = todo[outcome.number].cell
        left.discard(cell)
        if outcome.value is None:
            if outcome.fatal:
                raise BenchError(told(outcome))
            errors[cell] = str(outcome.error)
            note_error(directory, cell, errors[cell], outcome.trace)
            say(f"{cell.id} FAILED: {outcome.error}")
            continue
        error_file(directory, cell).unlink(missing_ok=True)
        records[cell] = outcome.value
        here.append(outcome.value)
        to_go = rates.refined(here).seconds(left, config.finetune, min(config.jobs, max(len(left), 1)))
        say(
            present.finished(cell, outcome.value, before + len(here), len(jobs) - len(copies))
            + (f"; about {duration(to_go)} left" if left else f"; {duration(time.monotonic() - began)} in all")
        )
    for job in copies:
        source = first[job.key]
        if source in records:
            records[job.cell] = cell_files.copy(directory, source, job.cell, job.details)
            error_file(directory, job.cell).unlink(missing_ok=True)
        else:
            errors[job.cell] = f"it is the same as {source.id}, which failed"
            note_error(directory, job.cell, errors[job.cell], None)
    return records, errors


def error_file(directory: Path, cell: Cell) -> Path:
    return directory / "errors" / f"{cell.id}.json"


def note_error(directory: Path, cell: Cell, error: str, trace: str | None) -> None:
    """Keep why a cell failed, until it ends well."""
    write_json(error_file(directory, cell), provenance(cell=cell.id, error=error, traceback=trace))


def estimate_of(rates: Rates, jobs: Sequence[Cell], config: BenchConfig) -> dict[str, Any]:
    """What plan.json says of the expected cost."""
    return {
        "cells": len(jobs),
        "tokens_per_example": rates.tokens_per_example,
        "train_seconds_per_token": rates.train,
        "evaluate_seconds_per_cell": rates.evaluate,
        "seconds_around": rates.around,
        "seconds": rates.seconds(jobs, config.finetune, config.jobs),
    }


def planned_rates(directory: Path) -> Rates:
    """The speed measured when the bench was planned."""
    measured = read_object(directory / "plan.json", estimate=dict)["estimate"]
    return Rates(
        measured["tokens_per_example"],
        measured["train_seconds_per_token"],
        measured["evaluate_seconds_per_cell"],
        measured["seconds_around"],
    )
