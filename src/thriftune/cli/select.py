"""thriftune select: choose which prompts to annotate."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.")],
    *,
    strategy: Annotated[
        str | None, typer.Option(help="How to choose, see: thriftune strategies. Without it we choose, and say why.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="N|P%", help="How many prompts, or a share of the pool.")
    ] = None,
    costs: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="What each prompt costs: a number column of the pool file, or n_prompt_tokens."
        ),
    ] = None,
    budget_cost: Annotated[
        float | None, typer.Option(metavar="C", help="With --costs: what the picks may cost together, for --budget.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of randomised strategies [0].")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the strategy; repeatable.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda", help="Where products are computed: short for --param device=.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the selection [STRATEGY-BUDGET].")] = None,
    run: Annotated[str | None, typer.Option(help="Which score run [the latest].")] = None,
    duplicates: Annotated[
        str | None,
        typer.Option(metavar="last|keep", help="A text picked or annotated before: comes last, or like any [last]."),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=N",
            help="So many picks of a task, served first; task=N: of every task. May be given several times.",
        ),
    ] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=N", help="No more picks of a task; task=N: of any. May be given several times."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Let this Ray cluster build the graph of neighbours of a large pool; local: on this machine.",
            metavar="ADDRESS|local",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="With --ray: at most so many [one a machine].", min=1)] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with a [select] table; flags win.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite a selection of that name made with other settings.")
    ] = False,
) -> None:
    """Choose which prompts to annotate, and show how the choice covers the pool."""
    from rich.console import Console

    from thriftune.config import SelectConfig, resolve
    from thriftune.errors import ConfigError
    from thriftune.selection.parameters import parse
    from thriftune.selection.present import show_choice
    from thriftune.selection.quotas import parse_quotas
    from thriftune.selection.ray_crew import on_cluster
    from thriftune.selection.store import choose
    from thriftune.study import Study

    flags = {
        "strategy": strategy,
        "budget": budget,
        "costs": costs,
        "budget_cost": budget_cost,
        "seed": seed,
        "params": parse([*(param or []), *([f"device={device}"] if device else [])]) if param or device else None,
        "name": name,
        "run": run,
        "duplicates": duplicates,
        "at_least": parse_quotas(at_least, "--at-least"),
        "at_most": parse_quotas(at_most, "--at-most"),
    }
    if workers is not None and ray is None:
        raise ConfigError("--workers are of a cluster: give --ray ADDRESS or --ray local, too")
    opened, settings = Study(study), resolve(SelectConfig, "select", flags, config)
    with contextlib.nullcontext() if ray is None else on_cluster(ray, workers):
        chosen = choose(opened, settings, replace=replace)
    show_choice(chosen, opened, Console(highlight=False))
    if chosen.selection.partial:
        raise typer.Exit(130)
