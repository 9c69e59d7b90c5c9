"""`thriftune finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", show_default=False)],
    selection: Annotated[
        str | None, typer.Option(help="Learn from this selection's answers only [default: all answers].")
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(help="human, teacher or reference; several with commas, first wins [default: human]."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model [default: the one that scored the pool].")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub branch, tag or commit.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, or full for all weights [default: lora].")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank [default: 16].")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha [default: 32].")] = None,
    dropout: Annotated[float | None, typer.Option(help="LoRA dropout [default: 0].")] = None,
    target_modules: Annotated[
        str | None, typer.Option(help="Modules LoRA adapts, separated by commas [default: all-linear].")
    ] = None,
    learning_rate: Annotated[str | None, typer.Option(help="Peak learning rate, or auto [default: auto].")] = None,
    epochs: Annotated[str | None, typer.Option(help="How often each example is seen, or auto [default: auto].")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step [default: 16].")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Cut longer examples, prompts first [default: the model's context].")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Of the learning rate: linear, cosine or constant [default: linear].")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of adapter, batches and dropout [default: 0].")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16 [default: auto].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps [default: auto].")] = None,
    merge: Annotated[
        bool | None, typer.Option("--merge", help="Also write adapter and base as one plain model directory.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model [default: the selection's].")] = None,
    trust_remote_code: Annotated[
        bool | None, typer.Option("--trust-remote-code", help="Let the model's repository run its own code.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with a [finetune] table; flags win over it.")] = None,
) -> None:
    """Fine-tune a model on the answers, with LoRA by default. Resumes where it stopped."""
    from thriftune.config import FinetuneConfig, resolve
    from thriftune.finetuning.run import finetune
    from thriftune.study import Study

    flags = {
        "selection": selection,
        "annotations": annotations,
        "model": model,
        "revision": revision,
        "method": method,
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "target_modules": target_modules,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "schedule": schedule,
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "merge": merge,
        "name": name,
        "trust_remote_code": trust_remote_code,
    }
    opened = Study(study)
    directory = finetune(opened, resolve(FinetuneConfig, "finetune", flags, config))
    print(f"next: thriftune evaluate {opened.quoted} --model {directory.name}")
