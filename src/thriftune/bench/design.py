"""The design of an experiment: which arms, which cells, and what a seed draws for all of them alike."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from thriftune import geometry
from thriftune.config import BenchConfig
from thriftune.errors import BenchError
from thriftune.pool.split import choose_groups
from thriftune.selection import registry
from thriftune.selection.cut import cut, prefix_closed
from thriftune.selection.request import TRANSFORM
from thriftune.selection.run import select
from thriftune.study import HOLDOUT, SCORE_COLUMNS, Study, check_name
from thriftune.types import Candidates, IntArray

RANDOM = "random"
BASE = "base"
HELDOUT = "heldout"
# Keys of [bench.params.ARM] that are no parameter of the strategy.
_ARM_KEYS = ("strategy", "run")
_SELECT_KEYS = (TRANSFORM, "duplicates")


@dataclass(frozen=True)
class Arm:
    """One way of choosing prompts that takes part.

    Args:
        name: in tables; the strategy's unless ``[bench.params.NAME]`` names a strategy of its own.
        strategy: the registered strategy.
        run: the score run it reads.
        params: its parameters as given.
        reads_tasks: whether it reads task labels.
        follows: parameters that hold prompts and name another arm, whose picks they take at each budget.
    """

    name: str
    strategy: str
    run: str | None
    params: Mapping[str, Any]
    reads_tasks: bool
    follows: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation; budget 0 of ``base`` is the untouched model."""

    strategy: str
    budget: int
    seed: int

    @property
    def id(self) -> str:
        return f"{self.strategy}-{self.budget}-seed{self.seed}"


@dataclass(frozen=True)
class Known:
    """What the experiment knows: prompts with responses.

    Args:
        responses: by prompt id, of pool and hold-out.
        rows: (n,) rows of the study's candidates that have a response.
        ids: (n,) their ids.
        near_groups: (n,) equal for near duplicates.
        without: prompts of the pool that have no response and take no part.
        held: held-out prompts with a response, by id, with their task.
        held_without: held-out prompts without one.
    """

    responses: Mapping[str, str]
    rows: IntArray
    ids: tuple[str, ...]
    near_groups: IntArray
    without: int
    held: Mapping[str, str]
    held_without: int


def known(study: Study, kinds: str) -> Known:
    """The prompts of a study whose responses are known.

    Args:
        study: which.
        kinds: see `Study.responses`.

    Raises:
        BenchError: there are none in the pool.
    """
    responses = {i: text for i, text in study.responses(kinds).items() if text.strip()}
    pool = study.pool(["id", "near_group"])
    ids = pool["id"].to_pylist()
    rows = np.array([row for row, i in enumerate(ids) if i in responses], np.int64)
    if not len(rows):
        raise BenchError(
            f"no prompt of {study.path} has a known response ({kinds}): give --annotations human if people's answers "
            "are to be it, or --control 0.2 --budget N to find out while you annotate"
        )
    held = study.pool(["id", "task"], split=HOLDOUT)
    pairs = zip(held["id"].to_pylist(), held["task"].to_pylist(), strict=True)
    answered = {i: task or "" for i, task in pairs if i in responses}
    return Known(
        responses,
        rows,
        tuple(ids[row] for row in rows),
        pool["near_group"].to_numpy()[rows],
        len(ids) - len(rows),
        answered,
        held.num_rows - len(answered),
    )


def arms(study: Study, config: BenchConfig) -> list[Arm]:
    """The arms in the order asked for, random first in any case; every request is checked.

    Raises:
        BenchError: parameters are given for an arm that takes no part.
        StrategyError: a strategy or a parameter is unknown.
        StudyError: a score run is not there.
    """
    names = [RANDOM, *(name for name in config.strategies if name != RANDOM)]
    stray = [name for name in config.params if name not in names]
    if stray:
        raise BenchError(f"[bench.params.{stray[0]}] names no arm (there: {', '.join(names)}): add it to strategies")
    found = []
    for name in names:
        given = dict(config.params.get(name, {}))
        check_name(name, "arm")
        if name == BASE or (name == RANDOM and "strategy" in given):
            raise BenchError(f"{name!r} cannot be the name of an arm of your own: choose another")
        chosen = registry.get(given.pop("strategy", name))
        run = given.pop("run", config.run)
        follows = {
            p.name: given[p.name]
            for p in chosen.parameters.values()
            if p.prompts and isinstance(given.get(p.name), str) and given[p.name] in names and given[p.name] != name
        }
        chosen.resolve({key: value for key, value in given.items() if key not in _SELECT_KEYS})
        read = {column.partition(":")[0] for column in (*chosen.needs, *chosen.uses)}
        if run is not None or study.score_runs() or read & {"embeddings", "scores"}:
            run = study.score_run(run)
        found.append(Arm(name, chosen.name, run, given, chosen.uses_tasks, follows))
    by_name = {arm.name: arm for arm in found}
    chained = next((a for a in found for other in a.follows.values() if by_name[other].follows), None)
    if chained is not None:
        raise BenchError(f"arm {chained.name!r} follows an arm that itself follows another: name the first one")
    return found


def seeds_of(config: BenchConfig, arm: str) -> list[int]:
    """The seeds of an arm: random may have more than the rest, never fewer."""
    count = config.seeds if arm not in (RANDOM, BASE) else config.random_seeds or config.seeds
    return list(range(config.first_seed, config.first_seed + count))


def cells(config: BenchConfig, names: Sequence[str]) -> list[Cell]:
    """Every cell, seed by seed and in each by budget, so that whatever is finished can be compared.

    Args:
        config: budgets and seeds.
        names: of the arms, without ``base``, which is added.
    """
    grid = [
        Cell(name, budget, seed)
        for name in (BASE, *names)
        for budget in ([0] if name == BASE else config.budgets)
        for seed in seeds_of(config, name)
    ]
    order = {name: place for place, name in enumerate((BASE, *names))}
    return sorted(grid, key=lambda cell: (cell.seed, cell.budget, order[cell.strategy]))


def draw_pool(field: Known, share: float, seed: int) -> IntArray:
    """The pool of one seed: a share of the prompts, near duplicates together so that they stay as common as they are.

    Args:
        field: the prompts that take part.
        share: from 0 (excluded) to 1.
        seed: of the draw.

    Returns:
        (m,) rows of the study's candidates, in their order.
    """
    if share == 1:
        return field.rows
    wanted = max(round(share * len(field.rows)), 1)
    # A group is known by the least of its ids: the draw does not depend on the order of the pool.
    key: dict[int, str] = {}
    for group, id_ in zip(field.near_groups.tolist(), field.ids, strict=True):
        key[group] = min(key.get(group, id_), id_)
    groups, member, sizes = np.unique(field.near_groups, return_inverse=True, return_counts=True)
    chosen = choose_groups([f"bench:{key[g]}".encode() for g in groups.tolist()], sizes, wanted, seed)
    return field.rows[chosen[member]]


def draw_items(held: Mapping[str, str], wanted: int | None, seed: int) -> list[str]:
    """The held-out prompts of one seed, as many from every task as there are, in the order of their ids.

    Args:
        held: id -> task of those with a response.
        wanted: how many; None or more than there are: all.
        seed: of the draw.
    """
    if wanted is None or wanted >= len(held):
        return sorted(held)
    salt = f"items:{seed}:"
    order = sorted(held, key=lambda i: hashlib.blake2b((salt + i).encode(), digest_size=16).digest())
    turn: dict[str, int] = {}
    ranked = []
    for place, i in enumerate(order):
        turn[held[i]] = turn.get(held[i], -1) + 1
        ranked.append((turn[held[i]], place, i))
    return sorted(i for _, _, i in sorted(ranked)[:wanted])


@dataclass(frozen=True)
class Pick:
    """What an arm chose at one budget: ids in pick order, and how long that took."""

    ids: list[str]
    seconds: float
    notes: Mapping[str, Any]


def pick(
    candidates: Candidates, arm: Arm, budgets: Iterable[int], seed: int, followed: Mapping[str, Mapping[int, Pick]]
) -> dict[int, Pick]:
    """What an arm chooses from a seed's pool at each budget, with as few runs as give the same picks.

    Args:
        candidates: the seed's pool, nothing of it annotated.
        arm: who chooses.
        budgets: how many prompts.
        seed: of randomised strategies.
        followed: what the arms that it follows chose, by name and budget.

    Raises:
        StrategyError: the strategy fails.
    """
    params = dict(arm.params)
    chosen = registry.get(arm.strategy)
    if "embeddings" in (*chosen.needs, *chosen.uses):
        params.setdefault(TRANSFORM, geometry.HIDDEN_STATES)
    wanted = sorted(budgets, reverse=True)
    found: dict[int, Pick] = {}
    largest = None
    for budget in wanted:
        if largest is not None and not arm.follows and prefix_closed(largest):
            found[budget] = replace(found[wanted[0]], ids=cut(largest, budget).ids.tolist())
            continue
        named = {parameter: followed[other][budget].ids for parameter, other in arm.follows.items()}
        began = time.monotonic()
        selection = select(candidates, arm.strategy, budget, seed=seed, **{**params, **named})
        seconds = time.monotonic() - began
        if selection.partial:
            raise KeyboardInterrupt
        largest = largest or selection
        found[budget] = Pick(selection.ids.tolist(), seconds, selection.notes)
    return found


def own_score(arm: Arm) -> str | None:
    """The score that an arm ranks by where no score run has one of that name: a column of the pool file may be it."""
    chosen = registry.get(arm.strategy)
    score = chosen.score(chosen.resolve({k: v for k, v in arm.params.items() if k in chosen.parameters}))
    return None if score in SCORE_COLUMNS else score


def candidates_of(study: Study, run: str | None, score: str | None = None) -> Candidates:
    """A score run's candidates for an experiment: nothing counts as annotated, unscored prompts rank last.

    ``score`` is the arm's own, see `own_score`.
    """
    found = study.candidates(run, score=score)
    scores = dict(found.scores)
    for name, values in scores.items():
        missing = np.isnan(values)
        if missing.any() and not missing.all():
            scores[name] = np.where(missing, values[~missing].min(), values)
    return replace(found, scores=scores, annotated=np.zeros(len(found), bool))


def digest(value: Any) -> str:
    """A short name of a JSON value's content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def tasks_of(config: BenchConfig) -> tuple[bool, list[str]]:
    """Whether held-out prompts are evaluated on, and the benchmarks that are."""
    names = [task.strip() for task in config.tasks.split(",") if task.strip()]
    return HELDOUT in names, [name for name in names if name != HELDOUT]
