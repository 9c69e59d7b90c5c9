"""`thriftune judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thriftune.cli import endpoint as options


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", metavar="STUDY")],
    evaluation_a: Annotated[str, typer.Argument(help="An evaluation with answers.", metavar="EVALUATION_A")],
    evaluation_b: Annotated[
        str, typer.Argument(help="Another on the same prompts; the win rate is A's.", metavar="EVALUATION_B")
    ],
    *,
    endpoint: options.Url = None,
    model: options.Model = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Show the judge a known answer, too: human, teacher or reference.", metavar="KIND"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many prompts, drawn with --seed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of that draw [default: 0].")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the judgements [default: A-vs-B].")] = None,
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
    config: Annotated[Path | None, typer.Option(help="TOML file with a [judge] table; flags win over it.")] = None,
) -> None:
    """Have a model server compare two models' answers, in both orders. Judgements are kept; a rerun asks the rest."""
    from thriftune.config import JudgeConfig, resolve
    from thriftune.evaluation.judge import judge
    from thriftune.study import Study

    flags = {
        "endpoint": endpoint,
        "model": model,
        "reference": reference,
        "limit": limit,
        "seed": seed,
        "name": name,
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
    settings = resolve(JudgeConfig, "judge", flags, config)
    judge(Study(study), evaluation_a, evaluation_b, settings, agree=options.agree(yes))
