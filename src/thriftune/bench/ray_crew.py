"""Cells on a Ray cluster: actors that see the study's file system, one for each GPU where there are any."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from thriftune.bench.workers import Outcome, Setup, Task, attempt, make_worker
from thriftune.errors import BenchError, ThriftuneError, require

_TRIES = 3  # machines of a cluster come and go; what fails as often as this fails by itself


class _Member:
    """Runs on a machine of the cluster."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.worker: Any = None

    def attempt(self, number: int, task: Task) -> Outcome:
        if self.worker is None:
            try:
                self.worker = make_worker(self.setup)
            except ThriftuneError as error:
                told = f"on {os.uname().nodename}: {error} (all machines of the cluster must see the study's directory)"
                return Outcome(number, None, told, fatal=True)
        return attempt(self.worker, number, task)


class RayCrew:
    """Runs tasks in Ray actors, side by side; a task whose actor is lost is given to another.

    Args:
        setup: of every actor.
        jobs: how many actors, at most; they start when there are tasks for them.
        address: of the cluster, as `ray.init` takes it; ``local`` starts one on this machine, which ends with `close`.

    Raises:
        BenchError: there is no cluster at that address.
        MissingDependency: Ray is not installed.
    """

    def __init__(self, setup: Setup, jobs: int, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster would report home
        self.ray = require("ray", command="thriftune bench --ray", install="'thriftune[ray]'")
        self.setup, self.jobs, self.members = setup, jobs, dict[int, Any]()
        self.mine = not self.ray.is_initialized()
        if self.mine:
            cpus = {"num_cpus": max(jobs, os.cpu_count() or 1)} if address == "local" else {}
            try:
                _reach(address)
                self.ray.init(address=address, log_to_driver=False, logging_level="ERROR", **cpus)
            except (OSError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise BenchError(
                    f"no Ray cluster at {address!r} ({reason}): give the address of its head node, or --ray local"
                ) from None
        there = self.ray.cluster_resources()
        gpus = 1 if there.get("GPU", 0) >= 1 else 0
        # Ray gives an actor as many threads as it has cores.
        cores = 1 if gpus else max(int(there.get("CPU", 1)) // jobs, 1)
        self.actor = self.ray.remote(num_gpus=gpus, num_cpus=cores)(_Member)

    def outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Run tasks that are independent of each other; outcomes come in the order in which they end."""
        left = deque((number, task, 1) for number, task in enumerate(tasks))
        at_work: dict[Any, tuple[int, int, Task, int]] = {}
        while left or at_work:
            idle = [place for place in range(self.jobs) if place not in {w[0] for w in at_work.values()}]
            for place in idle[: len(left)]:
                number, task, tries = left.popleft()
                if place not in self.members:
                    self.members[place] = self.actor.remote(self.setup)
                at_work[self.members[place].attempt.remote(number, task)] = (place, number, task, tries)
            (ready, *_), _ = self.ray.wait(list(at_work), num_returns=1)
            place, number, task, tries = at_work.pop(ready)
            try:
                outcome: Outcome = self.ray.get(ready)
            except self.ray.exceptions.RayActorError as error:
                self.members.pop(place)
                if tries < _TRIES:
                    left.append((number, task, tries + 1))
                    continue
                why = " ".join(str(error).split())[:300]
                outcome = Outcome(number, None, f"its worker was lost {tries} times: {why}")
            yield outcome

    def close(self) -> None:
        """End all actors, whatever they are doing: what they finished is on disk."""
        for member in self.members.values():
            self.ray.kill(member)
        self.members.clear()
        if self.mine:
            self.ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself tries for minutes to reach a machine that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
