"""`thriftune label-studio`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from thriftune.cli.which import Which

app = typer.Typer(
    no_args_is_help=True,
    help="Have a selection annotated in Label Studio. The access token is read from LABEL_STUDIO_API_KEY.",
)

_Study = Annotated[Path, typer.Argument(help="The study directory.", metavar="STUDY")]
_Url = Annotated[str, typer.Option(help="Address of the server.")]
_Project = Annotated[str, typer.Option(help="Title or number of the project.", show_default=False)]
_LOOPBACK = "http://127.0.0.1:8080"


@app.command("push")
def push_command(
    study: _Study,
    *,
    project: _Project,
    url: _Url = _LOOPBACK,
    selection: Which = None,
    draft: Annotated[
        bool, typer.Option("--draft/--no-draft", help="With the model's own answer as a prediction, or without.")
    ] = True,
    guidelines: Annotated[Path | None, typer.Option(help="Text or HTML shown to annotators of a new project.")] = None,
) -> None:
    """Push a selection, in pick order; prompts that are there already are passed over."""
    from thriftune.annotation.label_studio import push
    from thriftune.errors import AnnotationError
    from thriftune.study import Study

    try:
        text = "" if guidelines is None else guidelines.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{guidelines} cannot be read: {error}") from None
    opened = Study(study)
    done = push(opened, url, project, selection=selection, draft=draft, guidelines=text)
    print(f"{done.new} prompts pushed, {done.there} were there: {done.address}")
    words = f"{opened.quoted} --url {shlex.quote(url)} --project {done.project}"
    print(f"when they are answered: thriftune label-studio pull {words}")


@app.command("pull")
def pull_command(study: _Study, *, project: _Project, url: _Url = _LOOPBACK) -> None:
    """Bring the answers back, with annotator and time spent; again is safe."""
    from thriftune.annotation.ingest import describe
    from thriftune.annotation.label_studio import pull
    from thriftune.cli.ingest import summary
    from thriftune.study import Study

    opened = Study(study)
    done = pull(opened, url, project)
    print(summary(done))
    if done.skipped:
        print(f"warning: left out as not this study's: {describe('task', done.skipped)}", file=sys.stderr)
    print(f"next: thriftune status {opened.quoted}")
