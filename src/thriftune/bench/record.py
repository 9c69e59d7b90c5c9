"""plan.json: what was planned, before anything ran, so that nobody plans by the results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from thriftune.artifacts import provenance, read_object, reading, write_json
from thriftune.bench.plan import Plan
from thriftune.errors import BenchError

# What may grow, or does not touch a result; arms and cells are compared by themselves.
_FREE = {
    "strategies",
    "budgets",
    "seeds",
    "random_seeds",
    "first_seed",
    "params",
    "run",
    "jobs",
    "ray",
    "name",
    "keep_adapters",
}
_COMPUTES = ("thriftune", "numpy", "torch", "transformers", "tokenizers", "peft", "trl", "lm-eval")


def record_of(plan: Plan, loaded: Mapping[str, Any], estimate: Mapping[str, Any]) -> dict[str, Any]:
    """plan.json of a plan whose model was loaded.

    Args:
        plan: which.
        loaded: ``revision``, ``dtype`` and ``device`` of the model.
        estimate: what was measured and expected before the start.
    """
    return provenance(
        stage="bench",
        name=plan.config.name,
        config=plan.config.model_dump(mode="json"),
        arms=[asdict(arm) for arm in plan.arms],
        model={"spec": plan.model["spec"], **loaded},
        inputs=dict(plan.inputs),
        computes=installed(),
        prompts={
            "with_response": len(plan.known.rows),
            "without_response": plan.known.without,
            "subsample": {str(seed): len(rows) for seed, rows in plan.pools.items()},
            "held_out": len(plan.known.held),
            "held_out_without_response": plan.known.held_without,
            "items": {str(seed): len(ids) for seed, ids in plan.items.items()},
        },
        cells=[{**asdict(cell), "id": cell.id} for cell in plan.cells],
        estimate=dict(estimate),
        warnings=plan.warnings,
        extensions=[],
    )


def read_plan(file: Path) -> dict[str, Any]:
    """plan.json, with everything in it that the stages of a bench go by.

    Raises:
        StudyError: it is missing or damaged.
    """
    stored = read_object(file)
    if stored.get("control"):
        return stored
    objects = dict.fromkeys(("config", "model", "inputs", "computes", "estimate", "prompts"), dict)
    stored = read_object(file, **objects, **dict.fromkeys(("arms", "cells", "warnings", "extensions"), list))
    with reading(file):
        known = {"scores": dict, "pool": str, "responses": str}
        names = [*stored["warnings"], *(a["name"] for a in stored["arms"]), *(c["id"] for c in stored["cells"])]
        notes = [(n["created"] + "", len(n["cells"]), n["finished_cells"] + 0) for n in stored["extensions"]]
        wrong = [n for n in names if not isinstance(n, str)]
        wrong += [k for k, kind in known.items() if not isinstance(stored["inputs"][k], kind)]
        wrong += [k for k in ("revision", "dtype", "device") if k not in stored["model"]]
        if wrong:
            raise ValueError(f"{wrong[0]!r} of {len(names) + len(notes)} entries")
    return stored


def installed() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {}
    for package in _COMPUTES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def same(stored: Mapping[str, Any], plan: Plan, directory: Path, *, extend: bool) -> list[str]:
    """What is new in ``plan`` against the plan on record.

    Args:
        stored: plan.json.
        plan: what is asked for now.
        directory: of the bench, for messages.
        extend: let arms, budgets and seeds be added.

    Returns:
        Ids of the cells that are new.

    Raises:
        BenchError: the plans differ, or something is added without ``extend``.
    """
    if stored.get("control"):
        raise BenchError(f"bench {plan.config.name!r} is one with a control arm: give this one another --name")
    now = json.loads(json.dumps(record_of(plan, {}, {})))
    changed = []
    for key, value in now["config"].items():
        if key not in _FREE:
            changed += _changed(key, stored["config"].get(key), value)
    for key in ("spec", "revision"):
        if plan.model[key] is not None:
            changed += _changed(f"the model's {key}", stored["model"].get(key), plan.model[key])
    for key, value in now["inputs"].items():
        was = stored["inputs"].get(key)
        if isinstance(value, dict):
            changed += [f"score run {run} is another" for run, seen in value.items() if was.get(run, seen) != seen]
        elif was != value:
            changed.append(f"the {key} are others" if key == "responses" else f"the {key} is another")
    before = {arm["name"]: arm for arm in stored["arms"]}
    for arm in now["arms"]:
        if arm["name"] in before:
            changed += _changed(f"arm {arm['name']}", before[arm["name"]], arm)
    asked = [cell["id"] for cell in now["cells"]]
    planned = [cell["id"] for cell in stored["cells"]]
    dropped = [cell for cell in planned if cell not in set(asked)]
    if dropped:
        changed.append(f"{len(dropped)} cells of the plan are missing, such as {dropped[0]}")
    if changed:
        raise BenchError(
            f"bench {plan.config.name!r} was planned differently ({'; '.join(changed)}): give this one another --name, "
            f"or ask for the same; the plan is in {directory / 'plan.json'}"
        )
    new = [cell for cell in asked if cell not in set(planned)]
    if new and not extend:
        raise BenchError(
            f"bench {plan.config.name!r} was planned without {len(new)} of these cells, such as {new[0]}: "
            "deciding on more after a look at results makes intervals too narrow; take another --name, or --extend it, "
            "which the analysis will say"
        )
    return new


def _changed(what: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [line for key in now for line in _changed(f"{what}.{key}", before.get(key), now[key])]
    return [] if before == now else [f"{what} was {before!r}, now {now!r}"]


def check_computes(stored: Mapping[str, Any], name: str) -> None:
    """Refuse to compute further cells with other package versions than the first ones.

    Raises:
        BenchError: naming what differs.
    """
    now = installed()
    changed = [
        f"{package} was {version}, now {now.get(package, 'missing')}"
        for package, version in stored["computes"].items()
        if now.get(package) != version
    ]
    if changed:
        raise BenchError(
            f"bench {name!r} was begun with other packages ({'; '.join(changed)}): install those to finish it, "
            "or begin another with --name"
        )


def write_extended(file: Path, stored: dict[str, Any], plan: Plan, new: list[str], finished: int) -> dict[str, Any]:
    """Add cells to the plan on record, with a note that says when and after how many results."""
    now = json.loads(json.dumps(record_of(plan, stored["model"], stored["estimate"])))
    note = {"created": now["created"], "cells": new, "finished_cells": finished}
    extended = {**stored, **{key: now[key] for key in ("config", "arms", "prompts", "cells", "warnings")}}
    extended["inputs"] = {**stored["inputs"], **now["inputs"]}
    extended["extensions"] = [*stored["extensions"], note]
    write_json(file, extended)
    return extended
