"""The option --selection of the verbs that have prompts answered."""

from __future__ import annotations

from typing import Annotated

import typer

Which = Annotated[
    str | None,
    typer.Option(help="Which, or 'pool' or 'holdout': all of that [the one made last].", metavar="NAME"),
]
