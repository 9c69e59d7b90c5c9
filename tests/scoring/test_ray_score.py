"""Scoring on a Ray cluster of this machine: the same files as without one, whatever happens to its workers."""

from __future__ import annotations

import functools
import os
import re
import signal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pytest
from test_run import TEXTS, make_study, same, settings, values

from thriftune.artifacts import read_json, read_record
from thriftune.cluster import Crew, Lost, host, share
from thriftune.config import ScoreConfig, resolve
from thriftune.errors import ConfigError, ModelError, ScoreError
from thriftune.scoring import ray_crew, run
from thriftune.scoring.part_store import PartStore
from thriftune.scoring.plan import Plan
from thriftune.scoring.run import score
from thriftune.scoring.transformers import Pass
from thriftune.study import Study
from thriftune.types import Prompt

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'thriftune[ray]'")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr("thriftune.scoring.plan._PART_TOKENS", 200)
    monkeypatch.chdir(tmp_path)
    return make_study(tmp_path / "study", TEXTS, held=1)


class Dying(ray_crew.Scorer):
    """Its process is killed in the middle of part 1, the first time that it is tried."""

    def part(self, expected: ray_crew.Facts, plan: Any, prompts: Any, digest: str) -> ray_crew.Done:
        number = int(plan.part[0])
        traces = Path(unquote(urlsplit(str(self.config.parts_url)).path)).with_name("traces")
        tried = len(list(traces.glob(f"{number}-*")))
        (traces / f"{number}-{os.getpid()}").touch()
        if number == 1 and not tried:
            self._load()
            original = Pass.run

            def dying(scorer: Pass, batch: Any) -> Any:
                original(scorer, batch)
                os.kill(os.getpid(), signal.SIGKILL)

            Pass.run = dying  # type: ignore[assignment, method-assign]
        return super().part(expected, plan, prompts, digest)


def test_a_killed_worker_changes_nothing(
    study: Study, tiny_model: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink(tiny_model, "model")  # a relative path: workers have another working directory
    (tmp_path / "traces").mkdir()
    monkeypatch.setattr(run, "score_on_cluster", functools.partial(run.score_on_cluster, member=Dying))
    said: list[str] = []
    there = settings(
        "model", name="there", batch_size=2, ray="local", workers=2, parts_url=(tmp_path / "bucket").as_uri()
    )
    directory = score(study, there, say=said.append)
    assert sum("a worker was lost" in line for line in said) == 1
    score(study, settings("model", name="here", batch_size=2), say=lambda line: None)
    same(values(study, "there"), values(study, "here"))
    one, other = (read_json(study.score_directory(n) / "manifest.json") for n in ("there", "here"))
    assert {**one["config"], "name": "here"} == other["config"]
    for section in ("resolved", "pool", "prompts", "distinct", "versions"):
        assert one[section] == other[section]
    tried = [path.name.partition("-") for path in (tmp_path / "traces").iterdir()]
    assert len({number for number, _, _ in tried}) > 5
    # Two side by side, one of them lost; the third may come when the second has done the rest.
    assert len({process for _, _, process in tried}) >= 2
    assert sorted(p.name for p in directory.iterdir()) == ["embeddings.npy", "manifest.json", "scores.parquet"]
    assert not any((tmp_path / "bucket").iterdir())


def test_stopped_there_and_continued_here(
    study: Study, tiny_model: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ray_crew.Crew.outcomes
    calls = 0

    def stopped(crew: ray_crew.Crew, tasks: Any) -> Any:
        nonlocal calls
        for outcome in original(crew, tasks):
            calls += 1
            if calls == 6:  # facts, lengths, four parts
                raise KeyboardInterrupt
            yield outcome

    with monkeypatch.context() as patched:
        patched.setattr(ray_crew.Crew, "outcomes", stopped)
        with pytest.raises(KeyboardInterrupt):
            score(study, settings(tiny_model, batch_size=2, ray="local", workers=1), say=lambda line: None)
    assert len(list((study.score_directory("default") / "parts").iterdir())) == 3
    score(study, settings(tiny_model, batch_size=2), say=lambda line: None)
    score(study, settings(tiny_model, batch_size=2, name="here"), say=lambda line: None)
    same(values(study), values(study, "here"))


def test_other_machines_must_compute_with_the_same(tiny_model: Path) -> None:
    setup = ray_crew.Setup(settings(tiny_model).model_dump(mode="json", exclude_unset=True), "elsewhere")
    worker = ray_crew.Scorer(setup)
    facts = worker.facts()
    other = facts._replace(versions={**facts.versions, "torch": "1.0"})
    plan = Plan(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))
    with pytest.raises(ScoreError, match=r"worker .* has torch .* and the run began with '1\.0'"):
        worker.part(other, plan, [Prompt("a", "b")], "digest")


def test_what_a_machine_cannot_do_is_said_with_its_name(tiny_model: Path) -> None:
    setup = ray_crew.Setup({"model": "./no-such-model"}, "elsewhere")
    with pytest.raises(ModelError, match=rf"on {re.escape(host())}: .*no-such-model"):
        ray_crew.Scorer(setup).facts()


class Clerk:
    """An actor that loads nothing."""

    def __init__(self, setup: str) -> None:
        self.setup = setup

    def refuse(self) -> None:
        raise ScoreError(f"{self.setup} refuses")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def number(self, number: int) -> tuple[int, int]:
        return number, os.getpid()


def test_a_crew_loses_no_task(ray_cluster: None) -> None:
    said: list[str] = []
    with Crew(Clerk, "the clerk", "local", 2, command="", say=said.append) as crew:
        tasks = [("die",), *(("number", n) for n in range(20))]
        outcomes = dict(crew.outcomes(iter(tasks)))
        assert sorted(outcomes) == list(range(21))
        assert isinstance(outcomes[0], Lost)
        assert [outcomes[n + 1][0] for n in range(20)] == list(range(20))
        assert sum("is done again" in line for line in said) == 2
        with pytest.raises(ScoreError, match=r"^the clerk refuses$"):
            list(crew.outcomes([("refuse",)]))
        assert dict(crew.outcomes([("number", 5)]))[0][0] == 5
    assert ray.is_initialized()  # the cluster is not the crew's


def test_parts_at_a_url(tmp_path: Path) -> None:
    table = pa.table({"row": [3]})
    store = PartStore((tmp_path / "bucket").as_uri(), "d" * 64)
    store.fetch(tmp_path / "parts")
    store.put(0, table, {"plan": "d"})
    store.put(7, table, {"plan": "d"})
    PartStore((tmp_path / "bucket").as_uri(), "e" * 64).put(1, table, {})
    store.fetch(tmp_path / "parts")
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["000000.parquet", "000007.parquet"]
    assert read_record(tmp_path / "parts" / "000007.parquet") == {"plan": "d"}
    store.remove()
    assert [p.name for p in (tmp_path / "bucket").rglob("*.parquet")] == ["000001.parquet"]
    with pytest.raises(ScoreError, match=r"--parts-url nowhere://.*cannot be read"):
        PartStore("nowhere://x", "d" * 64).fetch(tmp_path / "parts")


def test_settings_of_a_cluster_want_a_cluster(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="give --ray ADDRESS or --ray local"):
        resolve(ScoreConfig, "score", {"model": str(tiny_model), "workers": 2}, None)
    with pytest.raises(ConfigError, match="--ray cannot be used with --backend vllm"):
        resolve(ScoreConfig, "score", {"model": "m", "backend": "vllm", "ray": "local"}, None)


def test_a_cluster_is_divided_by_machines() -> None:
    four, eight = {"CPU": 4.0}, {"CPU": 8.0}
    assert share([four, eight], None, True) == (2, 0, 4)
    assert share([four, eight], 3, True) == (3, 0, 4)
    assert share([eight, eight], 3, True) == (3, 0, 4)
    assert share([four], 9, True) == (4, 0, 1)
    assert share([{**eight, "GPU": 2.0}, four], None, True) == (2, 1, 1)
    assert share([{**eight, "GPU": 2.0}, four], 5, True) == (2, 1, 1)
    assert share([{**eight, "GPU": 2.0}, four], 3, False) == (3, 0, 4)
