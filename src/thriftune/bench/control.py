"""A random control arm for projects whose responses are not known: what a design bought, told from real answers.

A share of the annotations goes to a uniform draw from the whole pool. When everything is answered, models trained on
equally many answers of either arm are compared on the held-out prompts.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from thriftune.artifacts import file_digest, provenance, read_json, write_json
from thriftune.bench import plan as plans
from thriftune.bench.contrast import compare, sentences
from thriftune.bench.design import BASE, RANDOM, Cell, digest, draw_items
from thriftune.bench.estimate import duration
from thriftune.bench.execute import Job, estimate_of, execute, open_crew, planned_rates, probe, salt_of
from thriftune.config import BenchConfig, SelectConfig
from thriftune.errors import BenchError
from thriftune.selection.cut import prefix_closed
from thriftune.selection.store import choose, load
from thriftune.study import HOLDOUT, Study

Say = Callable[[str], None]
_STRATEGY = "facility_location"
_SEEDS = 5  # unless the user says otherwise: two give no interval worth having


@dataclass(frozen=True)
class Answers:
    """What people wrote.

    Args:
        responses: by prompt id.
        control: the control's prompts that have one, in pick order.
        designed: the design's, in pick order.
        items: held-out prompts that have one.
        waiting: selection -> prompts neither answered nor skipped.
    """

    responses: Mapping[str, str]
    control: list[str]
    designed: list[str]
    items: dict[str, str]
    waiting: dict[str, int]


def control_arm(study: Study, config: BenchConfig, *, dry_run: bool = False, say: Say = print) -> dict[str, Any] | None:
    """Select for annotation with a random control; once all is answered, compare.

    Args:
        study: with a hold-out; its responses need not be known.
        config: ``control`` is the share of the one budget that goes to the control, ``strategies`` names one.
        dry_run: say what would be done, and do nothing.
        say: receives the lines meant for people.

    Returns:
        The analysis, or None while answers are missing.

    Raises:
        BenchError: more than one strategy or budget, no hold-out, or other settings than on the first call.
    """
    defaults = {"seeds": _SEEDS, "strategies": [_STRATEGY]}
    config = config.model_copy(update={k: v for k, v in defaults.items() if k not in config.model_fields_set})
    strategy, designed, control = _split(study, config)
    directory = study.bench_directory(config.name)
    names = {"designed": f"{config.name}-designed", "control": f"{config.name}-control"}
    say(
        f"bench {config.name!r}: of {designed + control:,} annotations, {designed:,} by {strategy}, {control:,} as a "
        "random control drawn from the whole pool"
    )
    if dry_run:
        say("a dry run selects nothing; when all is answered, models trained on equally many of either are compared")
        return None
    with study.lock(f"bench-{config.name}"):
        file = directory / "plan.json"
        if not file.exists():
            _select(study, config, strategy, {"designed": designed, "control": control}, names)
            write_json(file, _plan(study, config, strategy, names))
        stored = read_json(file)
        _check_same(stored, config, strategy, file)
        answers = _answers(study, config, names)
        if any(answers.waiting.values()):
            for line in _instructions(study, config, answers, stored, names):
                say(line)
            return None
        return _compare(study, config, stored, answers, directory, say)


def _split(study: Study, config: BenchConfig) -> tuple[str, int, int]:
    strategies = [name for name in config.strategies if name != RANDOM]
    if len(strategies) != 1 or len(config.budgets) != 1:
        raise BenchError(
            "a control arm goes with one strategy and one budget: give --strategies NAME --budget N "
            f"(got {', '.join(strategies) or 'none'} and {', '.join(map(str, config.budgets))})"
        )
    if not study.pool(["id"], split=HOLDOUT).num_rows:
        raise BenchError(
            f"{study.path} holds no prompts out, and they are the yardstick: make the study again with: thriftune init "
            f"{study.quoted} --holdout N --pool FILE"
        )
    assert config.control is not None
    budget = config.budgets[0]
    control = round(config.control * budget)
    if control < 2 or control >= budget:
        raise BenchError(
            f"--control {config.control:g} of --budget {budget} is {control} prompts: give it from 2 to {budget - 1}"
        )
    return strategies[0], budget - control, control


def _select(
    study: Study, config: BenchConfig, strategy: str, sizes: Mapping[str, int], names: Mapping[str, str]
) -> None:
    params = {key: value for key, value in config.params.get(strategy, {}).items() if key not in ("strategy", "run")}
    # A stream of its own: the control must not depend on what a randomised strategy draws.
    apart = int(np.random.SeedSequence([config.first_seed, 1]).generate_state(1)[0])
    asked = {
        "designed": SelectConfig(
            strategy=strategy,
            budget=str(sizes["designed"]),
            seed=config.first_seed,
            run=config.run,
            params=params,
            name=names["designed"],
        ),
        "control": SelectConfig(
            strategy=RANDOM, budget=str(sizes["control"]), seed=apart, run=config.run, name=names["control"]
        ),
    }
    for part, settings in asked.items():
        if not study.selection_file(names[part]).exists():
            chosen = choose(study, settings)
            if chosen.selection.partial:
                study.selection_file(names[part]).unlink()
                raise KeyboardInterrupt


def _plan(study: Study, config: BenchConfig, strategy: str, names: Mapping[str, str]) -> dict[str, Any]:
    picked = {part: set(study.selection(name)[0]) for part, name in names.items()}
    pool = set(study.pool(["id"])["id"].to_pylist())
    return provenance(
        stage="bench",
        name=config.name,
        control=True,
        config=config.model_dump(mode="json"),
        strategy=strategy,
        selections=dict(names),
        overlap=len(picked["designed"] & picked["control"]),
        # What was answered before is the same for both arms, and both train on it.
        already=sorted(pool & set(study.responses(_kinds(config)))),
        inputs={"pool": file_digest(study.pool_file)},
        cells=[],
        says=[f"Two selections wait for answers: {names['designed']} and, as its random control, {names['control']}."],
    )


def _check_same(stored: Mapping[str, Any], config: BenchConfig, strategy: str, file: Path) -> None:
    before, now = stored["config"], config.model_dump(mode="json")
    free = ("strategies", "jobs", "ray", "name", "keep_adapters")
    changed = [f"{k} was {before.get(k)}, now {v}" for k, v in now.items() if k not in free and before.get(k, v) != v]
    if stored.get("strategy") != strategy:
        changed.append(f"the strategy was {stored.get('strategy')}, now {strategy}")
    if changed:
        raise BenchError(
            f"bench {config.name!r} was begun differently ({'; '.join(changed)}): give this one another --name; the "
            f"plan is in {file}"
        )


def _kinds(config: BenchConfig) -> str:
    """Whose answers count in the pool: people's, unless others are named."""
    return "human" if config.annotations == "reference" else config.annotations


def _answers(study: Study, config: BenchConfig, names: Mapping[str, str]) -> Answers:
    kinds = _kinds(config)
    answered = {i: text for i, text in study.responses(kinds).items() if text.strip()}
    skipped = {a.prompt_id for a in study.annotations.in_force() if a.status == "skipped"}
    held_out = study.pool(["id", "task"], split=HOLDOUT).to_pylist()
    # A known response of a held-out prompt is as good a yardstick as an answer.
    known = {**study.references(), **answered}
    ids = {part: study.selection(name)[0] for part, name in names.items()}
    ids[HOLDOUT] = [row["id"] for row in held_out]
    return Answers(
        {**{i: known[i] for i in ids[HOLDOUT] if i in known}, **answered},
        [i for i in ids["control"] if i in answered],
        [i for i in ids["designed"] if i in answered],
        {row["id"]: row["task"] or "" for row in held_out if row["id"] in known},
        {
            part: sum(i not in skipped and i not in (known if part == HOLDOUT else answered) for i in prompts)
            for part, prompts in ids.items()
        },
    )


def _instructions(
    study: Study, config: BenchConfig, answers: Answers, stored: Mapping[str, Any], names: Mapping[str, str]
) -> list[str]:
    place = study.quoted
    lines = []
    if stored["overlap"]:
        lines.append(
            f"{stored['overlap']:,} prompts are in both: they are answered once and count in both, since a control "
            "that avoided the design would not be random"
        )
    why = {
        HOLDOUT: "the held-out prompts, first: they are the yardstick",
        "control": "the random control",
        "designed": f"the picks of {stored['strategy']}",
    }
    for part in (HOLDOUT, "control", "designed"):
        if answers.waiting[part]:
            name = shlex.quote(names.get(part, part))
            lines += [
                f"{answers.waiting[part]:,} to answer: {why[part]}",
                f"  thriftune export {place} {name}.csv --selection {name} --no-draft",
                f"  thriftune import {place} {name}.csv",
            ]
    return [*lines, f"next, when all are answered or skipped: the same command again (--name {config.name})"]


def _compare(
    study: Study,
    config: BenchConfig,
    stored: dict[str, Any],
    answers: Answers,
    directory: Path,
    say: Say,
) -> dict[str, Any]:
    config = config.model_copy(update={"annotations": f"{_kinds(config)},reference"})
    most = min(len(answers.control), len(answers.designed))
    if most < 2 or not answers.items:
        raise BenchError(
            f"too little was answered to compare: {len(answers.control)} of the control, {len(answers.designed)} of "
            f"the design, {len(answers.items)} held out"
        )
    whole = prefix_closed(load(study, stored["selections"]["designed"]))
    jobs = _jobs(config, stored, answers, sorted({most // 2, most}), whole)
    model = plans.model_of(study, config)
    cells = [job.cell for job in jobs]
    begun = {key: stored["model"][key] for key in ("revision", "dtype", "device")} if "model" in stored else {}
    with contextlib.closing(open_crew(study, config, {**model, **begun})) as crew:
        if not begun:
            say("loading the model and timing one batch")
            rates, begun = probe(crew, [*answers.control, *answers.designed], jobs[0].items)
            expected = rates.seconds(cells, config.finetune, config.jobs)
            say(f"{len(cells)} cells at {most // 2:,} and {most:,} answers of each arm: about {duration(expected)}")
            stored.update(estimate=estimate_of(rates, cells, config), model={"spec": model["spec"], **begun})
        stored["cells"] = [{"strategy": c.strategy, "budget": c.budget, "seed": c.seed, "id": c.id} for c in cells]
        write_json(directory / "plan.json", stored)
        salt = salt_of(config, begun)
        jobs = [replace(job, salt=digest([job.salt, salt])) for job in jobs]
        records, errors = execute(config, directory, crew, jobs, planned_rates(directory), say)
    if errors:
        cell, error = next(iter(errors.items()))
        raise BenchError(
            f"{len(errors)} of {len(cells)} cells failed, the first {cell.id}: {error}; the same command tries "
            "them again"
        )
    found = compare(directory, cells, stored["strategy"])
    analysis = {
        "name": config.name,
        "control": True,
        "level": 0.95,
        "strategy": stored["strategy"],
        "sizes": sorted({c.budget for c in cells if c.budget}),
        "seeds": sorted({c.seed for c in cells}),
        "items": len(jobs[0].items),
        "overlap": stored["overlap"],
        "already": len(stored["already"]),
        "prefix": whole,
        "comparisons": found,
        "costs": {"finetune_seconds": sum(r["finetune_seconds"] for r in records.values() if not r.get("reused"))},
    }
    analysis["says"] = sentences(analysis, config.metric, len(answers.control), len(answers.designed))
    write_json(directory / "analysis.json", analysis)
    for line in ["", *analysis["says"], f"next: thriftune report {study.quoted} --open"]:
        say(line)
    return analysis


def _jobs(config: BenchConfig, stored: Mapping[str, Any], answers: Answers, sizes: list[int], whole: bool) -> list[Job]:
    """Both arms at equal sizes; a seed draws the part of an arm where that is not all of it, and the training."""
    items = draw_items(answers.items, config.items, config.first_seed)
    already = [i for i in stored["already"] if i in answers.responses]
    seeds = range(config.first_seed, config.first_seed + config.seeds)

    def job(name: str, size: int, seed: int, ids: list[str]) -> Job:
        used = [*ids, *(i for i in already if i not in set(ids))] if ids else []
        # An answer that was changed since makes another result.
        salt = digest([answers.responses[i] for i in [*sorted(used), *items]])
        return Job(Cell(name, size, seed), used, items, salt=salt)

    jobs = [job(BASE, 0, config.first_seed, [])]
    for seed in seeds:
        order = np.random.default_rng([seed, 2]).permutation(len(answers.control))
        shuffled = [answers.control[row] for row in order]
        other = np.random.default_rng([seed, 3]).permutation(len(answers.designed))
        chosen = answers.designed if whole else [answers.designed[row] for row in other]
        for size in sizes:
            jobs.append(job(RANDOM, size, seed, shuffled[:size]))
            jobs.append(job(stored["strategy"], size, seed, chosen[:size]))
    return jobs
