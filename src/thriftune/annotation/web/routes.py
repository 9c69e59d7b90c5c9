"""What the server does for the page, one function a path, and its description for others (OpenAPI)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from thriftune import __version__
from thriftune.annotation.desk import Desk
from thriftune.annotation.web import requests as ask

_REFUSALS = {
    "400": "The request cannot be carried out; nothing was changed.",
    "401": "The token is missing.",
    "403": "Another site sent this.",
    "408": "The body did not arrive in time.",
    "409": "The text was changed in another window; `page` is as it is there.",
    "413": "Larger than the server takes.",
    "415": "Not application/json.",
    "421": "The server does not go by this name.",
    "422": "A field is missing, unknown or impossible.",
    "500": "A bug.",
    "503": "The answers cannot be written at the moment; nothing was changed.",
}
_OF_CHANGES = ("403", "408", "413", "415")


@dataclass(frozen=True)
class Route:
    """One path.

    Args:
        method: GET or POST.
        path: below /api/.
        takes: the fields of the query or the JSON body.
        does: gets them and gives the reply as JSON values.
        about: a sentence.
    """

    method: str
    path: str
    takes: TypeAdapter[Any]
    does: Callable[[Any], Awaitable[Any]]
    about: str


def make_routes(desk: Desk) -> dict[str, Route]:
    """The routes by path."""
    adapters: dict[type, TypeAdapter[Any]] = {}

    def route(method: str, path: str, takes: type, about: str, does: Callable[[Any], Any]) -> Route:
        async def done(body: Any) -> Any:
            return await asyncio.wrap_future(does(body))

        adapter = adapters.setdefault(takes, TypeAdapter(takes))
        return Route(method, path, adapter, done, about)

    async def study(body: ask.Nothing) -> dict[str, Any]:
        terms = desk.queue.terms
        return {
            "study": desk.study.path.resolve().name,
            "selection": desk.selection,
            "target": terms.target,
            "overlap": terms.overlap,
            "drafts": desk.show_drafts,
            "guidelines": await asyncio.to_thread(_guidelines, desk),
            "names": await asyncio.wrap_future(desk.names()),
            "longest": ask.LONGEST,
        }

    def written(step: Callable[..., Any]) -> Callable[[ask.Written], Any]:
        return lambda b: step(b.name, b.id, b.text, b.seconds, b.revision)

    found = [
        Route("GET", "study", TypeAdapter(ask.Nothing), study, "What is annotated here, and how."),
        route("POST", "next", ask.Next, "Be handed a prompt, leased to the person.",
              lambda b: desk.next(b.name, b.after)),
        route("POST", "open", ask.About, "Open a given prompt, leased to the person if it is free.",
              lambda b: desk.open(b.name, b.id)),
        route("POST", "draft", ask.Written, "Keep a half-written text.", written(desk.save)),
        route("POST", "answer", ask.Written, "Give an answer; the reply is the next prompt.", written(desk.answer)),
        route("POST", "skip", ask.Skipped, "Pass or flag a prompt; the reply is the next one.",
              lambda b: desk.skip(b.name, b.id, b.seconds, b.reason, b.flag)),
        route("POST", "undo", ask.By, "Take the person's last step back.", lambda b: desk.undo(b.name)),
        route("GET", "find", ask.Sought, "Prompts by words and state.", lambda b: desk.find(b.name, b.query, b.state)),
        route("GET", "trail", ask.By, "The prompts a person has done, oldest first.", lambda b: desk.trail(b.name)),
        route("GET", "standing", ask.Nothing, "Done, left, pace, hours to go, by person.", lambda b: desk.standing()),
        route("GET", "reviews", ask.Nothing, "What there is to review, and how well people agree.",
              lambda b: desk.reviews()),
        route("POST", "sides", ask.About, "The answers to one prompt side by side.", lambda b: desk.side_by_side(b.id)),
        route("POST", "decide", ask.Decided, "Take or merge answers.",
              lambda b: desk.decide(b.name, b.id, b.text, b.seen)),
        route("POST", "reopen", ask.Reopened, "Take a decision back, or flags off.",
              lambda b: desk.reopen(b.id, b.what)),
    ]  # fmt: skip
    return {f"/api/{r.path}": r for r in found}


def describe(routes: dict[str, Route]) -> dict[str, Any]:
    """The routes as an OpenAPI document."""
    paths: dict[str, Any] = {}
    for path, r in routes.items():
        schema = r.takes.json_schema()
        refused = {code: {"description": why} for code, why in _REFUSALS.items() if r.method == "POST" or code not in
                   (*_OF_CHANGES, "409")}  # fmt: skip
        operation: dict[str, Any] = {
            "summary": r.about,
            "operationId": r.path,
            "responses": {
                "200": {"description": "Done.", "content": {"application/json": {"schema": {}}}},
                **refused,
            },
        }
        if r.method == "POST":
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        else:
            operation["parameters"] = [
                {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": kind}
                for name, kind in schema.get("properties", {}).items()
            ]
        paths[path] = {r.method.lower(): operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "thriftune annotate", "version": __version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
        "paths": paths,
    }


def _guidelines(desk: Desk) -> str | None:
    file = desk.guidelines
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8", errors="replace") as handle:
            return handle.read(ask.LONGEST)
    except OSError:
        return None
