"""The parameters of strategies: read off annotations, given as Python values or as text on the command line."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from thriftune.errors import StrategyError


@dataclass(frozen=True)
class Parameter:
    """One parameter of a strategy.

    Args:
        name: its name.
        annotation: its type; anything pydantic understands, e.g. ``Literal["mean", "random"]``.
        default: its default, or ``inspect.Parameter.empty`` when it must be given.
        prompts: True when it holds prompts (see `registry.Rows`); `select` converts those.
    """

    name: str
    annotation: Any
    default: Any
    prompts: bool = False

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def type_name(self) -> str:
        """The type in words, for help texts and errors."""
        return "ids, or a selection" if self.prompts else _words(self.annotation)

    def value(self, given: Mapping[str, Any]) -> Any:
        """Its value: the one in ``given``, converted and checked, or the default.

        Raises:
            ValueError: it is required and not there, or impossible.
        """
        if self.name not in given:
            if self.required:
                raise ValueError(f"parameter {self.name} ({self.type_name}) must be given")
            return self.default
        value = given[self.name]
        if self.prompts:
            return value
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(self.annotation).validate_python(value)
        except ValidationError:
            raise ValueError(f"{self.name}={value!r} is not {self.type_name}") from None


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _words(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(repr(value) for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in typing.get_args(annotation))
    if origin is typing.Annotated:
        limits = [
            f"{sign} {getattr(part, key)}"
            for mark in annotation.__metadata__
            for part in (mark, *getattr(mark, "metadata", ()))
            for key, sign in _SIGNS.items()
            if getattr(part, key, None) is not None
        ]
        return " ".join([_words(annotation.__origin__), *limits])
    if annotation is type(None):
        return "None"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def parse(pairs: Iterable[str]) -> dict[str, str]:
    """``["k=v", ...]`` as typed on the command line.

    Returns:
        Text by name; `Strategy.resolve` converts it.

    Raises:
        StrategyError: one has no ``=``, or a name comes twice.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise StrategyError(f"--param {pair!r}: write it as name=value, e.g. --param kernel=cosine")
        if name in values:
            raise StrategyError(f"--param {name} is given twice ({values[name]!r} and {value!r}): keep one")
        values[name] = value.strip()
    return values
