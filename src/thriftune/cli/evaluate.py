"""`thriftune evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", show_default=False)],
    *,
    model: Annotated[
        str | None,
        typer.Option(
            help="A fine-tuned model of the study, base, a directory or a hub id [default: the latest fine-tuned "
            "model, else base: the model that scored the pool]."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Hub branch, tag or commit.")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="heldout, mmlu, mmlu_5shot, bbh (direct answers), bbh_cot (chain of thought) or any task of "
            "lm-evaluation-harness, separated by commas [default: heldout]."
        ),
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(help="Known responses: human, teacher, reference; the first wins [default: human,reference]."),
    ] = None,
    generate: Annotated[
        bool | None,
        typer.Option("--generate/--no-generate", help="Also let the model answer the held-out prompts [default: yes]."),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer [default: 64].")] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="Cut longer held-out prompts in the middle [default: the model's context].")
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="Your own check of an answer: its name, or MODULE:FUNCTION called with prompt, answer and reference."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only N held-out prompts, at random, and the first N questions of each task.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Directory with mmlu.parquet and bbh.parquet; without it, from the hub.")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples shown [default: each task's own number].")] = None,
    apply_chat_template: Annotated[
        bool | None, typer.Option("--apply-chat-template", help="Put public benchmarks into the model's chat template.")
    ] = None,
    batch_size: Annotated[str | None, typer.Option(help="Prompts a batch, or auto [default: auto].")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the prompts of --limit [default: 0].")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16 [default: auto].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps [default: auto].")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the evaluation [default: the model's].")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make an evaluation of that name anew where settings differ.")
    ] = False,
    trust_remote_code: Annotated[
        bool | None, typer.Option("--trust-remote-code", help="Let the model's repository run its own code.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with an [evaluate] table; flags win over it.")] = None,
) -> None:
    """Measure a model on held-out prompts and public benchmarks. Finished tasks are kept; resumes where it stopped.

    Held-out prompts: likelihood of the known response, exact match and ROUGE-L of the model's own answer.
    """
    from rich.console import Console

    from thriftune.config import EvaluateConfig, resolve
    from thriftune.evaluation.present import show
    from thriftune.evaluation.run import evaluate
    from thriftune.study import Study

    flags = {
        "model": model,
        "revision": revision,
        "tasks": tasks,
        "annotations": annotations,
        "generate": generate,
        "max_new_tokens": max_new_tokens,
        "max_prompt_tokens": max_prompt_tokens,
        "scorer": scorer,
        "limit": limit,
        "data": None if data is None else str(data),
        "num_fewshot": num_fewshot,
        "apply_chat_template": apply_chat_template,
        "batch_size": int(batch_size) if batch_size and batch_size.isdigit() else batch_size,
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "name": name,
        "trust_remote_code": trust_remote_code,
    }
    opened = Study(study)
    file = evaluate(
        opened,
        resolve(EvaluateConfig, "evaluate", flags, config),
        replace=replace,
        say=lambda line: print(line, flush=True),
    )
    show(opened, file, Console(highlight=False))
