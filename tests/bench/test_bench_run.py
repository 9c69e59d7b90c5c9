"""The whole experiment on a model of two layers: it is what its plan says, survives kills, and is nobody else's."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from known_study import known_study, results, settings

from thriftune.artifacts import read_json, read_record, read_table, write_json, write_table
from thriftune.bench import run
from thriftune.bench.run import bench
from thriftune.errors import BenchError, StudyError
from thriftune.report.analysis import read_analysis
from thriftune.study import Study
from thriftune.types import Picks

Lines = list[str]
RESULTS = {"strategy": "string", "budget": "int64", "seed": "int64", "task": "string", "item": "string",
           "metric": "string", "value": "double"}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Study, Lines, dict[str, Any]]:
    """A finished bench: k_center against random at 6 and 12, two seeds."""
    study = known_study(tmp_path_factory.mktemp("bench") / "study", tiny_model)
    said: Lines = []
    found = bench(study, settings(), say=said.append)
    assert found is not None
    return study, said, found


@pytest.fixture
def finished(made: tuple[Study, Lines, Any], tmp_path: Path) -> Study:
    """A copy of it that a test may change."""
    return Study(shutil.copytree(made[0].path, tmp_path / "study"))


def silent(line: str) -> None:
    pass


def test_a_bench_is_what_its_plan_says(made: tuple[Study, Lines, dict[str, Any]]) -> None:
    study, said, found = made
    directory = study.bench_directory("bench")
    plan = read_json(directory / "plan.json")
    assert plan["stage"] == "bench" and len(plan["cells"]) == 10 == len(list((directory / "cells").iterdir()))
    assert plan["prompts"]["with_response"] == 48 and plan["prompts"]["subsample"] == {"0": 36, "1": 36}
    assert plan["model"]["dtype"] == "float32" and plan["model"]["revision"].startswith("files-")
    assert plan["computes"]["torch"] and plan["inputs"]["scores"]["default"] and plan["estimate"]["seconds"] > 0
    table = read_table(directory / "results.parquet")
    assert {f.name: str(f.type) for f in table.schema} == RESULTS
    assert table.num_rows == 10 * 6
    items = {}
    for strategy, budget, seed, item, _ in results(study):
        items.setdefault((strategy, budget, seed), set()).add(item)
    # All arms of a seed are measured on the same items.
    assert all(items[c] == items["base", 0, c[2]] for c in items) and items["base", 0, 0] != items["base", 0, 1]
    assert found["name"] == "bench" and found["metric"] == "nll" and found["baseline"] == "random"
    assert set(found["costs"]["select_seconds"]) == {"random", "k_center"} and found["costs"]["score_seconds"] == 7.0
    assert found["costs"]["finetune_seconds_mean"] > 0 and found["costs"]["evaluate_seconds_mean"] > 0
    assert found == json.loads((directory / "analysis.json").read_text())
    # What the report reads.
    assert read_analysis(directory / "analysis.json").metrics[0].strategies[0].strategy == "k_center"
    text = "\n".join(said)
    assert ("10 cells" in said[0] and "about" in text and "smallest saving" in text) or "no saving" in text
    assert "10/10 " in text and text.endswith(f"next: thriftune report {study.path} --open")
    assert found["metrics"][0]["strategies"][0]["verdict"] in said


def test_means_in_the_analysis_are_those_of_the_rows(made: tuple[Study, Lines, dict[str, Any]]) -> None:
    study, _, found = made
    rows = read_table(study.bench_directory("bench") / "results.parquet").to_pandas()
    for point in found["metrics"][0]["curves"]:
        mine = rows[(rows.strategy == point["strategy"]) & (rows.budget == point["budget"])]
        by_task = mine.groupby(["seed", "task"]).value.mean().groupby("seed").mean()
        assert point["mean"] == pytest.approx(by_task.mean())
        assert point["seeds"] == pytest.approx(list(by_task))


def test_training_changes_the_model_and_arms_differ(made: tuple[Study, Lines, dict[str, Any]]) -> None:
    values = results(made[0])
    mean = {
        cell: np.mean([v for k, v in values.items() if k[:3] == cell]) for cell in {(k[0], k[1], k[2]) for k in values}
    }
    assert len(set(mean.values())) == 10
    assert mean["random", 12, 0] < mean["base", 0, 0]


def test_a_finished_bench_computes_nothing(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = results(finished)
    monkeypatch.setattr("thriftune.bench.cells.load", lambda *a, **k: pytest.fail("the model was loaded"))
    said: Lines = []
    assert bench(finished, settings(), say=said.append) is not None
    assert "all 10 cells are finished: nothing to compute" in said and results(finished) == before


def test_a_lost_and_a_damaged_cell_come_back_the_same(finished: Study) -> None:
    before = results(finished)
    cells = finished.bench_directory("bench") / "cells"
    (cells / "k_center-6-seed1.parquet").unlink()
    whole = (cells / "random-12-seed0.parquet").read_bytes()
    (cells / "random-12-seed0.parquet").write_bytes(whole[:100])
    said: Lines = []
    bench(finished, settings(), say=said.append)
    assert results(finished) == pytest.approx(before, abs=1e-5) and "8 of 10 cells are finished already" in said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"subsample": 0.5}, "subsample was 0.75, now 0.5"),
        ({"finetune": {"rank": 8}}, "finetune.rank was 4, now 8"),
        ({"seeds": 1}, "5 cells of the plan are missing"),
        ({"budgets": [6]}, "cells of the plan are missing"),
        ({"params": {"k_center": {"start": "random"}}}, "arm k_center.params"),
    ],
)
def test_another_plan_under_the_same_name_is_refused(finished: Study, given: dict[str, Any], says: str) -> None:
    with pytest.raises(BenchError, match=says):
        bench(finished, settings(**given), say=silent)


def test_other_inputs_are_refused(finished: Study) -> None:
    scores = finished.score_directory("default") / "scores.parquet"
    write_table(scores, read_table(scores), {"made": "again"})
    with pytest.raises(BenchError, match="score run default is another"):
        bench(finished, settings(), say=silent)
    known = read_table(finished.references_file).to_pylist()
    known[0]["response"] = "something else"
    write_table(finished.references_file, pa.Table.from_pylist(known), {})
    with pytest.raises(BenchError, match="the responses are others"):
        bench(finished, settings(), say=silent)


def test_other_packages_do_not_finish_what_these_began(finished: Study) -> None:
    file = finished.bench_directory("bench") / "plan.json"
    plan = read_json(file)
    plan["computes"]["torch"] = "1.0"
    write_json(file, plan)
    assert bench(finished, settings(), say=silent) is not None  # nothing is left to compute
    (file.parent / "cells" / "k_center-6-seed1.parquet").unlink()
    with pytest.raises(BenchError, match=r"torch was 1\.0, now"):
        bench(finished, settings(), say=silent)


def test_cells_are_added_only_when_asked_for_and_that_is_said(finished: Study) -> None:
    with pytest.raises(BenchError, match="planned without 5 of these cells"):
        bench(finished, settings(seeds=3), say=silent)
    before = results(finished)
    found = bench(finished, settings(random_seeds=3), extend=True, say=silent)
    assert found is not None and found["seeds"] == [0, 1, 2]
    assert any("3 cells were added on" in w and "too narrow" in w for w in found["warnings"])
    after = results(finished)
    assert {k: after[k] for k in before} == before and len(after) == len(before) + 3 * 6
    # And it stays said.
    again = bench(finished, settings(random_seeds=3), say=silent)
    assert again is not None and any("3 cells were added" in w for w in again["warnings"])


def test_a_second_process_is_told_who_holds_it(finished: Study) -> None:
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(finished.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holding:
        assert holding.stdout is not None and holding.stdin is not None
        assert holding.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match=rf"at work on bench-bench of .* \(process {holding.pid} on .*, since "):
            bench(finished, settings(), say=silent)
        holding.stdin.close()
    assert bench(finished, settings(), say=silent) is not None
    assert not (finished.path / ".bench-bench.holder").exists()


HOLDING = """
import sys
from thriftune.study import Study
study = Study(sys.argv[1])
with study.lock("bench-bench"):
    print("held", flush=True)
    sys.stdin.read()
"""


def failing(candidates: Any, budget: int, rng: np.random.Generator) -> Picks:
    """Fails."""
    raise ZeroDivisionError("no luck")


def test_an_arm_that_fails_does_not_lose_the_others(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from thriftune.selection import registry

    registry.discover()
    broken = replace(registry.get("random"), name="failing", function=failing, module="elsewhere")
    monkeypatch.setitem(registry._registered, "failing", broken)
    study = known_study(tmp_path / "study", tiny_model)
    config = settings(strategies=["failing", "mean_entropy"], budgets=[4], seeds=1)
    with pytest.raises(BenchError, match="1 of 4 cells failed, the first failing-4-seed0: ZeroDivisionError: no luck"):
        bench(study, config, say=silent)
    directory = study.bench_directory("bench")
    assert {k[0] for k in results(study)} == {"base", "random", "mean_entropy"}
    found = read_json(directory / "analysis.json")
    assert any("failing is left out" in w for w in found["warnings"])
    assert "no luck" in read_json(directory / "errors" / "failing-4-seed0.json")["error"]
    # Mended, the same command finishes it.
    monkeypatch.setitem(registry._registered, "failing", replace(broken, function=registry.get("random").function))
    assert bench(study, config, say=silent) is not None
    assert "failing" in {k[0] for k in results(study)} and not list((directory / "errors").iterdir())


def test_a_cell_that_fails_is_named_and_tried_again(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from thriftune.bench.cells import Bencher

    before, original = results(finished), Bencher._timed
    cells = finished.bench_directory("bench") / "cells"
    (cells / "k_center-6-seed0.parquet").unlink()
    (cells / "k_center-12-seed1.parquet").unlink()

    def out_of_luck(self: Bencher, lm: Any, items: Any) -> Any:
        if not (cells / "k_center-6-seed0.parquet").exists() and not tried:
            tried.append(1)
            raise MemoryError("too small")
        return original(self, lm, items)

    tried: list[int] = []
    said: Lines = []
    monkeypatch.setattr(Bencher, "_timed", out_of_luck)
    with pytest.raises(BenchError, match="1 of 10 cells failed, the first k_center-6-seed0: MemoryError: too small"):
        bench(finished, settings(), say=said.append)
    assert "k_center-6-seed0 FAILED: MemoryError: too small" in said
    trace = read_json(finished.bench_directory("bench") / "errors" / "k_center-6-seed0.json")["traceback"]
    assert "out_of_luck" in trace
    assert bench(finished, settings(), say=silent) is not None
    assert results(finished) == pytest.approx(before, abs=1e-5)


def test_equal_cells_are_computed_once(tmp_path: Path, tiny_model: Path) -> None:
    """At a budget of the whole subsample all arms train on the same prompts."""
    study = known_study(tmp_path / "study", tiny_model)
    bench(study, settings(subsample=0.25, budgets=[12], items=None), say=silent)
    directory = study.bench_directory("bench") / "cells"
    reused = {p.stem: read_record(p).get("reused") for p in directory.iterdir()}
    assert reused["k_center-12-seed0"] == "random-12-seed0" and reused["random-12-seed0"] is None
    assert reused["base-0-seed1"] == "base-0-seed0"  # all items in every seed
    assert reused["random-12-seed1"] is None
    values = results(study)
    for (strategy, budget, seed, item, metric), value in values.items():
        if strategy == "k_center":
            assert value == values["random", budget, seed, item, metric]


def test_a_dry_run_writes_nothing(tmp_path: Path, tiny_model: Path) -> None:
    study = known_study(tmp_path / "study", tiny_model)
    before = sorted(study.path.rglob("*"))
    said: Lines = []
    assert bench(study, settings(seeds=8, budgets=[6, 12, 24]), dry_run=True, say=said.append) is None
    assert sorted(study.path.rglob("*")) == before
    text = "\n".join(said)
    assert "56 cells" in said[0] and "cells train on 672 examples" in text and "at the speed just measured" in text
    assert "smallest saving" in text or "could show no saving" in text


def test_a_model_that_cannot_be_loaded_ends_it_at_once(finished: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from thriftune.errors import ModelError

    def refuse(*given: Any, **named: Any) -> None:
        raise ModelError("not there")

    for cell in (finished.bench_directory("bench") / "cells").glob("k_center*"):
        cell.unlink()
    monkeypatch.setattr("thriftune.bench.cells.load", refuse)
    with pytest.raises(BenchError, match="^not there"):
        bench(finished, settings(), say=silent)
    assert not (finished.bench_directory("bench") / "errors").exists()


@pytest.mark.slow
def test_side_by_side_gives_the_same_table(tmp_path: Path, tiny_model: Path, made: tuple[Study, Lines, Any]) -> None:
    study = known_study(tmp_path / "study", tiny_model)
    bench(study, settings(jobs=2), say=silent)
    # Threads are another number, so sums may round differently.
    assert results(study) == pytest.approx(results(made[0]), abs=1e-4)


# Imports once, then forks a process for every run asked for, so that a kill costs no start-up.
FORKING = """
import os, sys
sys.path.insert(0, sys.argv[1])
import filelock, numba, peft, torch, trl
import thriftune.bench.run, thriftune.bench.conclude, thriftune.evaluation.heldout, thriftune.finetuning.trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from known_study import settings
from thriftune.bench.run import bench
from thriftune.study import Study
torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if not child:
        bench(Study(line.strip()), settings(strategies=["mean_entropy"]), say=lambda line: None)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_at_random_cells_and_continued_equals_uninterrupted(tmp_path: Path, tiny_model: Path) -> None:
    rng = random.Random(11)
    whole = known_study(tmp_path / "whole", tiny_model)
    killed = Study(shutil.copytree(whole.path, tmp_path / "killed"))
    place = killed.bench_directory("bench")
    forking = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(Path(__file__).parent)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with forking:
        assert forking.stdin is not None and forking.stdout is not None

        def start(study: Study) -> int:
            print(study.path, file=forking.stdin, flush=True)
            return int(forking.stdout.readline())

        def ended() -> int:
            return int(forking.stdout.readline())

        def done() -> int:
            return len(list(place.glob("cells/[!.]*.parquet")))

        start(whole)
        assert ended() == 0
        struck = []
        for round_ in range(4):
            child, before = start(killed), done()
            deadline = time.monotonic() + 120
            # The first time while it plans and selects, then in the middle of cells.
            while time.monotonic() < deadline:
                if done() > before or (round_ == 0 and (place / "plan.json").exists()):
                    break
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.6))
            os.kill(child, signal.SIGKILL)
            if ended() != -signal.SIGKILL:
                break
            struck.append(done())
        assert len(struck) >= 3 and struck[-1] < 10, "the run was over before it could be killed"
        start(killed)
        assert ended() == 0
        forking.stdin.close()
    assert results(killed) == pytest.approx(results(whole), abs=1e-6)
    ours, theirs = (read_json(s.bench_directory("bench") / "analysis.json") for s in (killed, whole))
    for one, other in zip(ours["metrics"][0]["curves"], theirs["metrics"][0]["curves"], strict=True):
        assert one["mean"] == pytest.approx(other["mean"], abs=1e-6) and one["strategy"] == other["strategy"]
    assert not list(place.rglob("errors/*")), struck


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thriftune.bench.cells import Bencher

    study = known_study(tmp_path / "study", tiny_model)
    original = Bencher.run

    def interrupted(self: Bencher, cell: Any, *given: Any) -> Any:
        if cell.strategy == "k_center":
            raise KeyboardInterrupt
        return original(self, cell, *given)

    config = settings(budgets=[4], seeds=1)
    monkeypatch.setattr(Bencher, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(study, config, say=silent)
    directory = study.bench_directory("bench")
    assert sorted(p.stem for p in (directory / "cells").iterdir()) == ["base-0-seed0", "random-4-seed0"]
    # Nobody looks at results before they are all there.
    assert not (directory / "analysis.json").exists() and not (directory / "holder.json").exists()
    monkeypatch.setattr(Bencher, "run", original)
    assert run.bench(study, config, say=silent) is not None
