"""`thriftune teach`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thriftune.cli import endpoint as options
from thriftune.cli.which import Which


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", metavar="STUDY")],
    *,
    endpoint: options.Url = None,
    model: options.Model = None,
    selection: Which = None,
    system: Annotated[str | None, typer.Option(help="A system prompt for the teacher.", metavar="TEXT")] = None,
    answered_too: Annotated[
        bool | None, typer.Option("--answered-too", help="Also prompts that people have answered.")
    ] = None,
    redo_cut: Annotated[
        bool | None, typer.Option("--redo-cut", help="Ask again where the answer was cut at --max-tokens.")
    ] = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    concurrency: options.Concurrency = None,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    budget_tokens: options.BudgetTokens = None,
    budget_money: options.BudgetMoney = None,
    price_in: options.PriceIn = None,
    price_out: options.PriceOut = None,
    api_key_env: options.ApiKeyEnv = None,
    plain_http: options.PlainHttp = None,
    yes: options.Yes = False,
    config: Annotated[Path | None, typer.Option(help="TOML file with a [teach] table; flags win over it.")] = None,
) -> None:
    """Have a model server answer the selected prompts. Resumes where it stopped; people's answers stay apart."""
    from thriftune.annotation.teacher import teach
    from thriftune.config import TeachConfig, resolve
    from thriftune.study import Study

    flags = {
        "endpoint": endpoint,
        "model": model,
        "selection": selection,
        "system": system,
        "answered_too": answered_too,
        "redo_cut": redo_cut,
        "max_tokens": max_tokens,
        "temperature": options.number(temperature),
        "concurrency": concurrency,
        "timeout": timeout,
        "retries": retries,
        "budget_tokens": budget_tokens,
        "price_in": price_in,
        "price_out": price_out,
        "budget_money": budget_money,
        "api_key_env": api_key_env,
        "plain_http": plain_http,
    }
    opened = Study(study)
    done = teach(opened, resolve(TeachConfig, "teach", flags, config), agree=options.agree(yes))
    if done.answered or done.before > done.cut_before:
        print(f"next: thriftune finetune {opened.quoted} --selection {done.selection} --annotations teacher")
