"""`thriftune annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thriftune.cli.which import Which


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", metavar="STUDY")],
    *,
    selection: Which = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on [127.0.0.1]; 0.0.0.0 lets others in, with a token.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port [8765, or the next free one].")] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="What browsers must show; made up beyond this machine.", envvar="THRIFTUNE_TOKEN", show_envvar=True
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name of this server; repeatable.")
    ] = None,
    overlap: Annotated[int | None, typer.Option(help="How many people answer each prompt [1].")] = None,
    lease_minutes: Annotated[
        float | None, typer.Option(help="How long a prompt stays with who last touched it [15].")
    ] = None,
    hide_drafts: Annotated[
        bool | None, typer.Option("--hide-drafts", help="Do not show models' answers: they anchor people.")
    ] = None,
    guidelines: Annotated[
        Path | None, typer.Option(help="Markdown file shown beside the work [STUDY/guidelines.md].", metavar="FILE")
    ] = None,
    reserve: Annotated[
        int | None, typer.Option(help="Prompts kept to take the place of flagged ones [a fifth, at least 20].")
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    config: Annotated[Path | None, typer.Option(help="TOML file with an [annotate] table; flags win.")] = None,
) -> None:
    """Answer the selected prompts in the browser: nothing is lost, several people at once, stops and goes on anywhere.

    Beyond this machine (--host) the page needs a token, which is part of the address that is printed.
    """
    from thriftune.config import AnnotateConfig, resolve
    from thriftune.errors import AnnotationError, require
    from thriftune.study import HOLDOUT, POOL, Study

    for module in ("uvicorn",):
        require(module, command="thriftune annotate", install="'thriftune[annotate]'")
    from thriftune.annotation.desk import Desk
    from thriftune.annotation.export import latest
    from thriftune.annotation.web.serve import bind, serve
    from thriftune.cli.reserve import Keeper, wanted
    from thriftune.reserve import stored

    given = {
        "selection": selection,
        "host": host,
        "port": port,
        "allow_host": allow_host or None,
        "overlap": overlap,
        "lease_minutes": lease_minutes,
        "hide_drafts": hide_drafts,
        "guidelines": guidelines,
        "reserve": reserve,
    }
    settings = resolve(AnnotateConfig, "annotate", given, config)
    if token is not None and (len(token) < 8 or not token.isascii() or any(c in token for c in ' ";,\\&#%+')):
        raise AnnotationError("the token is too short or holds a character that an address cannot: give 8 or more")
    opened = Study(study)
    name = settings.selection or latest(opened)
    text = settings.guidelines or opened.path / "guidelines.md"
    if settings.guidelines is not None and not text.is_file():
        raise AnnotationError(f"{text} is not there: --guidelines names a Markdown file")
    listener = bind(settings.host, settings.port, search="port" not in settings.model_fields_set)
    desk = Desk(
        opened,
        name,
        overlap=settings.overlap,
        lease=settings.lease_minutes * 60,
        drafts=not settings.hide_drafts,
        guidelines=text,
        reserve=stored(opened, name),
    )
    keeper = None
    count = wanted(desk.queue.terms.target) if settings.reserve is None else settings.reserve
    if name not in (HOLDOUT, POOL) and count:
        keeper = Keeper(desk, count, print)
        keeper.start()
    try:
        serve(desk, listener, host=settings.host, token=token, allow=settings.allow_host, browser=open_, say=_say)
    finally:
        if keeper is not None:
            keeper.stop()


def _say(line: str) -> None:
    # At once: who starts the server from a script reads the address from a pipe.
    print(line, flush=True)
