"""Where a model server is and which key it gets: nothing secret leaves over an open line or for the wrong host."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit, urlunsplit

from thriftune.errors import EndpointError

_OWN = "THRIFTUNE_API_KEY"
_OPENAI = "OPENAI_API_KEY"
_OPENAI_HOSTS = ("openai.com", "openai.azure.com")


def base_url(endpoint: str, *, plain_http: bool = False) -> str:
    """The address to which ``/chat/completions`` is appended.

    Args:
        endpoint: as given: with or without ``/v1`` and ``/chat/completions``.
        plain_http: allow http to another host; anyone on the way can then read prompts, answers and key.

    Returns:
        The address without a slash at the end.

    Raises:
        EndpointError: no http(s) address, one with a secret in it, or plain http to another host.
    """
    try:
        parts = urlsplit(endpoint.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise EndpointError(f"the endpoint is no address ({error}): give one like http://127.0.0.1:8000/v1") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not printed: the part that is too much may be a secret.
        raise EndpointError(
            "the endpoint has a user, a query or a fragment: give the bare address, and the key in the environment "
            f"variable {_OWN}"
        )
    if parts.scheme not in {"http", "https"} or not host:
        raise EndpointError(f"{endpoint!r} is no http address: give one like http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/") or "/v1"
    url = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    if is_open(url) and not plain_http:
        raise EndpointError(
            f"{url} is plain http to another host, where prompts, answers and key can be read on the way: "
            "use https, or add --plain-http if you trust the network"
        )
    return url


def is_open(url: str) -> bool:
    """Whether what is sent to ``url`` can be read on the way."""
    return urlsplit(url).scheme == "http" and not is_loopback(url)


def is_loopback(url: str) -> bool:
    """Whether ``url`` is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def api_key(url: str, variable: str | None) -> str:
    """The key for ``url`` from the environment; empty when there is none.

    Args:
        url: as `base_url` gives it.
        variable: the environment variable's name; None for ``THRIFTUNE_API_KEY``, and for hosts of OpenAI
            ``OPENAI_API_KEY``: that one is never sent to anybody else unless named.

    Raises:
        EndpointError: ``variable`` is not set, is no name, or the key cannot stand in a header.
    """
    if variable is not None:
        # The value is never printed: it may be the key itself, put in the wrong place.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
            raise EndpointError("--api-key-env takes the name of an environment variable, never the key itself")
        if not os.environ.get(variable):
            raise EndpointError("the environment variable that --api-key-env names is not set or empty")
        key = os.environ[variable]
    else:
        key = os.environ.get(_OWN, "")
        host = urlsplit(url).hostname or ""
        if not key and any(host == h or host.endswith(f".{h}") for h in _OPENAI_HOSTS):
            key = os.environ.get(_OPENAI, "")
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise EndpointError("the API key in the environment has characters that no key has: set it again")
    return key


def key_hint(key: str, variable: str | None) -> str:
    """What to do when the server refuses the key, without telling the key."""
    if key:
        return f"see that the key in {'the variable of --api-key-env' if variable else 'the environment'} is this one's"
    hint = f"set its key in the environment variable {_OWN}, or name yours with --api-key-env"
    if os.environ.get(_OPENAI):
        hint += f" ({_OPENAI} is set; it is sent to other hosts than OpenAI's only with --api-key-env {_OPENAI})"
    return hint
