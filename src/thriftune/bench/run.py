"""`thriftune bench`: plan, estimate, choose, then cell after cell. The same command continues an interrupted run."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftune.artifacts import provenance, read_json, write_json
from thriftune.bench import cells as cell_files
from thriftune.bench import plan as plans
from thriftune.bench import present, workers
from thriftune.bench.conclude import conclude
from thriftune.bench.design import BASE, Cell, digest
from thriftune.bench.estimate import Rates, duration
from thriftune.bench.holder import held
from thriftune.bench.picks import Chosen, Failed, choose
from thriftune.bench.plan import Plan
from thriftune.config import BenchConfig
from thriftune.errors import BenchError
from thriftune.study import Study

Say = Callable[[str], None]
_PROBED = 256  # examples whose tokens are counted for the estimate


@dataclass(frozen=True)
class Job:
    """One cell and what it takes: ids to train on, items to evaluate on, and what names its result."""

    cell: Cell
    ids: list[str]
    items: list[str]
    key: str
    select_seconds: float


def bench(
    study: Study, config: BenchConfig, *, dry_run: bool = False, extend: bool = False, say: Say = print
) -> dict[str, Any] | None:
    """Compare strategies on a pool whose responses are known.

    Args:
        study: with known responses, a hold-out and a score run.
        config: what to compare and how.
        dry_run: measure the speed and print the plan; nothing is written.
        extend: let this call add arms, budgets or seeds to an experiment already begun.
        say: receives the lines meant for people.

    Returns:
        The analysis (see docs/artifacts.md), or None after a dry run.

    Raises:
        BenchError: the experiment is impossible or differs from the one on record, another process holds it, or cells
            failed (after everything else has run).
    """
    plan = plans.make(study, config)
    directory = study.bench_directory(config.name)
    for line in present.introduction(plan):
        say(line)
    if dry_run:
        with contextlib.closing(_crew(study, plan, None)) as crew:
            rates, _ = _probe(plan, crew)
        for line in [*present.cost(plan, plan.cells, rates), *present.detectable(plan, study)]:
            say(line)
        return None
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(study, config.name, directory))
        stored = read_json(directory / "plan.json") if (directory / "plan.json").exists() else None
        new = plans.same(stored, plan, directory, extend=extend) if stored is not None else []
        records = {cell: record for cell in plan.cells if (record := cell_files.finished(directory, cell))}
        left = [cell for cell in plan.cells if cell not in records]
        rates: Rates | None = None
        if stored is not None and left:
            plans.check_computes(stored, config.name)
        crew = stack.enter_context(contextlib.closing(_crew(study, plan, stored)))
        if stored is None:
            rates, loaded = _probe(plan, crew)
            estimate = {
                "cells": len(left),
                **rates.__dict__,
                "seconds": rates.seconds(left, config.finetune, config.jobs),
            }
            for line in [*present.cost(plan, left, rates), *present.detectable(plan, study)]:
                say(line)
            write_json(directory / "plan.json", plans.record_of(plan, loaded, estimate))
            stored = read_json(directory / "plan.json")
        elif new:
            stored = plans.write_extended(directory / "plan.json", stored, plan, new, len(records))
        if left:
            chosen, failed = choose(study, plan, directory)
            rates = rates or _known_rates(stored)
            _run(plan, directory, crew, records, _jobs(plan, chosen), failed, rates, say)
        elif records:
            say(f"all {len(records)} cells are finished; nothing to compute")
        errors = {cell: _error(directory, cell) for cell in plan.cells if cell not in records}
        analysis = conclude(study, plan, directory, stored, records, errors)
    for line in present.results(analysis, config.metric, study.path):
        say(line)
    if errors:
        first = next(iter(errors))
        raise BenchError(
            f"{len(errors)} of {len(plan.cells)} cells failed, the first {first.id}: {errors[first]}; the others are "
            f"kept, the same command tries these again (tracebacks in {directory / 'errors'})"
        )
    return analysis


def _crew(study: Study, plan: Plan, stored: Mapping[str, Any] | None) -> workers.Here | workers.Crew:
    begun = {} if stored is None else {key: stored["model"][key] for key in ("revision", "dtype", "device")}
    setup = workers.Setup(study.path, plan.config.model_dump(mode="json"), {**plan.model, **begun})
    return workers.Here(setup) if plan.config.jobs == 1 else workers.Crew(setup, plan.config.jobs)


def _probe(plan: Plan, crew: workers.Here | workers.Crew) -> tuple[Rates, dict[str, Any]]:
    """Load the model and time it."""
    some = random.Random(0).sample(sorted(plan.known.ids), min(_PROBED, len(plan.known.ids)))
    items = plan.items[plan.seeds[0]]
    outcome = next(iter(crew.outcomes([("probe", (some, items))])))
    if outcome.value is None:
        raise BenchError(f"{outcome.error}{_trace(outcome.trace)}")
    return Rates.of_probe(outcome.value, len(items)), outcome.value["loaded"]


def _trace(trace: str | None) -> str:
    return f"\n{trace}" if trace else ""


def _known_rates(stored: Mapping[str, Any]) -> Rates:
    measured = stored["estimate"]
    return Rates(measured["tokens_per_example"], measured["train"], measured["evaluate"])


def _jobs(plan: Plan, chosen: Chosen) -> dict[Cell, Job]:
    """The cells whose arm has chosen, with all that they need."""
    jobs = {}
    for cell in plan.cells:
        items = plan.items[cell.seed]
        if cell.strategy == BASE:
            ids, seconds = [], 0.0
        elif (cell.strategy, cell.seed) in chosen:
            picked = chosen[cell.strategy, cell.seed][cell.budget]
            ids, seconds = picked.ids, picked.seconds
        else:
            continue
        # Cells that train on the same prompts with the same seed, evaluated on the same items, are one computation.
        key = digest([sorted(ids), cell.seed if ids else None, items])
        jobs[cell] = Job(cell, ids, items, key, seconds)
    return jobs


def _run(
    plan: Plan,
    directory: Path,
    crew: workers.Here | workers.Crew,
    records: dict[Cell, dict[str, Any]],
    jobs: Mapping[Cell, Job],
    failed: Failed,
    rates: Rates,
    say: Say,
) -> None:
    """Run what is left; ``records`` grows with every cell that ends well."""
    config = plan.config
    for cell in plan.cells:
        if (cell.strategy, cell.seed) in failed and cell not in records:
            _note_error(directory, cell, failed[cell.strategy, cell.seed], None)
            say(f"{cell.id} cannot run: {failed[cell.strategy, cell.seed]}")
    source = {records[cell]["key"]: cell for cell in records}
    todo: list[Job] = []
    copies: list[Job] = []
    for cell, job in jobs.items():
        if cell not in records:
            (copies if job.key in source else todo).append(job)
            source.setdefault(job.key, cell)
    tasks: list[workers.Task] = [("run", (job.cell, job.ids, job.items, _details(job))) for job in todo]
    left = {job.cell for job in todo}
    began, before = time.monotonic(), len(records)
    here: list[dict[str, Any]] = []
    for outcome in crew.outcomes(tasks):
        cell = todo[outcome.number].cell
        left.discard(cell)
        if outcome.value is None:
            if outcome.fatal:
                raise BenchError(f"{outcome.error}{_trace(outcome.trace)}")
            _note_error(directory, cell, outcome.error, outcome.trace)
            say(f"{cell.id} FAILED: {outcome.error}")
            continue
        (directory / "errors" / f"{cell.id}.json").unlink(missing_ok=True)
        records[cell] = outcome.value
        here.append(outcome.value)
        to_go = rates.refined(here).seconds(left, config.finetune, min(config.jobs, max(len(left), 1)))
        say(
            present.finished(cell, outcome.value, before + len(here), len(plan.cells) - len(copies))
            + (f"; about {duration(to_go)} left" if left else f"; {duration(time.monotonic() - began)} in all")
        )
    for job in copies:
        if source[job.key] in records:
            records[job.cell] = cell_files.copy(directory, source[job.key], job.cell, _details(job))
        else:
            _note_error(directory, job.cell, f"it has the same prompts as {source[job.key].id}, which failed", None)


def _details(job: Job) -> dict[str, Any]:
    return {"key": job.key, "select_seconds": job.select_seconds, "items": len(job.items)}


def _note_error(directory: Path, cell: Cell, error: str | None, trace: str | None) -> None:
    write_json(directory / "errors" / f"{cell.id}.json", provenance(cell=cell.id, error=error, traceback=trace))


def _error(directory: Path, cell: Cell) -> str:
    return str(read_json(directory / "errors" / f"{cell.id}.json")["error"])
