from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pytest
import typer.main
from reserved import flag, keep_reserve

from thriftune.annotation.export import rows
from thriftune.artifacts import provenance, write_json, write_table
from thriftune.config import ScoreConfig
from thriftune.overview import overview
from thriftune.study import Study
from thriftune.types import Annotation


def parsed(command: str) -> tuple[str, dict[str, Any]]:
    """The verb and its parameters, as the command line itself reads them."""
    from thriftune.cli.app import app

    program, verb, *arguments = shlex.split(command)
    assert program == "thriftune"
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    context = group.commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]
    return verb, {key: value for key, value in context.params.items() if value is not None}


def answer(study: Study, ids: list[str]) -> None:
    study.annotations.add(Annotation(i, "an answer") for i in ids)


def test_what_is_done(small_study: Study) -> None:
    answer(small_study, ["p12", "p00", "p03"])
    small_study.annotations.add([Annotation("p01", "", source="teacher", status="skipped")])
    small_study.rejects_file.write_text("{}\n{}\n")
    state = overview(small_study)
    assert state["pool"] == {"prompts": 12, "open": 10, "tasks": 2, "rejected_rows": 2, "references": False}
    assert state["holdout"] == {"prompts": 4, "answered": 1, "references": 0, "open": 3}
    assert state["annotations"] == {"human": {"final": 3}, "teacher": {"skipped": 1}}
    assert [(run["name"], run["finished"], run["prompts"]) for run in state["score_runs"]] == [("default", True, 12)]
    assert state["selections"] == [
        {
            "name": "first",
            "strategy": "random",
            "run": "default",
            "prompts": 10,
            "answered": 2,
            "open": 8,
            "partial": False,
        }
    ]
    assert state["report"] is None
    json.dumps(state, allow_nan=False)


def test_the_flow_from_held_out_prompts_to_training_file(small_study: Study) -> None:
    def nexts() -> list[tuple[str, ...]]:
        return [tuple(parsed(c)[0] for c in step["commands"]) for step in overview(small_study)["next"]]

    answering = ("annotate", "export", "import")
    assert nexts() == [answering, ("report",), answering]
    steps = overview(small_study)["next"]
    assert steps[0]["what"].startswith("answer the 4 open held-out prompts first: evaluation rests on them")
    assert parsed(steps[0]["commands"][0])[1]["selection"] == "holdout"

    answer(small_study, [row.id for row in rows(small_study, "holdout")])
    report = small_study.path / "report.html"
    report.write_text("<html>")
    assert nexts() == [answering]
    assert "answer the 10 open prompts of 'first'" in overview(small_study)["next"][0]["what"]

    answer(small_study, [row.id for row in rows(small_study, "first")])
    assert nexts() == [("finetune",), ("export",)]
    _, given = parsed(overview(small_study)["next"][1]["commands"][0])
    assert (given["to"], given["answered_only"], given["selection"]) == ("messages", True, "first")

    trained = small_study.model_directory("first")
    config = {"method": "lora"}
    write_json(trained / "manifest.json", provenance(selection="first", examples=10, config=config))
    assert nexts()[-1] == ("evaluate",)
    write_table(small_study.evaluation_file("first-heldout"), pa.table({"task": ["a"]}), provenance())
    os.utime(report, (report.stat().st_mtime + 1000,) * 2)
    assert nexts() == []

    # A selection made after the report is not in it.
    older = report.stat().st_mtime - 2000
    os.utime(report, (older, older))
    assert nexts() == [("report",)]


def test_answers_that_came_with_the_pool_need_no_selection(small_study: Study) -> None:
    answer(small_study, small_study.pool(["id"], split=None)["id"].to_pylist())
    for file in (small_study.path / "selections").iterdir():
        file.unlink()
    steps = overview(small_study)["next"]
    assert overview(small_study)["pool"]["open"] == 0
    assert [[parsed(c)[0] for c in step["commands"]] for step in steps] == [["finetune"], ["export"]]
    given = parsed(steps[1]["commands"][0])[1]
    assert (given["selection"], given["answered_only"]) == ("pool", True)
    assert given["annotations"] == "human"
    assert [row.id for row in rows(small_study, "pool")] == small_study.pool(["id"])["id"].to_pylist()
    answered = {"config": {"method": "lora"}, "selection": None, "examples": 12}
    write_json(small_study.model_directory("all") / "manifest.json", provenance(**answered))
    assert [parsed(c)[0] for step in overview(small_study)["next"] for c in step["commands"]] == ["evaluate"]


def test_what_fine_tuning_needs_is_said(small_study: Study) -> None:
    for file in (small_study.path / "selections").iterdir():
        file.unlink()
    shutil.rmtree(small_study.score_directory("default"))
    ids = small_study.pool(["id"], split=None)["id"].to_pylist()
    small_study.annotations.add(Annotation(i, "", status="skipped") for i in ids)
    assert "finetune" not in json.dumps(overview(small_study)["next"])
    small_study.annotations.add(Annotation(i, "an answer", "gpt", "teacher") for i in ids)
    fine, out = overview(small_study)["next"]
    assert parsed(fine["commands"][0])[1]["annotations"] == "teacher"
    assert parsed(fine["commands"][0])[1]["model"] == "MODEL"
    assert parsed(out["commands"][0])[1]["annotations"] == "teacher"


def test_tasks_are_those_of_the_pool(small_study: Study) -> None:
    table = small_study.pool(split=None)
    tasks = ["odd"] * 6 + ["even"] * 6 + ["apart"] * 4
    place = table.column_names.index("task")
    write_table(small_study.pool_file, table.set_column(place, "task", pa.array(tasks)), provenance())
    assert overview(small_study)["pool"]["tasks"] == 2


def test_an_experiment_is_offered_and_continued(small_study: Study) -> None:
    answer(small_study, [row.id for row in rows(small_study, "holdout")])
    answer(small_study, [row.id for row in rows(small_study, "first")])
    ids = small_study.pool(["id"])["id"].to_pylist()
    write_table(small_study.references_file, pa.table({"id": ids, "response": ["x"] * len(ids)}), {})
    assert parsed(overview(small_study)["next"][-1]["commands"][0])[0] == "bench"
    place = small_study.bench_directory("trial")
    write_json(place / "plan.json", provenance(cells=[{"id": "a"}, {"id": "b"}]))
    write_table(place / "cells" / "a.parquet", pa.table({"task": ["a"]}), {})
    state = overview(small_study)
    assert state["benches"] == [{"name": "trial", "cells": 2, "done": 1, "analysed": False, "control": False}]
    verb, given = parsed(state["next"][-1]["commands"][0])
    assert (verb, given["name"]) == ("bench", "trial")
    write_table(place / "cells" / "b.parquet", pa.table({"task": ["a"]}), {})
    assert not any("bench" in command for step in overview(small_study)["next"] for command in step["commands"])


def test_a_flagged_prompt_is_not_open_and_the_one_in_its_place_is(small_study: Study) -> None:
    answer(small_study, [row.id for row in rows(small_study, "holdout")])
    first = [row.id for row in rows(small_study, "first")]
    answer(small_study, first[1:])
    flag(small_study, first[0])
    latest = overview(small_study)
    assert latest["selections"][0]["open"] == 0
    assert any("finetune" in command for step in latest["next"] for command in step["commands"])
    spare = next(i for i in small_study.pool(["id"])["id"].to_pylist() if i not in first)
    keep_reserve(small_study, "first", [spare])
    assert overview(small_study)["selections"][0]["open"] == 1


def test_an_experiment_with_a_control_goes_on_until_it_is_analysed(small_study: Study) -> None:
    place = small_study.bench_directory("trial")
    write_json(place / "plan.json", provenance(control=True, cells=[]))
    assert parsed(overview(small_study)["next"][-1]["commands"][0])[1]["name"] == "trial"
    write_json(place / "analysis.json", {})
    assert not any("bench" in command for step in overview(small_study)["next"] for command in step["commands"])


def test_before_selection_and_before_scoring(small_study: Study) -> None:
    answer(small_study, [row.id for row in rows(small_study, "holdout")])
    small_study.selection_file("first").unlink()
    assert parsed(overview(small_study)["next"][0]["commands"][0])[0] == "select"
    shutil.rmtree(small_study.path / "scores")
    state = overview(small_study)
    assert state["score_runs"] == []
    assert parsed(state["next"][0]["commands"][0])[0] == "score"


def test_references_spare_the_held_out_prompts(small_study: Study) -> None:
    held = [row.id for row in rows(small_study, "holdout")]
    write_table(small_study.references_file, pa.table({"id": held, "response": ["x"] * 4}), {})
    state = overview(small_study)
    assert state["holdout"]["references"] == 4
    assert not any("held-out" in step["what"] for step in state["next"])


def interrupt(study: Study, config: ScoreConfig) -> None:
    """A score run that was killed after the first and third of four parts, 1 + 2 of 10 distinct prompts."""
    shutil.rmtree(study.path / "scores")
    directory = study.score_directory(config.name)
    plan = pa.table({"row": pa.array(range(10)), "batch": pa.array(range(10)), "part": [0, 1, 1, 1, 2, 2, 3, 3, 3, 3]})
    write_table(directory / "plan.parquet", plan, {})
    for part in (0, 2):
        write_table(directory / "parts" / f"{part:06d}.parquet", plan, {})
    (directory / "parts" / ".000001.x.tmp.parquet").write_bytes(b"half")
    write_json(directory / "manifest.json", {"config": config.model_dump(), "prompts": 12, "distinct": 10})


def test_an_interrupted_run_is_continued_with_its_own_settings(small_study: Study, tmp_path: Path) -> None:
    answer(small_study, [row.id for row in rows(small_study, "holdout")])
    config = ScoreConfig(name="big", model="/models/a b", batch_size=8, layer="-1,4", prompt_nll=False, dtype="float32")
    interrupt(small_study, config)
    state = overview(small_study)
    (run,) = state["score_runs"]
    assert (run["name"], run["finished"], run["scored"], run["prompts"]) == ("big", False, 4, 12)  # 3/10 of 12
    (command,) = state["next"][0]["commands"]
    verb, given = parsed(command)
    assert verb == "score"
    again = {key: given[key] for key in ("name", "model", "layer", "prompt_nll", "dtype")}
    assert again == {key: getattr(config, key) for key in again}
    assert given["batch_size"] == "8"
    assert given["study"] == small_study.path


def test_a_run_that_barely_began(small_study: Study) -> None:
    shutil.rmtree(small_study.path / "scores")
    small_study.score_directory("default").mkdir(parents=True)
    (run,) = overview(small_study)["score_runs"]
    assert (run["finished"], run["scored"], run["prompts"]) == (False, 0, 12)


def test_a_damaged_selection_is_shown_and_not_followed(small_study: Study) -> None:
    small_study.selection_file("worse").write_bytes(b"PAR1")
    state = overview(small_study)
    assert {s["name"]: "damaged" in s for s in state["selections"]} == {"first": False, "worse": True}
    assert all("worse" not in command for step in state["next"] for command in step["commands"])


@pytest.mark.parametrize("place", ["my studies", "it's"])
def test_commands_can_be_pasted(small_study: Study, tmp_path: Path, place: str) -> None:
    moved = tmp_path / place / "study"
    moved.parent.mkdir()
    small_study.path.rename(moved)
    for step in overview(Study(moved))["next"]:
        for command in step["commands"]:
            assert parsed(command)[1]["study"] == moved


def test_status_in_words_and_as_json(small_study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    from thriftune.cli.status import command

    answer(small_study, ["p12", "p00"])
    small_study.rejects_file.write_text("{}\n")
    interrupted = small_study.score_directory("big")
    write_json(interrupted / "manifest.json", {"config": {"model": "org/big"}, "prompts": 12})
    command(small_study.path)
    study = small_study.path
    assert capsys.readouterr().out == (
        "pool        12 prompts, 2 tasks, 1 rejected (see rejects.jsonl)\n"
        "holdout     1 of 4 answered\n"
        "scores      default: 12 prompts\n"
        "            big: UNFINISHED, 0 of 12 prompts with org/big\n"
        "selections  first: 10 by random, 1 answered\n"
        "answers     human: 2 final\n"
        "report      none yet\n"
        "\n"
        "next: answer the 3 open held-out prompts first: evaluation rests on them, on a page in the browser or in a "
        "file\n"
        f"  thriftune annotate {study} --selection holdout\n"
        f"  thriftune export {study} holdout.csv --selection holdout\n"
        f"  thriftune import {study} holdout.csv\n"
        "\n"
        "also: look at the selections\n"
        f"  thriftune report {study} --open\n"
        "\n"
        "also: answer the 9 open prompts of 'first', the latest selection, on a page in the browser or in a file\n"
        f"  thriftune annotate {study} --selection first\n"
        f"  thriftune export {study} first.csv --selection first\n"
        f"  thriftune import {study} first.csv\n"
    )
    command(small_study.path, as_json=True)
    assert json.loads(capsys.readouterr().out) == overview(small_study)
