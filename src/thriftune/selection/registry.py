"""The registry of strategies: each is one decorated function, and the rest about it is read off that function."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated, Any, TypeVar

from thriftune.errors import StrategyError, ThriftuneWarning
from thriftune.selection.parameters import Parameter
from thriftune.types import IntArray

ENTRY_POINTS = "thriftune.strategies"
# Columns of Candidates that a strategy sees only when it declares them; ids and annotated are always there.
COLUMNS = ("embeddings", "scores", "tasks", "lengths", "costs", "weights")
# What `select` takes itself, so no strategy may have a parameter of that name.
_RESERVED = frozenset(
    (
        *(*COLUMNS, "ids", "annotated", "groups", "source", "strategy", "budget", "seed", "run", "duplicates"),
        *("transform", "at_least", "at_most"),
    )
)
_MONEY = "budget_cost"
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_PROMPTS = "rows of prompts"

Rows = Annotated[IntArray, _PROMPTS]
"""Annotation of a strategy's parameter that holds prompts: callers give ids or a selection, the strategy gets rows."""

Randomised = bool | Callable[[Mapping[str, Any]], bool]
Prefix = bool | Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
Function = TypeVar("Function", bound=Callable[..., Any])

_registered: dict[str, Strategy] = {}


@dataclass(frozen=True)
class Strategy:
    """A registered strategy.

    Args:
        name: how users call it.
        function: ``f(candidates, budget, rng, **params) -> Picks``.
        summary: the first paragraph of its docstring: what it does and when to use it.
        source: the paper or book it comes from.
        needs: columns it cannot work without: ``embeddings``, ``tasks``, ``lengths``, ``costs``, ``weights``,
            ``scores`` (all), ``scores:NAME``, or ``scores:{PARAMETER}``: the score that the parameter names.
        uses: columns it reads where they are there.
        parameters: its own, by name.
        prefix: whether a selection is, cut to any smaller budget, the selection at that budget; see `prefix_closed`.
        randomised: whether the seed matters; see `uses_seed`.
        priced: whether it takes ``budget_cost``, what the picks may cost together, instead of their number.
        by_angle: whether it compares embeddings by angle, which vectors of length zero have none of.
        module: where it was defined.
    """

    name: str
    function: Callable[..., Any]
    summary: str
    source: str
    needs: tuple[str, ...]
    uses: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    prefix: Prefix = False
    randomised: Randomised = False
    priced: bool = False
    by_angle: bool = False
    module: str = ""

    @property
    def uses_tasks(self) -> bool:
        """Whether it reads task labels, and is to be reported apart from those that do not."""
        return "tasks" in (*self.needs, *self.uses)

    @property
    def description(self) -> str:
        """The whole docstring; its first paragraph is ``summary``."""
        return inspect.getdoc(self.function) or ""

    @property
    def built_in(self) -> bool:
        """Whether it comes with thriftune."""
        return self.module.startswith("thriftune.")

    def prefix_closed(self, params: Mapping[str, Any], notes: Mapping[str, Any]) -> bool:
        """Whether a selection with these (resolved) parameters and notes may be cut to a smaller budget."""
        return self.prefix(params, notes) if callable(self.prefix) else self.prefix

    def uses_seed(self, params: Mapping[str, Any]) -> bool:
        """Whether the seed changes what is picked with these (resolved) parameters."""
        return self.randomised(params) if callable(self.randomised) else self.randomised

    def needed(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """``needs`` with the names of parameters replaced by their values."""
        return tuple(need.format_map(params) for need in self.needs)

    def score(self, params: Mapping[str, Any]) -> str | None:
        """The score it ranks by, where it ranks by exactly one."""
        named = [need.removeprefix("scores:") for need in self.needed(params) if need.startswith("scores:")]
        return named[0] if len(named) == 1 else None

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters: those given, converted and checked, over the defaults.

        Raises:
            StrategyError: one is unknown, missing or impossible; all of them in one message.
        """
        problems = []
        known = ", ".join(f"{p.name} ({p.type_name})" for p in self.parameters.values()) or "none"
        unknown = [name for name in given if name not in self.parameters]
        if unknown:
            problems.append(f"no parameter {', '.join(map(repr, unknown))} (it has: {known})")
        values: dict[str, Any] = {}
        for parameter in self.parameters.values():
            try:
                values[parameter.name] = parameter.value(given)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise StrategyError(f"{self.name}: {'; '.join(problems)}")
        return values


def strategy(
    *,
    name: str,
    needs: tuple[str, ...] = (),
    uses: tuple[str, ...] = (),
    source: str,
    prefix: Prefix = False,
    randomised: Randomised = False,
    by_angle: bool = False,
) -> Callable[[Function], Function]:
    """Register ``f(candidates, budget, rng, *, param: type = default, ...) -> Picks`` as a strategy.

    The function gets rows ``0..n-1`` of an immutable `Candidates` with the columns it declared, returns exactly
    ``budget`` distinct rows that are not annotated, in pick order, and breaks ties by the lower row. Its docstring's
    first paragraph is shown to users: what it does, and when to use it. With a keyword ``budget_cost: float | None =
    None`` it can be asked for as many picks as that much money buys instead: then ``candidates.costs`` are there, and
    ``budget`` only says how many could be picked.

    Args:
        name: lower case, digits and underscores.
        needs: columns it cannot work without, see `Strategy`.
        uses: columns it reads where they are there.
        source: the paper it comes from.
        prefix: True when a selection is valid at every smaller budget; or a predicate of the resolved parameters and
            of the notes that the strategy left in its Picks.
        randomised: True when the seed matters; or a predicate of the resolved parameters.
        by_angle: True when it compares embeddings by angle: then none may be all zero.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        StrategyError: the name is taken, or the function is not of that form.
    """

    def register(function: Function) -> Function:
        module = getattr(function, "__module__", "")
        summary = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
        if not _NAME.match(name):
            raise StrategyError(f"strategy name {name!r}: use lower case letters, digits and '_', a letter first")
        if not summary:
            raise StrategyError(f"strategy {name!r} has no docstring: say what it does and when to use it")
        for need in (*needs, *uses):
            if need.partition(":")[0] not in COLUMNS:
                raise StrategyError(f"strategy {name!r} needs {need!r}: there are {', '.join(COLUMNS)}, scores:NAME")
        earlier = _registered.get(name)
        if earlier is not None and (earlier.module, earlier.function.__qualname__) != (module, function.__qualname__):
            raise StrategyError(f"strategy name {name!r} is taken by {earlier.module}: choose another")
        parameters = _parameters(name, function)
        priced = _MONEY in inspect.signature(function).parameters
        if priced and "costs" not in (*needs, *uses):
            raise StrategyError(f"strategy {name!r} takes {_MONEY} and not costs: add 'costs' to what it uses")
        _registered[name] = Strategy(
            name,
            function,
            summary,
            source,
            tuple(needs),
            tuple(uses),
            parameters,
            prefix,
            randomised,
            priced,
            by_angle,
            module,
        )
        return function

    return register


def _parameters(name: str, function: Callable[..., Any]) -> dict[str, Parameter]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise StrategyError(f"strategy {name!r}: {error}: its annotations must be importable at run time") from None
    found: dict[str, Parameter] = {}
    wanted = [p for p in inspect.signature(function).parameters.values() if p.name != _MONEY]
    for parameter in wanted[3:]:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.name not in hints:
            raise StrategyError(f"strategy {name!r}: parameter {parameter.name!r} must be keyword-only and annotated")
        if parameter.name in _RESERVED:
            raise StrategyError(f"strategy {name!r}: parameter {parameter.name!r} is select()'s own: rename it")
        hint = hints[parameter.name]
        rows = _PROMPTS in getattr(hint, "__metadata__", ())
        found[parameter.name] = Parameter(parameter.name, hint, parameter.default, rows)
    if len(wanted) - len(found) != 3:
        raise StrategyError(f"strategy {name!r}: it must take (candidates, budget, rng, *, parameters)")
    return found


@functools.cache
def discover() -> None:
    """Import every module of selection/strategies and every installed package's entry point, once.

    An entry point that cannot be loaded is reported as a `ThriftuneWarning` that names its package.
    """
    from thriftune.selection import strategies

    for module in pkgutil.iter_modules(strategies.__path__, f"{strategies.__name__}."):
        importlib.import_module(module.name)
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.value
            warnings.warn(
                f"the strategies of package {package!r} could not be loaded ({type(error).__name__}: {error}): "
                f"update it or pip uninstall {package}",
                ThriftuneWarning,
                stacklevel=2,
            )


def strategies() -> dict[str, Strategy]:
    """Every strategy by name: ours first, in alphabetical order, then those of other packages."""
    discover()
    return {s.name: s for s in sorted(_registered.values(), key=lambda s: (not s.built_in, s.name))}


def get(name: str) -> Strategy:
    """The strategy called ``name``.

    Raises:
        StrategyError: there is none.
    """
    known = strategies()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise StrategyError(f"unknown strategy {name!r}: {hint} See: thriftune strategies")
    return known[name]
