"""`thriftune bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[
        Path, typer.Argument(help="The study directory, or a TOML file that names it.", metavar="STUDY|CONFIG.toml")
    ],
    *,
    strategies: Annotated[
        str | None,
        typer.Option(
            help="Against random [default: facility_location,k_center,mean_entropy; with --control the first].",
            metavar="A,B",
            show_default=False,
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option("--budgets", "--budget", help="Annotations to compare at [default: 50,100,200].", metavar="N,N"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Repetitions: each draws its pool, items and training [default: 3; 8 to rely on].", min=1),
    ] = None,
    random_seeds: Annotated[
        int | None, typer.Option(help="Of random, at least as many [default: as the rest].", min=1)
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="heldout, and benchmarks such as mmlu, bbh [default: heldout].", metavar="A,B")
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="Held-out prompts a seed, balanced over tasks [default: all].", min=1)
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The one that decides, named before looking [default: nll].")
    ] = None,
    subsample: Annotated[
        float | None, typer.Option(help="Share of the pool that a seed draws [default: 0.8].", min=0.0, max=1.0)
    ] = None,
    model: Annotated[str | None, typer.Option(help="To fine-tune [default: the one that scored].")] = None,
    run: Annotated[str | None, typer.Option(help="Score run to select by [default: the latest].")] = None,
    annotations: Annotated[
        str | None, typer.Option(help="Known responses: reference, human, teacher [default: reference].")
    ] = None,
    generate: Annotated[
        bool | None, typer.Option("--generate", help="Also answer the held-out prompts: exact match, ROUGE-L.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Your own check of answers: a name or MODULE:FUNCTION; generates.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Questions a benchmark task [default: all].", min=1)] = None,
    data: Annotated[str | None, typer.Option(help="Directory with mmlu.parquet, bbh.parquet.", metavar="DIR")] = None,
    control: Annotated[
        float | None,
        typer.Option(
            help="Without known responses: keep this share of --budget as a random control arm.",
            min=0.0,
            max=1.0,
            metavar="SHARE",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Cells at a time, a process each, one a GPU [default: 1].", min=1)
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Run --jobs cells at a time on this Ray cluster, whose machines see STUDY; local: on this machine.",
            metavar="ADDRESS|local",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the experiment [default: bench].")] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add to an experiment already begun; the analysis will say so.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure the speed, print the plan, write nothing.")
    ] = False,
) -> None:
    """Measure what a strategy saves: fine-tune on what each picks, against random, over budgets and seeds.

    The pool's responses must be known (or see --control). The same command, or STUDY and --name alone, continues where
    it was stopped. Settings of the fine-tuning stand in the [bench.finetune] table of CONFIG.toml.
    """
    from thriftune.bench import recipe as recipes
    from thriftune.bench.control import control_arm
    from thriftune.bench.run import bench
    from thriftune.study import Study

    flags = {
        "strategies": strategies,
        "budgets": budgets,
        "seeds": seeds,
        "random_seeds": random_seeds,
        "tasks": tasks,
        "items": items,
        "metric": metric,
        "subsample": subsample,
        "run": run,
        "annotations": annotations,
        "generate": generate,
        "scorer": scorer,
        "limit": limit,
        "data": data,
        "control": control,
        "jobs": jobs,
        "ray": ray,
        "name": name,
    }
    recipe = recipes.read(source) if recipes.is_recipe(source) else None
    config = recipes.settings(recipe, flags)
    others = {key for key, value in {**flags, "model": model}.items() if value is not None} - {"name", "jobs", "ray"}
    if recipe is None and not others:
        begun = recipes.planned(Study(source), name)
        config = config if begun is None else begun.model_copy(update={"jobs": config.jobs, "ray": config.ray})
    if model is not None:
        config = config.model_copy(update={"finetune": config.finetune.model_copy(update={"model": model})})

    def say(line: str) -> None:
        print(line, flush=True)

    study = Study(source) if recipe is None else recipes.prepare(recipe, dry_run=dry_run, say=say)
    if config.control is not None:
        control_arm(study, config, dry_run=dry_run, say=say)
    else:
        bench(study, config, dry_run=dry_run, extend=extend, say=say)
