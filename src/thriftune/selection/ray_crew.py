"""Selection with the help of a Ray cluster: workers take shares of the graph of neighbours, picking stays here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from thriftune.cluster import Crew, Lost
from thriftune.errors import ClusterError
from thriftune.selection.engine.blocks import workers
from thriftune.selection.engine.sharing import helpers


class Hand:
    """Runs on a machine of the cluster, with as many threads as it was given cores."""

    def __init__(self, _setup: None) -> None:
        pass

    def call(self, function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
        """What ``function`` makes of a task."""
        with workers() as run:
            return function(*task, run)


@contextlib.contextmanager
def on_cluster(address: str, count: int | None = None, *, say: Callable[[str], None] = print) -> Iterator[None]:
    """Selections in this block let a cluster take over what can be divided; what they pick does not change.

    Args:
        address: of the cluster, or ``local``; see `cluster.Crew`. It is asked for when there is something to do.
        count: workers, at most; None: one for each machine.
        say: receives the lines meant for people.

    Raises:
        ClusterError: there is no cluster at that address, or its workers are lost again and again.
        MissingDependency: Ray is not installed.
    """
    crew: Crew | None = None

    def call(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        nonlocal crew
        if crew is None:
            crew = Crew(Hand, None, address, count, command="thriftune select --ray", gpus=False, say=say)
        for number, value in crew.outcomes(("call", function, task) for task in tasks):
            if isinstance(value, Lost):
                raise ClusterError(
                    f"worker after worker was lost ({value.why}): if memory ran out, use fewer --workers, or select "
                    "without --ray"
                )
            yield number, value

    before = helpers.set(call)
    try:
        yield
        if crew is None:
            say("--ray was not used: this selection builds no graph of neighbours (see its engine)")
    finally:
        helpers.reset(before)
        if crew is not None:
            crew.close()
