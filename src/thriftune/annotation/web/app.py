"""The page's server: files, and JSON in and out. Every reply to a change comes after it is on disk.

An ASGI application without a framework: it has fifteen paths, and a framework takes longer over a save than the save.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError

from thriftune.annotation.answers import Conflict
from thriftune.annotation.desk import Desk
from thriftune.annotation.web.routes import Route, describe, make_routes
from thriftune.errors import AnnotationError, StudyError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY = 4 * 1024 * 1024
TOO_LARGE = f"the request is larger than {MAX_BODY // 2**20} MiB"
BODY_SECONDS = 60.0
_TYPES = {".js": b"text/javascript", ".css": b"text/css", ".html": b"text/html", ".svg": b"image/svg+xml"}
_LOG = logging.getLogger("uvicorn.error")


class Refusal(Exception):
    """A request that is not carried out.

    Args:
        status: of HTTP.
        reply: JSON values.
        headers: further ones.
    """

    def __init__(self, status: int, reply: dict[str, Any], headers: Headers | None = None) -> None:
        self.status, self.reply, self.headers = status, reply, headers or []


def make_app(desk: Desk) -> App:
    """The server's application, without its guard.

    Args:
        desk: the work.

    Returns:
        An ASGI application.
    """
    files = _files()
    routes = make_routes(desk)
    described = _json(describe(routes))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        try:
            route = routes.get(path)
            if route is not None:
                _only(method, route.method)
                value = await _read(route, scope, receive)
                await _send(send, 200, _json(await route.does(value)))
            elif path == "/api/openapi.json":
                _only(method, "GET")
                await _send(send, 200, described)
            else:
                _only(method, "GET", "HEAD")
                await _file(scope, send, files)
        except Exception as error:
            refusal = _explained(error)
            if refusal is not None:
                await _send(send, refusal.status, _json(refusal.reply), refusal.headers)

    return app


def _only(method: str, *methods: str) -> None:
    if method not in methods:
        raise Refusal(405, {"error": f"only {' and '.join(methods)} here"}, [(b"allow", ", ".join(methods).encode())])


def _explained(error: Exception) -> Refusal | None:
    """What a client is told; None where it is gone."""
    match error:
        case Refusal():
            return error
        case _Gone():
            return None
        case Conflict():
            return Refusal(409, {"error": str(error), "page": error.detail()})
        case AnnotationError():
            return Refusal(400, {"error": str(error)})
        case StudyError():
            return Refusal(503, {"error": str(error)})
    # The traceback names our lines, not what was written.
    _LOG.error("a request failed", exc_info=error)
    return Refusal(500, {"error": f"a bug in thriftune ({type(error).__name__}): the server's output says where"})


class _Gone(Exception):
    """The client left."""


async def _read(route: Route, scope: Scope, receive: Receive) -> Any:
    """The request's fields, checked."""
    try:
        if route.method == "GET":
            return route.takes.validate_python(_query(scope))
        return route.takes.validate_json(await _body(scope, receive))
    except ValidationError as error:
        # Without what was sent: it may be a million characters.
        told = "; ".join(
            f"{e['loc'][-1] if e['loc'] else 'body'}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise Refusal(422, {"error": told[:1000].encode("utf-8", "replace").decode()}) from None


def _query(scope: Scope) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20
        )
    except ValueError as error:
        raise Refusal(422, {"error": f"query: {type(error).__name__}"}) from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise Refusal(422, {"error": "query: a field is given twice"})
    return fields


async def _body(scope: Scope, receive: Receive) -> bytes:
    pieces, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                piece = message.get("body", b"")
                size += len(piece)
                if size > MAX_BODY:
                    raise Refusal(413, {"error": TOO_LARGE})
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        raise Refusal(408, {"error": "the request took too long to arrive"}, [(b"connection", b"close")]) from None


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


async def _send(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    kept = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), *(headers or [])]
    await respond(send, status, body, kept)


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """A whole answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def _files() -> dict[str, tuple[bytes, Headers]]:
    """The page's files by path, read once: what is not among them cannot be asked for."""
    found: dict[str, tuple[bytes, Headers]] = {}
    for entry in resources.files("thriftune.annotation.web").joinpath("static").iterdir():
        kind = _TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None:
            data = entry.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'.encode()
            charset = b"" if kind.startswith(b"image/") else b"; charset=utf-8"
            headers = [(b"content-type", kind + charset), (b"etag", tag), (b"cache-control", b"no-cache")]
            found[f"/static/{entry.name}"] = (data, headers)
    found["/"] = found["/static/index.html"]
    return found


async def _file(scope: Scope, send: Send, files: dict[str, tuple[bytes, Headers]]) -> None:
    if scope["path"] not in files:
        raise Refusal(404, {"error": "there is nothing here"})
    data, headers = files[scope["path"]]
    if (b"if-none-match", dict(headers)[b"etag"]) in scope["headers"]:
        await send({"type": "http.response.start", "status": 304, "headers": headers[1:]})
        await send({"type": "http.response.body", "body": b""})
        return
    await respond(send, 200, data, headers)
