"""thriftune select and thriftune strategies, as typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from thriftune.cli import select, strategies
from thriftune.errors import ConfigError, StrategyError
from thriftune.selection import registry
from thriftune.selection.document import markdown
from thriftune.study import Study
from thriftune.types import Candidates, Picks


def invoke(command: Callable[..., None], *arguments: object, columns: int = 120) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": str(columns)}, catch_exceptions=True)


def run(command: Callable[..., None], *arguments: object) -> str:
    result = invoke(command, *arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def test_what_is_printed(make_study: Callable[..., Study]) -> None:
    study = make_study()
    out = run(select.command, study.path, "--strategy", "mean_entropy", "--budget", 12)
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0].startswith("mean_entropy chose 12 of 60 prompts in ")
    assert "score run default, seed 0" in lines[0]
    assert any(line.startswith("tasks: 2 of 3 picked from") for line in lines)
    assert any(line.split() == ["usual", "25", "41.7%", "8", "66.7%"] for line in lines)
    assert any(line.split()[:3] == ["prompt", "beyond", "the"] and line.endswith("75.0%") for line in lines)
    assert "Look at this: 75% of the picks are prompts too long for the model" in " ".join(lines)
    assert f"thriftune export {study.path} --selection mean_entropy-12 --to csv" in " ".join(lines)
    assert study.selections() == ["mean_entropy-12"]


def test_parameters_and_certificate(make_study: Callable[..., Study]) -> None:
    study = make_study()
    arguments = ("--strategy", "k_center", "--budget", "10%", "--param", "start=random", "--seed", 3, "--name", "mine")
    out = " ".join(run(select.command, study.path, *arguments).split())
    assert "(score run default, seed 3, start random, " in out
    assert "transform centre_l2, duplicates last)" in out
    assert "Proven: every prompt lies within" in out
    assert study.selection("mine")[2]["params"]["start"] == "random"


def test_costs_and_a_budget_in_their_unit(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(meta=lambda i: {"price": 1 + i / 4})
    out = " ".join(run(select.command, study.path, "--costs", "price", "--budget-cost", 40).split())
    assert "No --strategy was given: facility_location is taken" in out
    selection, _, record = study.selection("facility_location-cost40")
    spent = sum(1 + int(i[1:]) / 4 for i in selection)
    assert record["notes"]["cost"] == spent <= 40
    assert record["params"]["costs"] == "price"
    assert record["params"]["budget_cost"] == 40
    assert record["budget"] == len(selection)
    assert f"facility_location chose {len(selection)} of 60 prompts for {spent:g} of 40 in" in out
    assert "of what the best picks that 40 buys could add to how well the pool is represented" in out
    again = run(select.command, study.path, "--strategy", "facility_location", "--costs", "price", "--budget-cost", 40)
    assert "facility_location-cost40" in again
    other = ("--strategy", "facility_location", "--costs", "n_chars", "--budget-cost", 40)
    result = invoke(select.command, study.path, *other)
    assert isinstance(result.exception, StrategyError)
    assert "'facility_location-cost40' exists with other settings (params" in str(result.exception)
    toml = tmp_path / "select.toml"
    toml.write_text('[select]\nstrategy = "facility_location"\ncosts = "n_chars"\nbudget_cost = 900.5\n')
    run(select.command, study.path, "--config", toml)
    assert study.selections() == ["facility_location-cost40", "facility_location-cost900.5"]


def test_toml_and_flags(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study()
    toml = tmp_path / "select.toml"
    toml.write_text('[select]\nstrategy = "k_center"\nbudget = 9\nparams = { transform = "l2" }\n')
    run(select.command, study.path, "--config", toml, "--budget", 5)
    assert study.selection("k_center-5")[2]["params"]["transform"] == "l2"


def test_without_a_strategy_it_says_which_and_why(make_study: Callable[..., Study]) -> None:
    out = run(select.command, make_study(scored=False).path, "--budget", 5)
    assert out.startswith("No --strategy was given: random_within_task is taken, since there are no embeddings")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), ConfigError, "budget is missing: give --budget"),
        (("--budget", "x"), ConfigError, "budget='x'"),
        (("--budget", 5, "--duplicates", "never"), ConfigError, "duplicates='never'"),
        (("--budget", 5, "--param", "start"), StrategyError, "write it as name=value"),
        (("--budget", 5, "--strategy", "k_center", "--param", "begin=mean"), StrategyError, "no parameter 'begin'"),
        (("--budget", 5, "--strategy", "none_such"), StrategyError, "unknown strategy 'none_such'"),
    ],
)
def test_mistakes(
    make_study: Callable[..., Study], arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    result = invoke(select.command, make_study().path, *arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_an_interrupted_choice_is_kept_and_marked(make_study: Callable[..., Study]) -> None:
    def stopped(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
        """Only for this test."""
        return Picks(np.arange(3), partial=True)

    registry.discover()
    registry.strategy(name="stopped", source="a test")(stopped)
    try:
        study = make_study()
        result = invoke(select.command, study.path, "--strategy", "stopped", "--budget", 10)
        assert result.exit_code == 130
        assert "Stopped after 3 of 10 picks; what was picked is kept, marked partial." in result.stdout
        ids, _, record = study.selection("stopped-10")
        assert len(ids) == 3
        assert record["partial"] is True
    finally:
        registry._registered.pop("stopped")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_list_tells_all_of_every_strategy_at_any_width(columns: int) -> None:
    result = invoke(strategies.command, columns=columns)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    text = " ".join(result.stdout.split())
    for name, strategy in registry.strategies().items():
        start = lines.index(name)
        assert lines[start + 1].startswith("  ")
        what = strategy.summary.partition(". ")[0].rstrip(".").replace("``", "")
        assert f"{name} {what}. needs: " in text
        assert f"source: {strategy.source}" in text
    assert "needs: score mean_entropy" in text


def test_one_strategy_in_detail() -> None:
    out = " ".join(run(strategies.command, "facility_location").split())
    assert "needs: embeddings" in out
    assert "uses where given: weights" in out
    assert "--param gamma=number > 0 or 'auto' (default" in out
    assert "source: Cornuejols" in out
    out = run(strategies.command, "uncertain_per_token")
    assert "--param power=number >= 0 (default 0.5)" in out


def test_the_documentation_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "strategies.md"
    assert page.read_text(encoding="utf-8") == markdown(), (
        "docs/strategies.md is out of date: python -m thriftune.selection.document > docs/strategies.md"
    )
    assert run(strategies.command, "--markdown") == markdown()
    assert "uncertain_per_token" not in markdown()
