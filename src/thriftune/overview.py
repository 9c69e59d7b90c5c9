"""Where a study stands: what is done in it, and the commands that come next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thriftune.artifacts import read_object, read_table, reading
from thriftune.errors import StudyError
from thriftune.reserve import with_replacements
from thriftune.study import HOLDOUT, POOL, Study


def overview(study: Study) -> dict[str, Any]:
    """What is done in a study and what is next.

    Args:
        study: which.

    Returns:
        JSON values: ``study``, ``pool``, ``holdout``, ``annotations``, ``score_runs``, ``selections``, ``models``,
        ``evaluations``, ``benches``, ``report`` and ``next``, a list of ``{"what", "commands"}``, the most important
        first.

    Raises:
        StudyError: the pool or the answers are damaged.
    """
    final = study.annotations.final()
    flagged = study.annotations.flagged() - set(final)
    pool = _pool(study, set(final) | flagged)
    state: dict[str, Any] = {
        "study": str(study.path),
        "pool": pool["counts"],
        "holdout": {
            "prompts": len(pool["holdout"]),
            "answered": sum(i in final for i in pool["holdout"]),
            "references": sum(i in pool["references"] for i in pool["holdout"]),
            "open": sum(i not in final and i not in pool["references"] and i not in flagged for i in pool["holdout"]),
        },
        "annotations": _annotations(study),
        "score_runs": _score_runs(study, pool["counts"]["prompts"]),
        "selections": [_selection(study, name, final, flagged) for name in study.selections()],
        "models": [_model(study, name) for name in study.models()],
        "evaluations": study.evaluations(),
        "benches": [_bench(study, name) for name in study.benches()],
        "report": _report(study),
    }
    state["next"] = _next(state)
    return state


def _pool(study: Study, closed: set[str]) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    pool = study.pool(["id", "task"])
    held = study.pool(["id"], split=HOLDOUT)["id"].to_pylist()
    done = pc.is_in(pool["id"], value_set=pa.array(sorted(closed), pa.string()))
    known: set[str] = set()
    if held and study.references_file.exists():
        known = set(study.references())
    rejects = study.rejects_file
    counts = {
        "prompts": pool.num_rows,
        "open": pool.num_rows - (pc.sum(done).as_py() or 0),
        "tasks": len(set(pool["task"].unique().to_pylist()) - {None}),
        "rejected_rows": _lines(rejects) if rejects.exists() else 0,
        "references": study.references_file.exists(),
    }
    return {"counts": counts, "holdout": held, "references": known}


def _lines(file: Path) -> int:
    with file.open("rb") as handle:
        return sum(1 for _ in handle)


def _annotations(study: Study) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for (source, status), count in sorted(Counter((a.source, a.status) for a in study.annotations.in_force()).items()):
        counts.setdefault(source, {})[status] = count
    return counts


def _selection(study: Study, name: str, final: Mapping[str, Any], flagged: set[str]) -> dict[str, Any]:
    try:
        ids, _, record = study.selection(name)
        replaced = with_replacements(study, name)
    except StudyError as error:
        return {"name": name, "damaged": str(error)}
    return {
        "name": name,
        "strategy": record.get("strategy"),
        "run": record.get("run"),
        "prompts": len(ids),
        "answered": sum(i in final for i in ids),
        "open": sum(i not in final and i not in flagged for i in replaced),
        "partial": bool(record.get("partial")),
    }


def _model(study: Study, name: str) -> dict[str, Any]:
    try:
        file = study.model_directory(name) / "manifest.json"
        manifest = read_object(file, config=dict, selection=str | None, examples=int)
        with reading(file):
            return {
                "name": name,
                "selection": manifest["selection"],
                "examples": manifest["examples"],
                "method": manifest["config"]["method"],
            }
    except StudyError as error:
        return {"name": name, "damaged": str(error)}


def _bench(study: Study, name: str) -> dict[str, Any]:
    directory = study.bench_directory(name)
    try:
        plan = read_object(directory / "plan.json", cells=list)
        cells = len(plan["cells"])
    except StudyError as error:
        return {"name": name, "damaged": str(error)}
    done = sum(1 for _ in (directory / "cells").glob("[!.]*.parquet"))
    analysed = (directory / "analysis.json").exists()
    return {
        "name": name,
        "cells": cells,
        "done": min(done, cells),
        "analysed": analysed,
        "control": bool(plan.get("control")),
    }


def _report(study: Study) -> dict[str, Any] | None:
    file = study.path / "report.html"
    if not file.exists():
        return None
    made = file.stat().st_mtime_ns
    inputs = [study.selection_file(name) for name in study.selections()]
    inputs += [study.score_directory(run) / "scores.parquet" for run in study.score_runs()]
    inputs += [study.model_directory(name) / "manifest.json" for name in study.models()]
    inputs += [study.evaluation_file(name) for name in study.evaluations()]
    analyses = [study.bench_directory(name) / "analysis.json" for name in study.benches()]
    inputs += [file for file in analyses if file.exists()]
    return {"file": str(file), "up_to_date": all(f.stat().st_mtime_ns <= made for f in inputs)}


def _next(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    study = shlex.quote(state["study"])
    steps: list[dict[str, Any]] = []

    def step(what: str, *commands: str) -> None:
        steps.append({"what": what, "commands": list(commands)})

    def answer(what: str, selection: str) -> None:
        file = f"{selection}.csv"
        step(
            f"{what}, on a page in the browser or in a file",
            f"thriftune annotate {study} --selection {selection}",
            f"thriftune export {study} {file} --selection {selection}",
            f"thriftune import {study} {file}",
        )

    held = state["holdout"]
    if held["open"]:
        answer(f"answer the {held['open']} open held-out prompts first: evaluation rests on them", HOLDOUT)
    finished = [run for run in state["score_runs"] if run["finished"]]
    begun = [run for run in state["score_runs"] if not run["finished"]]
    usable = [s for s in state["selections"] if "damaged" not in s]
    if not state["pool"]["open"] and not usable and _answered_by(state):
        _trained(state, study, None, step)
    elif begun and not finished:
        step(f"finish score run {begun[-1]['name']!r}, which was interrupted", _score_command(study, begun[-1]))
    elif not finished:
        step("score the pool with a language model", f"thriftune score {study}")
    elif not usable:
        step("choose which prompts to annotate", f"thriftune select {study} --budget 10%")
    else:
        latest = usable[-1]
        open_prompts = latest["open"]
        if state["report"] is None or not state["report"]["up_to_date"]:
            step("look at the selections", f"thriftune report {study} --open")
        if open_prompts:
            answer(
                f"answer the {open_prompts} open prompts of {latest['name']!r}, the latest selection", latest["name"]
            )
        else:
            _trained(state, study, latest["name"], step)
    for bench in state["benches"]:
        if bench.get("done", 0) < bench.get("cells", 0) or (bench.get("control") and not bench["analysed"]):
            step(f"go on with the experiment {bench['name']!r}", f"thriftune bench {study} --name {bench['name']}")
    if finished and state["pool"]["references"] and not state["benches"]:
        step("measure on the known responses whether a designed selection saves answers", f"thriftune bench {study}")
    return steps


def _trained(state: Mapping[str, Any], study: str, selection: str | None, step: Callable[..., None]) -> None:
    """What follows when every prompt of the latest selection is answered, or (None) every prompt there is."""
    models = [m["name"] for m in state["models"] if "damaged" not in m and m["selection"] == selection]
    if not models:
        of, which = ("", "") if selection is None else (f" of {selection!r}", f" --selection {selection}")
        by = _answered_by(state)
        whose = "" if by == "human" else f" --annotations {by}"
        model = "" if any(run["finished"] for run in state["score_runs"]) else " --model MODEL"
        step(
            f"all that can be answered{of} is answered: fine-tune on it",
            f"thriftune finetune {study}{which}{whose}{model}",
        )
        part = selection or POOL
        step(
            "or write the file to train on elsewhere",
            f"thriftune export {study} {part}-train.jsonl --selection {part} --to messages --answered-only{whose}",
        )
    elif not any(name.startswith(models[-1]) for name in state["evaluations"]):
        step(f"measure the model {models[-1]!r}", f"thriftune evaluate {study} --model {models[-1]}")


def _answered_by(state: Mapping[str, Any]) -> str:
    """Who has given final answers, as --annotations takes it; "" for nobody."""
    sources = {source for source, counts in state["annotations"].items() if counts.get("final")}
    return ",".join(k for k, of in (("human", {"human", "imported"}), ("teacher", {"teacher"})) if sources & of)


def _score_runs(study: Study, prompts: int) -> list[dict[str, Any]]:
    finished = study.score_runs()
    places = (study.path / "scores").glob("[!.]*/")
    begun = sorted(p.name for p in places if p.name not in finished)
    return [*(_run(study, name, prompts, True) for name in finished), *(_run(study, n, prompts, False) for n in begun)]


def _run(study: Study, name: str, prompts: int, finished: bool) -> dict[str, Any]:
    directory = study.score_directory(name)
    try:
        manifest = read_object(directory / "manifest.json", config=dict)
    except StudyError:
        manifest = {}
    config = manifest.get("config", {})
    total = manifest.get("prompts", prompts)
    if type(total) is not int:
        total = prompts
    return {
        "name": name,
        "finished": finished,
        "model": config.get("model"),
        "prompts": total,
        "scored": total if finished else _scored(directory, total),
        "config": config,
    }


def _scored(directory: Path, total: int) -> int:
    """Prompts of an unfinished run that are in finished parts; equal texts, scored once, count as many."""
    plan = directory / "plan.parquet"
    if not plan.exists():  # a server answers in any order
        try:
            return min(total, sum(len(read_table(f, ["row"])) for f in (directory / "parts").glob("[0-9]*.parquet")))
        except StudyError:
            return 0
    import numpy as np

    try:
        table = read_table(plan, ["part"], types={"part": "int32"})
    except StudyError:
        return 0
    if not table.num_rows:
        return 0
    done = [int(file.stem) for file in (directory / "parts").glob("[0-9]*.parquet") if file.stem.isdecimal()]
    return round(total * float(np.isin(table["part"].to_numpy(), done).mean()))


def _score_command(study: str, run: Mapping[str, Any]) -> str:
    """The command that began a run: the same one continues it."""
    from thriftune.config import ScoreConfig

    words = ["thriftune", "score", study, "--name", run["name"]]
    for key, field in ScoreConfig.model_fields.items():
        value = run["config"].get(key, field.default)
        if key == "name" or value == field.default:
            continue
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", shlex.quote(str(value))]
    return " ".join(words)
