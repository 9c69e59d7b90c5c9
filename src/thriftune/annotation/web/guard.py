"""Who may talk to the server: the first thing every request meets."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from thriftune.annotation.web.app import MAX_BODY, TOO_LARGE, App, Receive, Scope, Send, respond

_SAFE = ("GET", "HEAD", "OPTIONS")
_AMBIGUOUS = "the request gives its length twice"
_HEADERS = [
    # No script, style or picture but the page's own, and no string ever becomes HTML.
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        b"trusted-types 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]


class Guard:
    """ASGI middleware: known hosts, own pages, the token, small bodies; security headers on every answer.

    Args:
        app: what is behind.
        hosts: names in the Host header that are this server; besides them every IP address is, because a foreign
            site that points its own name here (DNS rebinding) still sends that name.
        token: what a browser must show; None where only this machine can connect.
    """

    def __init__(self, app: App, hosts: Iterable[str], token: str | None = None) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here
        headers = {key.lower(): value for key, value in scope["headers"]}

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _say(guarded, *refusal)
            return
        if self._token is not None and not self._known(headers, _cookie(scope)):
            await self._introduce(scope, guarded)
            return
        await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._ours(host):
            return 421, f"this server does not go by the name {host[:100]!r}: start it with --allow-host NAME"
        if b"transfer-encoding" in headers and b"content-length" in headers:
            return 400, _AMBIGUOUS  # a server in front of this one may take the other for the true one
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 12 or int(length) > MAX_BODY:
            return 413, TOO_LARGE
        if scope["method"] in _SAFE:
            return None
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host.lower():
            return 403, "the request comes from another site"
        if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
            return 403, "the request comes from another site"
        # A form of another site cannot send this type without asking first, and asking is not answered.
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
            return 415, "send application/json"
        return None

    def _ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _known(self, headers: dict[bytes, bytes], name: str) -> bool:
        assert self._token is not None
        bearer = headers.get(b"authorization", b"")
        if bearer[:7].lower() == b"bearer " and _same(bearer[7:].strip(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(name)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value.encode("latin-1", "replace"), self._token)

    async def _introduce(self, scope: Scope, send: Send) -> None:
        """The one time that the token may stand in the address: it becomes a cookie, and the address is left."""
        assert self._token is not None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["method"] == "GET" and scope["path"] == "/" and _same(given.encode(), self._token):
            secure = "; Secure" if scope.get("scheme") == "https" else ""
            cookie = f"{_cookie(scope)}={self._token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000{secure}"
            headers = [(b"location", b"/"), (b"set-cookie", cookie.encode("latin-1")), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 303, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await _say(send, 401, "open the address with the token that `thriftune annotate` printed when it started")


def _cookie(scope: Scope) -> str:
    """The cookie's name: browsers tell servers of one machine apart by name only, not by port."""
    return f"thriftune-{(scope.get('server') or ('', 0))[1]}"


def _same(given: bytes, token: str) -> bool:
    return secrets.compare_digest(given, token.encode())


async def _say(send: Send, status: int, text: str) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        *([(b"connection", b"close")] if status == 400 else []),
    ]
    await respond(send, status, text.encode(), headers)
