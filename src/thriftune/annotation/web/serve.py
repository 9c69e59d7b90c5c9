"""Starting the page's server: address, token, browser."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable

import uvicorn

from thriftune.annotation.desk import Desk
from thriftune.annotation.web.app import make_app
from thriftune.annotation.web.guard import Guard
from thriftune.annotation.web.patience import PatientProtocol, allow_many_connections
from thriftune.errors import AnnotationError

_TRIES = 50


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can connect to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int, *, search: bool) -> socket.socket:
    """A listening socket.

    Args:
        host: name or address.
        port: 0 for any free one.
        search: when it is taken, try the ones after it.

    Raises:
        AnnotationError: the port is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last: OSError | None = None
    for candidate in range(port, min(port + (_TRIES if search and port else 1), 65536)):
        # The protocol by its number: without it asyncio does not know TCP, and leaves each reply's second packet
        # waiting 40 ms for the acknowledgement of its first.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(1024)
            return listener
        except OSError as error:
            listener.close()
            last = error
    raise AnnotationError(f"cannot listen on {host} port {port} ({last}): give another --port or --host")


def serve(
    desk: Desk,
    listener: socket.socket,
    *,
    host: str,
    token: str | None = None,
    allow: Iterable[str] = (),
    browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        desk: the work.
        listener: of `bind`.
        host: as the user gave it.
        token: what browsers must show; made up where others than this machine can connect and none is given.
        allow: further names by which people reach the server.
        browser: open the page.
        say: prints a line.
    """
    local = is_loopback(host)
    if token is None and not local:
        token = secrets.token_urlsafe(24)
    port = listener.getsockname()[1]
    names = {"localhost", host, *allow, *(() if local else (socket.gethostname(), socket.getfqdn()))}
    for address in _addresses(host, port):
        say(f"annotate {desk.study.path} at {address}" + (f"?token={token}" if token else ""))
    if not local:
        say("others can connect: who has the address with its token can read and answer; traffic is not encrypted")
    say("stop with Ctrl-C; every answer is on disk as soon as the page says so")
    allow_many_connections()
    server = uvicorn.Server(
        uvicorn.Config(
            Guard(make_app(desk), names, token),
            # No access log: the first address holds the token, and prompts' ids are nobody's business.
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=3,
            # Longer than people think between two saves: a connection for each would cost more than the save.
            timeout_keep_alive=60,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
        )
    )
    if browser:
        first = next(iter(_addresses(host, port))) + (f"?token={token}" if token else "")
        threading.Thread(target=_open, args=(server, first), daemon=True).start()
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        desk.close()
    say(f"stopped; the answers are in {desk.study.annotations.path}")


def _addresses(host: str, port: int) -> list[str]:
    if host in ("0.0.0.0", "::"):
        return [f"http://{name}:{port}/" for name in ("localhost", socket.gethostname())]
    return [f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"]


def _open(server: uvicorn.Server, address: str) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    webbrowser.open(address)
