"""`thriftune export`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from thriftune.cli.which import Which


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", metavar="STUDY")],
    path: Annotated[Path, typer.Argument(help="The file to write; '-' for standard output.", metavar="PATH")],
    *,
    to: Annotated[
        str | None,
        typer.Option(
            help="jsonl, csv, messages, prompt-completion, alpaca, sharegpt, label-studio or argilla; by default what "
            "the suffix of PATH says (.csv, .jsonl)."
        ),
    ] = None,
    selection: Which = None,
    draft: Annotated[
        bool, typer.Option("--draft/--no-draft", help="With the model's own answer, or without: it anchors people.")
    ] = True,
    annotations: Annotated[
        str, typer.Option(help="Whose answers: human, teacher or reference; several with commas, first wins.")
    ] = "human",
    answered_only: Annotated[
        bool, typer.Option("--answered-only", help="Only prompts that have a final answer: a training file.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite PATH; never a file of the study itself.")] = False,
) -> None:
    """Write a selection to a file, for people to answer or to train on.

    csv is for spreadsheets: cells that one would run as formulas get an apostrophe, which import takes off again.
    """
    from thriftune.annotation.export import export
    from thriftune.annotation.formats import TRAINING
    from thriftune.study import Study

    stdout = str(path) == "-"
    opened = Study(study)
    done = export(
        opened,
        None if stdout else path,
        to=to,
        selection=selection,
        draft=draft,
        annotations=annotations,
        answered_only=answered_only,
        force=force,
    )
    print(
        f"{done.rows} prompts of {done.selection} ({done.answered} answered) to "
        f"{'standard output' if stdout else path} as {done.format}",
        file=sys.stderr,
    )
    open_rows = done.rows - done.answered
    if open_rows and done.format in TRAINING:
        print(f"{open_rows} have no answer yet: add --answered-only for a file to train on", file=sys.stderr)
    elif open_rows and path.is_file():
        print(f"when they are answered: thriftune import {opened.quoted} {shlex.quote(str(path))}", file=sys.stderr)
