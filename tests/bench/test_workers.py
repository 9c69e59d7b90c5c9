"""Processes side by side: tasks end in any order, a process that dies costs its task, none outlives its parent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from thriftune.bench import workers
from thriftune.bench.workers import Crew, Here, Outcome, Setup, attempt
from thriftune.errors import BenchError


class Clerk:
    """Stands for a process's worker."""

    able = True

    def tell(self, what: str) -> dict[str, Any]:
        return {"said": what, "process": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}

    def refuse(self) -> None:
        raise BenchError("not so")

    def break_down(self) -> None:
        raise ZeroDivisionError("a bug")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def sleep(self) -> None:
        time.sleep(60)


def test_errors_become_outcomes() -> None:
    assert attempt(Clerk(), 3, ("tell", ("x",))).value["said"] == "x"  # type: ignore[index]
    refused = attempt(Clerk(), 1, ("refuse", ()))
    assert refused == Outcome(1, None, "not so")
    broken = attempt(Clerk(), 2, ("break_down", ()))
    assert broken.error == "ZeroDivisionError: a bug" and "break_down" in str(broken.trace)


def test_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "make_worker", lambda setup: Clerk())
    here = Here(Setup(Path("."), {}, {}))
    outcomes = list(here.outcomes([("tell", ("a",)), ("refuse", ()), ("tell", ("b",))]))
    assert [o.number for o in outcomes] == [0, 1, 2] and outcomes[2].value["process"] == os.getpid()  # type: ignore[index]


def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork instead of spawning, so that the clerk is known in the processes and none of them imports torch."""
    import multiprocessing

    monkeypatch.setattr(workers, "make_worker", lambda setup: Clerk())
    monkeypatch.setattr(workers, "get_context", lambda how: multiprocessing.get_context("fork"))


@pytest.mark.skipif(os.name != "posix", reason="fork")
def test_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    forked(monkeypatch)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    crew = Crew(Setup(Path("."), {}, {}), 2)
    try:
        tasks: list[workers.Task] = [("tell", ("a",)), ("die", ()), ("refuse", ()), ("tell", ("b",)), ("tell", ("c",))]
        outcomes = {o.number: o for o in crew.outcomes(tasks)}
        assert sorted(outcomes) == [0, 1, 2, 3, 4]
        assert "ended by SIGKILL" in str(outcomes[1].error) and "--jobs 2" in str(outcomes[1].error)
        assert outcomes[2].error == "not so"
        told = [outcomes[i].value for i in (0, 3, 4)]
        assert [t["said"] for t in told] == ["a", "b", "c"]  # type: ignore[index]
        assert all(t["process"] != os.getpid() and int(t["threads"]) >= 1 for t in told)  # type: ignore[index]
        # Processes stay for the next round, and this one's environment is as it was.
        assert "OMP_NUM_THREADS" not in os.environ
        before = {process.pid for process, _ in crew.members.values()}
        list(crew.outcomes([("tell", ("again",))]))
        assert {process.pid for process, _ in crew.members.values()} == before
    finally:
        crew.close()
    assert crew.members == {}


@pytest.mark.skipif(os.name != "posix", reason="fork")
def test_closing_ends_processes_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    forked(monkeypatch)
    crew = Crew(Setup(Path("."), {}, {}), 1)
    outcomes = crew.outcomes([("tell", ("a",)), ("sleep", ())])
    next(outcomes)
    process = crew.members[0][0]
    began = time.monotonic()
    crew.close()
    assert not process.is_alive() and time.monotonic() - began < 10


def test_every_process_gets_a_gpu_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [workers._share(place, 3, "auto") for place in range(3)] == [
        {"CUDA_VISIBLE_DEVICES": "2"},
        {"CUDA_VISIBLE_DEVICES": "5"},
        {"CUDA_VISIBLE_DEVICES": "2"},
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for device in ("cpu", "cuda:1"):  # a GPU that was named keeps its number
        assert workers._share(0, 2, device) == {"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": ANY}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)  # torch without CUDA
    assert "CUDA_VISIBLE_DEVICES" not in workers._share(0, 2, "auto")
