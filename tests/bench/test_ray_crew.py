"""Cells on a Ray cluster of this machine: as without one, and a lost worker's cell is done by another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from known_study import known_study, results, settings

from thriftune.bench import ray_crew, workers
from thriftune.bench.ray_crew import RayCrew
from thriftune.bench.run import bench
from thriftune.bench.workers import Setup
from thriftune.errors import ClusterError

ray = pytest.importorskip("ray")


class Clerk:
    """Stands for an actor's worker."""

    able = True

    def tell(self, what: str) -> dict[str, Any]:
        return {"said": what, "process": os.getpid()}

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, trace: str) -> dict[str, Any]:
        if not Path(trace).exists():
            Path(trace).touch()
            self.die()
        return {"said": "alive"}


class _ClerksMember(ray_crew._Member):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.worker = Clerk()


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCrew]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # actors unpickle the clerk from this file
    before = ray.is_initialized()  # by other tests
    monkeypatch.setattr(ray_crew, "_Member", _ClerksMember)
    crew = RayCrew(Setup(Path("."), {}, {}), 2, "local")
    yield crew
    crew.close()
    assert ray.is_initialized() == before


def test_a_lost_workers_task_is_given_to_another(crew: RayCrew, tmp_path: Path) -> None:
    tasks: list[workers.Task] = [
        ("tell", ("a",)),
        ("die_once", (str(tmp_path / "died"),)),
        ("die", ()),
        ("tell", ("b",)),
    ]
    outcomes = {o.number: o for o in crew.outcomes(tasks)}
    assert sorted(outcomes) == [0, 1, 2, 3]
    assert outcomes[1].value == {"said": "alive"}
    assert "lost again and again" in str(outcomes[2].error) and not outcomes[2].fatal
    told = [outcomes[i].value for i in (0, 3)]
    assert [t["said"] for t in told] == ["a", "b"]  # type: ignore[index]
    assert all(t["process"] != os.getpid() for t in told)  # type: ignore[index]


def test_no_cluster_there() -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127\.0\.0\.1:1'.*--ray local"):
        RayCrew(Setup(Path("."), {}, {}), 1, "127.0.0.1:1")


@pytest.mark.slow
def test_a_cluster_gives_the_same_table(tmp_path: Path, tiny_model: Path) -> None:
    alone, there = (known_study(tmp_path / name, tiny_model) for name in ("alone", "there"))
    asked = {"strategies": ["random", "k_center"], "budgets": [4, 8], "seeds": 1}
    bench(alone, settings(**asked), say=lambda line: None)
    bench(there, settings(**asked, ray="local", jobs=2), say=lambda line: None)
    # Threads may be another number, so sums may round differently.
    assert results(there) == pytest.approx(results(alone), abs=1e-4)
    assert not ray.is_initialized()
