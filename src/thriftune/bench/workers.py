"""Cells side by side: processes that share nothing but the study on disk, one for each GPU where there are any."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from thriftune.config import BenchConfig
from thriftune.errors import ThriftuneError


@dataclass(frozen=True)
class Setup:
    """What a worker process needs to begin: everything in it can be pickled."""

    study: Path
    config: dict[str, Any]
    model: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A task that ended.

    Args:
        number: of the task, as given.
        value: what it returned, or None.
        error: one line that says why it failed, or None.
        trace: the traceback of an error that was not expected.
        fatal: True when no other task can succeed either.
    """

    number: int
    value: dict[str, Any] | None
    error: str | None = None
    trace: str | None = None
    fatal: bool = False


Task = tuple[str, tuple[Any, ...]]


def attempt(worker: Any, number: int, task: Task) -> Outcome:
    """Call a method of ``worker``; what it raises becomes part of the outcome."""
    method, arguments = task
    try:
        return Outcome(number, getattr(worker, method)(*arguments))
    except ThriftuneError as error:
        return Outcome(number, None, str(error), fatal=not worker.able)
    except Exception as error:
        return Outcome(number, None, f"{type(error).__name__}: {error}", traceback.format_exc())


class Here:
    """Runs tasks in this process, one after the other."""

    def __init__(self, setup: Setup) -> None:
        self.worker = make_worker(setup)

    def outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        for number, task in enumerate(tasks):
            yield attempt(self.worker, number, task)

    def close(self) -> None:
        """Nothing to end."""


class Crew:
    """Runs tasks in processes, side by side; one that dies costs its task, not the others.

    Args:
        setup: of every process.
        jobs: how many processes, at most; they start when there are tasks for them.
    """

    def __init__(self, setup: Setup, jobs: int) -> None:
        self.setup, self.jobs = setup, jobs
        self.members: dict[int, tuple[BaseProcess, connection.Connection]] = {}

    def outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Run tasks that are independent of each other; outcomes come in the order in which they end."""
        left = deque(enumerate(tasks))
        at_work: dict[int, int] = {}
        while left or at_work:
            for place in range(self.jobs):
                if place not in at_work and left:
                    number, task = left.popleft()
                    at_work[place] = number
                    if place not in self.members:
                        self.members[place] = _hire(self.setup, place, self.jobs)
                    with contextlib.suppress(OSError):  # a process that just died is found below
                        self.members[place][1].send((number, task))
            pipes = {self.members[place][1]: place for place in at_work}
            for ready in connection.wait(list(pipes)):
                place = pipes[ready]  # type: ignore[index]
                number = at_work.pop(place)
                try:
                    outcome = self.members[place][1].recv()
                except (EOFError, OSError):
                    process, pipe = self.members.pop(place)
                    pipe.close()
                    process.join()
                    outcome = Outcome(number, None, _last_words(process.exitcode, self.jobs))
                yield outcome

    def close(self) -> None:
        """End all processes, whatever they are doing: what they finished is on disk."""
        for process, pipe in self.members.values():
            pipe.close()
            process.terminate()
        for process, _ in self.members.values():
            process.join()
        self.members.clear()


def make_worker(setup: Setup) -> Any:
    from thriftune.bench.cells import Bencher
    from thriftune.study import Study

    return Bencher(Study(setup.study), BenchConfig.model_validate(setup.config), setup.model)


def _last_words(code: int | None, jobs: int) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = f"; if memory ran out, use fewer than --jobs {jobs} or a smaller batch_size" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with code {code}"


def _hire(setup: Setup, place: int, jobs: int) -> tuple[BaseProcess, connection.Connection]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(setup, theirs), daemon=True, name=f"bench-{place}")
    with _environment(_share(place, jobs, setup.config.get("finetune", {}).get("device", "auto"))):
        process.start()
    theirs.close()  # so that the end of the process closes the pipe
    return process, ours


def _share(place: int, jobs: int, device: str) -> dict[str, str]:
    """Environment of a process: its GPU, or its part of the cores; a GPU that was named is everybody's."""
    gpus = _gpus() if device in ("auto", "cuda") else []
    if gpus:
        return {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(cores // jobs, 1))
    given = os.environ.get("OMP_NUM_THREADS")
    return {"OMP_NUM_THREADS": given or threads, "NUMBA_NUM_THREADS": os.environ.get("NUMBA_NUM_THREADS", threads)}


def _gpus() -> list[str]:
    """GPUs that processes may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    # Counted by the driver: asking for more would open a CUDA context in this process.
    count = torch.cuda.device_count()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if shown is None else shown.split(",")
    return names[:count]


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _work(setup: Setup, pipe: connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    worker = make_worker(setup)
    while True:
        try:
            number, task = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(worker, number, task))


def _leave_with_parent() -> None:
    """End this process as soon as its parent is gone, however that ended: nobody would collect what it makes."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        sys.stderr.flush()
        os._exit(1)
