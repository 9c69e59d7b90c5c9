"""`thriftune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.")],
    run: Annotated[str | None, typer.Option(help="Score run to show [default: the latest].")] = None,
    selections: Annotated[
        str | None, typer.Option(help="Selections to show, separated by commas [default: all].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write [default: STUDY/report.html].")] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report: one HTML file with the map of the pool, the coverage of each selection and its top picks."""
    from thriftune.report.page import write_report

    names = None if selections is None else [n for n in (part.strip() for part in selections.split(",")) if n]
    file = write_report(study, run=run, selections=names, out=out)
    print(f"report: {file} ({file.stat().st_size / 1e6:.1f} MB, one file, works offline)")
    if open_:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())
