"""`thriftune init`: make a study of a pool of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from thriftune.pool.build import InitSummary

_SHOWN = 8  # sources and tasks listed by name


def command(
    study: Annotated[Path, typer.Argument(help="Directory to make; must not exist or be empty.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="MORE", help="Further files, so that --pool *.jsonl works.")
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH_OR_HUB_ID",
            help="jsonl, json, csv, tsv or parquet (plain, .gz, .zst), a directory of them, or a Hugging Face dataset "
            "owner/name[:config][@split]; may be given several times.",
        ),
    ] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Column of the prompt: text or a list of turns.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of unique ids; 'none' makes them from content.")] = None,
    response_column: Annotated[str | None, typer.Option(help="Column of known responses; 'none' for none.")] = None,
    task_column: Annotated[str | None, typer.Option(help="Column of task labels; 'none' for none.")] = None,
    response_as: Annotated[
        str | None,
        typer.Option(help="reference: hidden, for experiments (default); annotated: answers already paid for."),
    ] = None,
    holdout: Annotated[int | None, typer.Option(help="Prompts to set aside for evaluation.")] = None,
    holdout_from: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH_OR_HUB_ID", help="Prompts that are all set aside, a hold-out of your own."),
    ] = None,
    strict: Annotated[bool | None, typer.Option("--strict", help="Refuse the pool if any row is unusable.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the holdout (default 0).")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with an [init] table.")] = None,
) -> None:
    """Make a study: read a pool, check it, find duplicates, set prompts aside."""
    from thriftune.config import InitConfig, resolve
    from thriftune.pool.build import init

    flags: dict[str, Any] = {
        "prompt_column": prompt_column,
        "id_column": id_column,
        "response_column": response_column,
        "task_column": task_column,
        "response_as": response_as,
        "holdout": holdout,
        "strict": strict,
        "seed": seed,
    }
    settings = resolve(InitConfig, "init", flags, config)
    _print(init(study, [*(pool or []), *(more or [])], settings, holdout_from=holdout_from or []))


def _print(summary: InitSummary) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _lines(summary):
        table.add_row(title, Text(text))
    console.print(table)
    paid = not _reference(summary) and summary.responses == summary.prompts  # nothing is left to choose
    verb, model = ("finetune", " --model MODEL") if paid else ("score", "")
    console.print(f"\nNext: thriftune {verb} {summary.study.quoted}{model}", soft_wrap=True, markup=False)


def _lines(summary: InitSummary) -> list[tuple[str, str]]:
    lines = [("study", str(summary.study.path))]
    for number, source in enumerate(summary.sources):
        if number == _SHOWN and len(summary.sources) > _SHOWN + 1:
            lines.append(("", f"... and {len(summary.sources) - _SHOWN:,} more sources, all in study.json"))
            break
        split = f" (split {source.record['split']})" if "split" in source.record else ""
        split += " (held out)" if source.record.get("holdout") else ""
        rejected = f", {_rows(source.rejected)} rejected" if source.rejected else ""
        lines.append(
            (
                "" if number else "from",
                f"{source.name}{split}: {source.prompts:,} prompt{'' if source.prompts == 1 else 's'}{rejected}",
            )
        )
        lines.append(("", f"understood as {source.understood}"))
    aside = f": {summary.prompts - summary.holdout:,} to choose from, {summary.holdout:,} held out"
    lines.append(("prompts", f"{summary.prompts:,}{aside if summary.holdout else ''}"))
    if summary.config.holdout and summary.holdout != summary.config.holdout:
        lines.append(("", f"{summary.config.holdout:,} cannot be made up of whole groups of near duplicates"))
    least, first, median, third, most = summary.lengths
    lines.append(("characters", f"median {median:,}, half of all {first:,} to {third:,}; from {least:,} to {most:,}"))
    near = f"{summary.near_duplicates:,} more are near duplicates (Jaccard >= 0.8 of word 5-grams)"
    largest = f"; largest group {summary.largest_group:,}" if summary.largest_group > 1 else ""
    lines.append(("duplicates", f"{summary.exact_duplicates:,} repeat another prompt exactly; {near}{largest}"))
    if summary.leaked:
        lines.append(
            ("", f"{summary.leaked:,} to choose from repeat a held-out prompt, or nearly: leave them out of the pool")
        )
    if summary.responses:
        hidden = "known responses, kept as references: hidden from scoring and selection"
        paid = "final answers imported: they count as annotated"
        lines.append(("responses", f"{summary.responses:,} {hidden if _reference(summary) else paid}"))
    if summary.tasks:
        shown = [f"{task} {count:,}" for task, count in list(summary.tasks.items())[:_SHOWN]]
        others = len(summary.tasks) - len(shown)
        lines.append(
            ("tasks", f"{len(summary.tasks):,}: {', '.join(shown)}{f' and {others:,} more' if others else ''}")
        )
    total = sum(summary.rejects.values())
    where = (
        f", kept with their reasons in {summary.study.rejects_file}" if total else " (no empty prompt, no broken row)"
    )
    lines.append(("rejected", f"{_rows(total)}{where}"))
    for reason, count in summary.rejects.items():
        places = ", ".join(summary.examples[reason])
        lines.append(
            ("", f"{reason}: {count:,}, at {places}{', ...' if count > len(summary.examples[reason]) else ''}")
        )
    return lines


def _rows(n: int) -> str:
    return f"{n:,} row{'' if n == 1 else 's'}"


def _reference(summary: InitSummary) -> bool:
    return summary.config.response_as == "reference"
