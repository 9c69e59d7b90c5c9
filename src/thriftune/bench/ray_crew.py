"""Cells on a Ray cluster: actors that see the study's file system, one for each GPU where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from thriftune.bench.workers import Outcome, Setup, Task, attempt, make_worker
from thriftune.cluster import Crew, Lost, host
from thriftune.errors import ThriftuneError


class _Member:
    """Runs on a machine of the cluster."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.worker: Any = None

    def attempt(self, task: Task) -> Outcome:
        if self.worker is None:
            try:
                self.worker = make_worker(self.setup)
            except ThriftuneError as error:
                told = f"on {host()}: {error} (all machines of the cluster must see the study's directory)"
                return Outcome(0, None, told, fatal=True)
        return attempt(self.worker, 0, task)


class RayCrew:
    """Runs tasks in Ray actors, side by side; a task whose actor is lost is given to another.

    Args:
        setup: of every actor.
        jobs: how many actors, at most; they start when there are tasks for them.
        address: see `cluster.Crew`.

    Raises:
        ClusterError: there is no cluster at that address.
        MissingDependency: Ray is not installed.
    """

    def __init__(self, setup: Setup, jobs: int, address: str) -> None:
        self.crew = Crew(_Member, setup, address, jobs, command="thriftune bench --ray")

    def outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Run tasks that are independent of each other; outcomes come in the order in which they end."""
        for number, outcome in self.crew.outcomes(("attempt", task) for task in tasks):
            if isinstance(outcome, Lost):
                yield Outcome(number, None, f"its worker was lost again and again: {outcome.why}")
            else:
                yield Outcome(number, outcome.value, outcome.error, outcome.trace, outcome.fatal)

    def close(self) -> None:
        """End all actors, whatever they are doing: what they finished is on disk."""
        self.crew.close()
