"""The `thriftune` command: verbs, and what happens when one fails."""

from __future__ import annotations

import errno
import io
import os
import sys
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
from thriftune.errors import ThriftuneError

_STOPPED = 130
_CONTINUES = "\nthriftune: stopped; what was finished is kept, the same command continues"
# Not bugs: the place that was to be written, not what was to be written there.
_PLACES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_NAMES = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}

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


def main() -> None:
    """Run the command line; exits 2 with one line for an error the user can mend, 130 when stopped."""
    # Before torch loads OpenMP: threads that spin while they wait starve each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Names of files and texts of prompts may hold what the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        except SystemExit as end:
            # Typer has turned Ctrl-C into this.
            if end.code == _STOPPED:
                print(_CONTINUES, file=sys.stderr)
            raise
        except KeyboardInterrupt:  # before Typer was at work
            print(_CONTINUES, file=sys.stderr)
            sys.exit(_STOPPED)
        finally:
            sys.stdout.flush()
    except ThriftuneError as error:
        print(f"thriftune: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output (head, less) left; not an error, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in _PLACES | _NAMES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        what = (
            "see that there is room and that it can be written; what was finished is kept, the same command continues"
        )
        if error.errno in _NAMES:
            what = "give another path or name"
        print(f"thriftune: {where}{os.strerror(error.errno or 0)}: {what}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
