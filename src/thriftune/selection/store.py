"""Choosing prompts in a study: run, describe, name, write, and read back."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thriftune.artifacts import file_digest
from thriftune.config import SelectConfig
from thriftune.errors import StrategyError, StudyError
from thriftune.selection import describe
from thriftune.selection.prices import money_of, prices
from thriftune.selection.quotas import quotas
from thriftune.selection.request import budget_of, resolve
from thriftune.selection.run import select
from thriftune.study import HOLDOUT, POOL, Study
from thriftune.types import Selection

_SETTINGS = ("strategy", "budget", "seed", "params", "run")
_WAIT_S = 60.0


@dataclass(frozen=True)
class Chosen:
    """A selection as stored.

    Args:
        name: in the study.
        file: where.
        selection: the picks.
        run: the score run it was made with, if any.
        summary: see `describe.describe`.
        warnings: what to look at.
        seconds: how long choosing took, without describing.
    """

    name: str
    file: Path
    selection: Selection
    run: str | None
    summary: dict[str, Any]
    warnings: list[str]
    seconds: float


def choose(study: Study, settings: SelectConfig, *, replace: bool = False) -> Chosen:
    """Select prompts of a study and store the selection.

    Args:
        study: which.
        settings: strategy, budget and so on; the name is by default ``STRATEGY-BUDGET``, ``STRATEGY-costC`` where the
            budget is money, with ``-seedN`` for a seed other than 0.
        replace: overwrite a selection of that name that was made with other settings.

    Returns:
        What was chosen, also when it was interrupted (then ``selection.partial``).

    Raises:
        StrategyError: the request is impossible, or the name is taken by other settings.
        StudyError: the study lacks what is asked for.
    """
    run = study.score_run(settings.run) if settings.run or study.score_runs() else None
    # Everything that can be refused is refused before the work.
    strategy, params, _ = resolve(study, settings.strategy, settings.params, run)
    limits = quotas(settings.at_least, settings.at_most)
    params = {**params, **limits}
    money = money_of(settings.budget_cost, strategy, settings.budget, settings.costs, limits)
    if money is None:
        count: int | None = budget_of(settings.budget, study.candidates(run, embeddings=False).annotated)
        size = f"{count}"
    else:
        count, size = None, f"cost{money:.12g}"
        params.update(costs=settings.costs, budget_cost=money)
    name = settings.name or f"{strategy.name}-{size}" + (f"-seed{settings.seed}" if settings.seed else "")
    if name in (HOLDOUT, POOL):
        raise StrategyError(f"{name!r} names all prompts of that part of the study: choose another --name")
    wanted = {"strategy": strategy.name, "budget": count, "seed": settings.seed, "params": params, "run": run}
    if not replace and study.selection_file(name).exists():
        if settings.costs is not None:
            prices(study, run, settings.costs)  # a column that is not there is told before what it would change
        _refuse_other(study, name, wanted, settings.duplicates)
    began = time.monotonic()
    # Named or not: without a name the reason for the default goes into the record.
    selection = select(
        study,
        settings.strategy,
        count,
        seed=settings.seed,
        run=run,
        costs=settings.costs,
        budget_cost=money,
        duplicates=settings.duplicates,
        **limits,
        **settings.params,
    )
    seconds = time.monotonic() - began
    summary = describe.describe(study, selection, run)
    found = describe.warnings(summary, selection.notes)
    record = {
        "run": run,
        "summary": summary,
        "warnings": found,
        "inputs": {
            "pool": file_digest(study.pool_file),
            "scores": None if run is None else file_digest(study.score_directory(run) / "scores.parquet"),
        },
    }
    with study.lock("select", wait=_WAIT_S):
        if not replace and study.selection_file(name).exists():
            _refuse_other(study, name, wanted, settings.duplicates)
        file = study.write_selection(name, selection, record)
    return Chosen(name, file, selection, run, summary, found, seconds)


def _refuse_other(study: Study, name: str, wanted: dict[str, Any], duplicates: str) -> None:
    try:
        record = study.selection(name)[2]
    except StudyError:
        raise StrategyError(f"selection {name!r} exists and cannot be read: use --name or --replace") from None
    asked = {**wanted, "params": {**wanted["params"], "duplicates": duplicates}}
    asked = json.loads(json.dumps(asked))
    # How many picks money buys is only known afterwards; the money stands among the parameters.
    other = [key for key in _SETTINGS if record.get(key) != asked[key] and not (key == "budget" and asked[key] is None)]
    if other:
        seen = ", ".join(f"{key} {record.get(key)!r}" for key in other)
        raise StrategyError(
            f"selection {name!r} exists with other settings ({seen}): give this one a --name, or --replace it"
        )


def load(study: Study, name: str) -> Selection:
    """A stored selection, e.g. to `cut.cut` it.

    Args:
        study: which.
        name: the selection's.

    Returns:
        The selection; its rows are rows of the study's pool.

    Raises:
        StudyError: there is no such selection, or it belongs to another pool.
    """
    ids, gains, record = study.selection(name)
    at = {
        i: row for row, i in enumerate(study.pool(["id"], split=None if name == HOLDOUT else "pool")["id"].to_pylist())
    }
    missing = [i for i in ids if i not in at]
    if missing:
        raise StudyError(f"selection {name!r} names prompt {missing[0]!r}, which is not in the pool of {study.path}")
    if not isinstance(record.get("strategy"), str):
        raise StudyError(f"{study.selection_file(name)} does not say its strategy: select again with --replace")
    return Selection(
        ids=np.array(ids, object),
        rows=np.array([at[i] for i in ids], np.int64),
        gains=gains,
        strategy=record["strategy"],
        budget=record.get("budget", len(ids)),
        seed=record.get("seed", 0),
        params=record.get("params", {}),
        certificate=record.get("certificate"),
        notes=record.get("notes", {}),
        partial=record.get("partial", False),
    )
