"""Other machines that take over parts of the work, where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from thriftune.selection.engine.blocks import Run

# Calls a function of a module on each tuple of arguments, with threads of its own as the last one; yields each
# tuple's number and what came of it, in any order.
Helpers = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[tuple[int, Any]]]

helpers: ContextVar[Helpers | None] = ContextVar("helpers", default=None)


def helped(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], run: Run[Any]) -> Iterator[tuple[int, Any]]:
    """Call ``function(*task, run)`` for each task, on other machines where there are any; see `Helpers`."""
    there = helpers.get()
    if there is not None:
        return there(function, tasks)
    return ((number, function(*task, run)) for number, task in enumerate(tasks))
