"""Registering and finding strategies, and their parameters as text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from fake_package import install
from pydantic import Field

from thriftune.errors import StrategyError, ThriftuneWarning
from thriftune.selection import registry
from thriftune.selection.parameters import parse
from thriftune.selection.registry import Strategy, strategy
from thriftune.types import Candidates, Picks


@pytest.fixture(autouse=True)
def _only_for_this_test() -> Iterator[None]:
    registry.discover()
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)
    registry.discover()


def example(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    share: Annotated[float, Field(ge=0, le=1)] = 0.5,
    rounds: int = 3,
    mode: Literal["fast", "slow"] | None = None,
    careful: bool = False,
    label: str = "x",
) -> Picks:
    """Takes the first prompts.
    Use it in tests.

    More about it.
    """
    return Picks(np.arange(budget))


def registered(**facts: Any) -> Strategy:
    strategy(**{"name": "example", "source": "a test", **facts})(example)
    return registry.get("example")


def test_everything_is_read_off_the_function() -> None:
    found = registered(needs=("scores:{label}",), uses=("tasks",), prefix=lambda params, notes: params["rounds"] > 1)
    assert found.summary == "Takes the first prompts. Use it in tests."
    assert found.description.endswith("More about it.")
    assert {p.name: p.type_name for p in found.parameters.values()} == {
        "share": "number >= 0 <= 1",
        "rounds": "whole number",
        "mode": "'fast' or 'slow' or None",
        "careful": "true or false",
        "label": "text",
    }
    assert found.uses_tasks
    assert not found.built_in
    params = found.resolve({})
    assert params == {"share": 0.5, "rounds": 3, "mode": None, "careful": False, "label": "x"}
    assert found.needed(params) == ("scores:x",)
    assert found.score(params) == "x"
    assert found.prefix_closed(params, {})
    assert not found.prefix_closed({**params, "rounds": 1}, {})


def test_text_becomes_the_parameters_type() -> None:
    typed = parse(["share=0.25", "rounds=7", "mode=slow", "careful=true", "label=a=b"])
    assert registered().resolve(typed) == {
        "share": 0.25,
        "rounds": 7,
        "mode": "slow",
        "careful": True,
        "label": "a=b",
    }


def test_all_wrong_parameters_are_named_at_once() -> None:
    with pytest.raises(StrategyError) as caught:
        registered().resolve({"share": "2", "rounds": "many", "mode": "slow", "other": 1})
    assert str(caught.value) == (
        "example: no parameter 'other' (it has: share (number >= 0 <= 1), rounds (whole number), "
        "mode ('fast' or 'slow' or None), careful (true or false), label (text)); "
        "share='2' is not number >= 0 <= 1; rounds='many' is not whole number"
    )


@pytest.mark.parametrize(
    ("pairs", "message"), [(["share"], "name=value"), (["=3"], "name=value"), (["a=1", "a=2"], "a is given twice")]
)
def test_params_that_cannot_be_parsed(pairs: list[str], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        parse(pairs)


def no_docstring(candidates: Any, budget: Any, rng: Any) -> Any: ...


def too_few(candidates: Any, budget: Any) -> Any:
    """Lacks the generator."""


def positional(candidates: Any, budget: Any, rng: Any, width: float) -> Any:
    """Its parameter is not keyword-only."""


def reserved(candidates: Any, budget: Any, rng: Any, *, weights: float = 1.0) -> Any:
    """Its parameter is one of select's."""


@pytest.mark.parametrize(
    ("function", "facts", "message"),
    [
        (no_docstring, {}, "has no docstring"),
        (too_few, {}, r"must take \(candidates, budget, rng"),
        (positional, {}, "'width' must be keyword-only and annotated"),
        (reserved, {}, "'weights' is select"),
        (example, {"name": "Bad Name"}, "'Bad Name': use lower case"),
        (example, {"name": "random"}, "'random' is taken by thriftune.selection.strategies.random"),
        (example, {"needs": ("vectors",)}, "needs 'vectors': there are embeddings"),
    ],
)
def test_functions_of_another_form_are_refused(function: Any, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        strategy(**{"name": "example", "source": "a test", **facts})(function)


def test_registering_again_after_a_reload_is_fine() -> None:
    assert registered().name == registered().name


def test_strategies_of_other_packages_are_found() -> None:
    found = registry.get("uncertain_per_token")
    assert found.module == "own_strategy"
    assert not found.built_in
    assert list(registry.strategies())[-1] == "uncertain_per_token"


def test_a_broken_package_is_named_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken-strategies", "a = broken_strategies", "broken_strategies", "1 / 0")
    install(tmp_path, "gone-strategies", "a = module_that_is_not_there")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    registry.discover.cache_clear()
    with pytest.warns(ThriftuneWarning) as caught:
        assert "random" in registry.strategies()
    messages = sorted(str(w.message) for w in caught)
    assert len(messages) == 2
    assert "package 'broken-strategies' could not be loaded (ZeroDivisionError" in messages[0]
    assert "package 'gone-strategies' could not be loaded (ModuleNotFoundError" in messages[1]
    monkeypatch.undo()
    registry.discover.cache_clear()
