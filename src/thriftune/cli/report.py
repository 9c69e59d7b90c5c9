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
    out: Annotated[
        Path | None, typer.Option(help="File to write; an earlier report is overwritten [default: STUDY/report.html].")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the figures of experiments and models (PNG, SVG) and their tables (CSV) "
            "[default: report-figures beside the page]."
        ),
    ] = None,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Write the page alone.")] = False,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report: one HTML file with what was measured, the map of the pool and each selection's top picks."""
    from thriftune.report.page import write_report

    names = None if selections is None else [n for n in (part.strip() for part in selections.split(",")) if n]
    file = write_report(study, run=run, selections=names, out=out)
    print(f"report: {file} ({file.stat().st_size / 1e6:.1f} MB, one file, works offline)")
    # Beside a device or a pipe nobody looks for figures.
    if not no_figures and (figures is not None or file.is_file()):
        _beside(study, file, figures, names)
    if open_:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())


def _beside(study: Path, page: Path, figures: Path | None, selections: list[str] | None) -> None:
    import importlib.util

    from thriftune.report.beside import write_beside

    directory = page.with_name(f"{page.stem}-figures") if figures is None else figures
    # Asked for, a missing matplotlib is an error; otherwise the page and the tables are what there is.
    draw = figures is not None or importlib.util.find_spec("matplotlib") is not None
    written = write_beside(study, directory, selections=selections, draw=draw)
    if not written and figures is None:
        return
    drawn = sum(1 for f in written if f.suffix == ".svg")
    tables = sum(1 for f in written if f.suffix == ".csv")
    print(f"figures: {directory} ({drawn} as PNG and SVG; {tables} tables as CSV)")
    if not draw:
        print("figures are not drawn without matplotlib: pip install 'thriftune[figures]'")
