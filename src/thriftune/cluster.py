"""A Ray cluster: actors that do tasks side by side; what a lost one was doing is done by another."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from thriftune.errors import ClusterError, ThriftuneError, require

_TRIES = 3  # machines of a cluster come and go; what fails as often as this fails by itself
_PATIENCE_S = 60.0  # with nobody at work, until it is said that the cluster has no room

Task = tuple[Any, ...]  # the name of an actor's method and its arguments


@dataclass(frozen=True)
class Lost:
    """In place of a task's value: every actor that tried it was lost."""

    why: str


class Crew:
    """Actors on a cluster. Close it when done.

    Args:
        member: class of the actors, importable on every machine of the cluster; made from ``setup``.
        setup: pickled, for every actor.
        address: of the cluster, as `ray.init` takes it; ``local`` starts one on this machine, which ends with `close`.
        workers: how many actors, at most; None: one for each GPU, or for each machine where there are none. They start
            when there are tasks for them.
        command: what needs Ray, as the user would type it.
        gpus: False for work that has no use for GPUs.
        say: receives the lines meant for people.

    Raises:
        ClusterError: there is no cluster at that address.
        MissingDependency: Ray is not installed.
    """

    def __init__(
        self,
        member: type,
        setup: Any,
        address: str,
        workers: int | None,
        *,
        command: str,
        gpus: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster would report home
        self.ray = require("ray", command=command, install="'thriftune[ray]'")
        self.setup, self.say = setup, say
        self.members, self.starting, self.idle = dict[int, Any](), dict[Any, int](), list[int]()
        self.mine = not self.ray.is_initialized()
        local = {"num_cpus": max(workers or 1, _cores()), "include_dashboard": False} if address == "local" else {}
        try:
            _reach(address)
            if self.mine:
                self.ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
        except Exception as error:  # Ray raises just that where a machine is too busy to start in time
            what = "Ray does not start here" if address == "local" else f"no Ray cluster at {address!r}"
            todo = "try again" if address == "local" else "give the address of its head node, or --ray local"
            raise ClusterError(f"{what} ({_short(error)}): {todo}") from None
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        self.workers, gpu, cores = share(machines, workers, gpus)
        # Ray gives an actor as many threads as it has cores.
        self.actor = self.ray.remote(num_gpus=gpu, num_cpus=cores)(member)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def outcomes(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Any]]:
        """Do tasks that are independent of each other.

        Args:
            tasks: taken up as actors become free.

        Yields:
            Each task's number and value, or `Lost`, in the order in which they end.

        Raises:
            ClusterError: actors cannot be started.
            ThriftuneError: a task did.
        """
        numbered = ((number, task, 1) for number, task in enumerate(tasks))
        left: deque[tuple[int, Task, int]] = deque()
        at_work: dict[Any, tuple[int, int, Task, int]] = {}
        failed, reason = 0, ""
        while True:
            left.extend(islice(numbered, max(self.workers - len(left), 0)))
            while left and self.idle:
                number, task, tries = left.popleft()
                place = self.idle.pop()
                method = getattr(self.members[place], task[0])
                at_work[method.remote(*task[1:])] = place, number, task, tries
            if not left and not at_work:
                return
            while failed < _TRIES and len(self.starting) < len(left) and len(self.members) < self.workers:
                self._start(min(set(range(self.workers)) - set(self.members)))
            if not at_work and not self.starting:
                raise ClusterError(f"the cluster's workers do not start ({reason}): see its logs")
            found, _ = self.ray.wait([*at_work, *self.starting], num_returns=1, timeout=_PATIENCE_S)
            if not found and not at_work:
                self.say(f"the cluster has no room yet for one of {self.workers} workers: waiting")
            for ref in found:
                if ref in self.starting:
                    place = self.starting.pop(ref)
                    value = self._value(ref, place)
                    if not isinstance(value, Lost):
                        self.idle.append(place)
                        failed = 0
                        continue
                    failed += 1
                    reason = value.why
                    continue
                place, number, task, tries = at_work.pop(ref)
                value = self._value(ref, place)
                if not isinstance(value, Lost):
                    self.idle.append(place)
                elif tries < _TRIES:
                    self.say(f"a worker was lost ({value.why}); what it was doing is done again")
                    left.append((number, task, tries + 1))
                    continue
                yield number, value

    def _start(self, place: int) -> None:
        self.members[place] = self.actor.remote(self.setup)
        self.starting[self.members[place].__ray_ready__.remote()] = place

    def _value(self, ref: Any, place: int) -> Any:
        """What a call returned, or `Lost`, and then the actor is given up; what it raised of ours is raised here."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as error:
            self.idle.append(place)
            if isinstance(error.cause, ThriftuneError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            self.ray.kill(self.members.pop(place))
            return Lost(_short(error))

    def close(self) -> None:
        """End all actors, whatever they are doing."""
        for member in self.members.values():
            self.ray.kill(member)
        self.members.clear()
        self.starting.clear()
        self.idle.clear()
        if self.mine:
            self.ray.shutdown()


def share(machines: list[dict[str, float]], workers: int | None, gpus: bool) -> tuple[int, int, int]:
    """How a cluster is divided.

    Args:
        machines: resources of each, as Ray names them.
        workers: how many are wanted; None: see `Crew`.
        gpus: whether each is to have a GPU, where there are any.

    Returns:
        How many workers there is room for, at most as many as wanted; GPUs and cores of each.
    """
    there = sum(int(m.get("GPU", 0)) for m in machines) if gpus else 0
    if there:
        return min(workers or there, there), 1, 1
    cores = [int(m.get("CPU", 0)) for m in machines]
    count = min(workers or sum(c > 0 for c in cores), max(sum(cores), 1))
    each = max(cores, default=1)
    while each > 1 and sum(c // each for c in cores) < count:
        each -= 1
    return max(count, 1), 0, max(each, 1)


def host() -> str:
    """This machine's name, for messages."""
    return os.uname().nodename if hasattr(os, "uname") else socket.gethostname()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _reach(address: str) -> None:
    """Ray itself tries for minutes to reach a machine that is not there."""
    name, _, port = address.removeprefix("ray://").rpartition(":")
    if name and port.isdigit():
        socket.create_connection((name.strip("[]"), int(port)), timeout=10).close()
