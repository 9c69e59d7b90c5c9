"""The `thriftune` command's verbs, in the order of the flow."""

from __future__ import annotations

from typing import Annotated

import typer

from thriftune import __version__, progress
from thriftune.cli import (
    annotate,
    bench,
    demo,
    embed,
    evaluate,
    export,
    finetune,
    ingest,
    init,
    judge,
    label_studio,
    report,
    score,
    select,
    status,
    strategies,
    teach,
)

app = typer.Typer(
    help="Choose which prompts to annotate, so that fine-tuning a language model costs fewer annotations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The order of the flow is the order of --help.
app.command("demo")(demo.command)
app.command("init")(init.command)
app.command("score")(score.command)
app.command("embed")(embed.command)
app.command("select")(select.command)
app.command("strategies")(strategies.command)
app.command("annotate")(annotate.command)
app.command("export")(export.command)
app.command("import")(ingest.command)
app.command("teach")(teach.command)
app.command("finetune")(finetune.command)
app.command("evaluate")(evaluate.command)
app.command("judge")(judge.command)
app.command("bench")(bench.command)
app.command("report")(report.command)
app.command("status")(status.command)
app.add_typer(label_studio.app, name="label-studio")


def _version(show: bool) -> None:
    if show:
        print(f"thriftune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    progress.enable()
