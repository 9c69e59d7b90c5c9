"""`thriftune import`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from thriftune.errors import AnnotationError

if TYPE_CHECKING:
    from thriftune.annotation.ingest import Imported

_SHOWN = 5


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", metavar="STUDY")],
    path: Annotated[
        Path, typer.Argument(help="A file in any format that export writes, told apart by content.", metavar="PATH")
    ],
    *,
    annotator: Annotated[str, typer.Option(help="Who answered, where the file does not say.", metavar="NAME")] = "",
    source: Annotated[
        Literal["human", "teacher"],
        typer.Option(help="Whether people or a teacher model answered, where the file does not say."),
    ] = "human",
    replace: Annotated[
        bool, typer.Option("--replace", help="Let answers that differ replace those in force (kept as history).")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the good rows of a file that has broken ones.")
    ] = False,
) -> None:
    """Bring answers back, matched by id.

    One broken row refuses the whole file. An answer that differs from the one in force is left out and reported; the
    others are imported, and the exit status is 2. What was left out is kept in a file, which goes once it is imported.
    """
    from thriftune.annotation.conflicts import drop_conflicts, keep_conflicts
    from thriftune.annotation.ingest import describe, ingest
    from thriftune.study import Study

    opened = Study(study)
    done = ingest(opened, path, annotator=annotator, source=source, replace=replace, skip_bad=skip_bad)
    print(summary(done))
    if done.edited:
        shown = ", ".join(done.edited[:_SHOWN]) + (", ..." if len(done.edited) > _SHOWN else "")
        print(
            f"warning: {len(done.edited)} prompts in {path} are not the study's text: {shown}; their answers were "
            "taken by id: look at these rows; where an id is wrong, mend it and import again, and give the prompt that "
            "has the answer wrongly its own, with --replace",
            file=sys.stderr,
        )
    if done.skipped:
        print(f"warning: left out as broken: {describe(path, done.skipped)}", file=sys.stderr)
    place = keep_conflicts(opened, path, done.conflicts) if done.conflicts else None
    if not done.skipped and drop_conflicts(opened, path):
        print(f"{path} is removed: all in it was imported or is kept elsewhere")
    if place is not None:
        for c in done.conflicts[:_SHOWN]:
            offered, held = _short(c.offered.response), _short(c.in_force.response)
            print(f"  {path}:{c.line}: {c.offered.prompt_id}: {offered} but in force is {held}")
        more = len(done.conflicts) - _SHOWN
        raise AnnotationError(
            f"{len(done.conflicts)} answers differ from those in force, which were kept"
            f"{f' ({more} more than shown)' if more > 0 else ''}: all are in {place}; delete the lines you do not "
            f"want, then: thriftune import {opened.quoted} {shlex.quote(str(place))} --replace"
        )
    print(f"next: thriftune status {opened.quoted}")


def summary(done: Imported) -> str:
    """What an import did, in a line."""
    parts = [f"{done.new} new"]
    if done.replaced:
        parts.append(f"{done.replaced} replaced, the old ones kept as history")
    if done.unchanged:
        parts.append(f"{done.unchanged} unchanged")
    if done.unanswered:
        parts.append(f"{done.unanswered} not answered yet")
    if done.by_text:
        parts.append(f"{done.by_text} of unknown id matched by the prompt's text")
    if done.conflicts:
        parts.append(f"{len(done.conflicts)} in conflict and left out")
    if done.skipped:
        parts.append(f"{len(done.skipped)} broken and left out")
    count = done.new + done.replaced
    return f"imported {count} answer{'' if count == 1 else 's'}: " + "; ".join(parts)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else flat[:57] + "...")
