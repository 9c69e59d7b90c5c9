"""thriftune strategies: the list, and one in detail."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(help="One of them, in detail.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/strategies.md.")] = False,
) -> None:
    """List the ways of choosing prompts: what each needs and where it comes from."""
    from rich.console import Console

    from thriftune.selection import registry
    from thriftune.selection.document import markdown as page
    from thriftune.selection.present import show_strategies, show_strategy

    console = Console(highlight=False)
    if markdown:
        print(page(), end="")
    elif name is None:
        show_strategies(registry.strategies(), console)
    else:
        show_strategy(registry.get(name), console)
