"""Options that every command has which asks a model server, and the question before it costs something."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thriftune.endpoint import Agree, Estimate

Url = Annotated[
    str | None, typer.Option("--endpoint", help="The server's address, e.g. http://127.0.0.1:8000/v1.", metavar="URL")
]
Model = Annotated[str | None, typer.Option(help="The model's name, as the server knows it.", metavar="NAME")]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        help="Environment variable that holds the key [default: THRIFTUNE_API_KEY; OPENAI_API_KEY for OpenAI's hosts].",
        metavar="NAME",
    ),
]
PlainHttp = Annotated[
    bool | None, typer.Option("--plain-http", help="Allow http to another host; it can be read on the way.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer [default: 1024].")]
Temperature = Annotated[
    str | None, typer.Option(help="A number, or server for the server's own [default: 0].", metavar="T")
]
Concurrency = Annotated[int | None, typer.Option(help="Requests at a time [default: 8].")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for an answer [default: 300].")]
Retries = Annotated[
    int | None, typer.Option(help="Tries after a failed one, with growing pauses; two after a timeout [default: 6].")
]
BudgetTokens = Annotated[
    int | None, typer.Option(help="Never spend more tokens than this in one run, read and written.", metavar="N")
]
BudgetMoney = Annotated[
    float | None, typer.Option(help="Never spend more than this in one run; needs both prices.", metavar="M")
]
PriceIn = Annotated[float | None, typer.Option(help="Price of a million tokens read.", metavar="M")]
PriceOut = Annotated[float | None, typer.Option(help="Price of a million tokens written.", metavar="M")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a run that may cost much.")]


def number(text: str | None) -> float | str | None:
    """``text`` as a number where it is one; settings refuse the rest."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def agree(yes: bool) -> Agree:
    """Ask a person where the estimate is large: more than a million tokens elsewhere, or 1.00 at the prices given."""

    def answer(estimate: Estimate) -> bool:
        from thriftune.errors import EndpointError

        if yes or not estimate.large:
            return True
        if not sys.stdin.isatty():
            raise EndpointError("this may cost much and nobody is there to ask: add --yes, or set --budget-tokens")
        return typer.confirm("go on?")

    return answer
