"""`thriftune embed`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from thriftune.cli import endpoint as options


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", metavar="STUDY")],
    *,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="A sentence-transformers model (hub id, directory or package:NAME), or endpoint:NAME for a server's.",
            metavar="NAME",
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Whose scores go with them [default: the latest run's].")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new score run [default: RUN-EMBEDDER].")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="What the embedder wants before each text, e.g. 'query: '.", metavar="TEXT")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Hub branch, tag or commit.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps [default: auto].")] = None,
    trust_remote_code: Annotated[
        bool | None, typer.Option("--trust-remote-code", help="Let the model's repository run its own code.")
    ] = None,
    endpoint: options.Url = None,
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
    config: Annotated[Path | None, typer.Option(help="TOML file with an [embed] table; flags win over it.")] = None,
) -> None:
    """A score run once more, with embeddings of another model; select --run chooses. Resumes where it stopped."""
    from thriftune.config import EmbedConfig, resolve
    from thriftune.scoring.embed import embed
    from thriftune.study import Study

    flags = {
        "embedder": embedder,
        "run": run,
        "name": name,
        "prefix": prefix,
        "revision": revision,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "endpoint": endpoint,
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
    made = embed(Study(study), resolve(EmbedConfig, "embed", flags, config), agree=options.agree(yes))
    print(f"next: thriftune select {shlex.quote(str(study))} --run {made.name} --budget N|P%")
