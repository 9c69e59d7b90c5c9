"""`thriftune bench`: plan, estimate, choose, then cell after cell. The same command continues an interrupted run."""

from __future__ import annotations

import contextlib
from typing import Any

from thriftune.artifacts import write_json
from thriftune.bench import cells as cell_files
from thriftune.bench import plan as plans
from thriftune.bench import present, record
from thriftune.bench.conclude import conclude
from thriftune.bench.design import BASE, Cell
from thriftune.bench.execute import Job, Say, estimate_of, execute, note_error, open_crew, planned_rates, probe, salt_of
from thriftune.bench.picks import Chosen, choose
from thriftune.bench.plan import Plan
from thriftune.config import BenchConfig
from thriftune.errors import BenchError
from thriftune.study import Study


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
    items = plan.items[plan.seeds[0]]
    for line in present.introduction(plan):
        say(line)
    file = directory / "plan.json"
    if dry_run:
        if file.exists():
            record.same(record.read_plan(file), plan, directory, extend=extend)
        left = [cell for cell in plan.cells if not cell_files.cell_file(directory, cell).exists()]
        with contextlib.closing(open_crew(study, config, plan.model)) as crew:
            rates, _ = probe(crew, plan.known.ids, items)
        for line in [*present.cost(plan, left, rates), *present.detectable(plan, study)]:
            say(line)
        return None
    with contextlib.ExitStack() as stack:
        stack.enter_context(study.lock(f"bench-{config.name}"))
        stored = record.read_plan(file) if file.exists() else None
        finished = sum(cell_files.cell_file(directory, cell).exists() for cell in plan.cells)
        begun: dict[str, str] = {}
        if stored is not None:
            new = record.same(stored, plan, directory, extend=extend)
            if finished < len(plan.cells):
                record.check_computes(stored, config.name)
            if new:
                stored = record.write_extended(file, stored, plan, new, finished)
            begun = {key: stored["model"][key] for key in ("revision", "dtype", "device")}
        crew = stack.enter_context(contextlib.closing(open_crew(study, config, {**plan.model, **begun})))
        if stored is None:
            say("loading the model and timing one batch")
            measured, loaded = probe(crew, plan.known.ids, items)
            plan.warnings.extend(present.other_precision(plan, loaded))
            for line in [*present.cost(plan, plan.cells, measured), *present.detectable(plan, study)]:
                say(line)
            write_json(file, record.record_of(plan, loaded, estimate_of(measured, plan.cells, config)))
            stored = record.read_plan(file)
        chosen, failed = choose(study, plan, directory)
        jobs = _jobs(plan, chosen, salt_of(config, stored["model"]))
        records, errors = execute(config, directory, crew, jobs, planned_rates(directory), say)
        for cell in plan.cells:
            if (cell.strategy, cell.seed) in failed:
                errors[cell] = failed[cell.strategy, cell.seed]
                note_error(directory, cell, errors[cell], None)
        analysis = conclude(study, plan, directory, stored, records, errors)
    for line in present.results(analysis, study.path):
        say(line)
    if errors:
        first = next(cell for cell in plan.cells if cell in errors)
        raise BenchError(
            f"{len(errors)} of {len(plan.cells)} cells failed, the first {first.id}: {errors[first]}; the others are "
            f"kept, the same command tries these again (details in {directory / 'errors'})"
        )
    return analysis


def _jobs(plan: Plan, chosen: Chosen, salt: str) -> list[Job]:
    """The cells whose arm has chosen, with all that they need."""

    def job(cell: Cell) -> Job | None:
        if cell.strategy == BASE:
            return Job(cell, [], plan.items[cell.seed], salt=salt)
        if (cell.strategy, cell.seed) not in chosen:
            return None
        picked = chosen[cell.strategy, cell.seed][cell.budget]
        return Job(cell, picked.ids, plan.items[cell.seed], picked.seconds, salt)

    return [found for cell in plan.cells if (found := job(cell)) is not None]
