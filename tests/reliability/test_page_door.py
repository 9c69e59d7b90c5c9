"""The page's door: thousands of requests that must not be let in, and clients that never finish."""

from __future__ import annotations

import json
import random
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from web_server import Server, make_study

pytest.importorskip("uvicorn")

TOKEN = secrets.token_urlsafe(24)
SECRET = "the-secret-of-this-study"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    study = make_study(tmp_path_factory.mktemp("door") / "study", [f"{SECRET} {i}" for i in range(6)], 4)
    (study.path.parent / "outside.txt").write_text(SECRET)
    running = Server(study.path, "--host", "0.0.0.0", "--port", "0", "--reserve", "0", "--token", TOKEN)
    running.study = study  # type: ignore[attr-defined]
    yield running
    running.stop()


@pytest.fixture(scope="module")
def open_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    study = make_study(tmp_path_factory.mktemp("open") / "study", [f"{SECRET} {i}" for i in range(6)], 4)
    (study.path / "secret.txt").write_text(SECRET)
    (study.path.parent / "outside.txt").write_text(SECRET)
    running = Server(study.path, "--port", "0", "--reserve", "0")
    running.study = study  # type: ignore[attr-defined]
    yield running
    running.stop()


def place(server: Server) -> tuple[str, int]:
    host, _, port = server.root.removeprefix("http://").partition(":")
    return host, int(port)


def raw(server: Server, sent: bytes, *, wait: float = 10) -> bytes:
    """Everything that comes back on a connection that says it is the last request."""
    with socket.create_connection(place(server), timeout=wait) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while piece := connection.recv(1 << 16):
                received += piece
        except (ConnectionError, TimeoutError):
            pass
        return received


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


PATHS = ("/", "/api/study", "/api/next", "/api/openapi.json", "/static/main.js", "/api/answer", "/docs", "/redoc")


def hostile(rng: random.Random, port: int) -> bytes:
    """A request by somebody who has no token, in one of the ways in which doors were opened before."""
    cookie = f"thriftune-{port}"
    wrong = rng.choice(["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.swapcase(), TOKEN[::-1], "*", "null", "true", '"' * 3])
    lines = [
        b"%s %s HTTP/1.1" % (rng.choice([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"]), path(rng).encode())
    ]
    lines.append(f"host: {rng.choice(['127.0.0.1', 'localhost', '0.0.0.0', f'127.0.0.1:{port}'])}".encode())
    extras = [
        f"authorization: Bearer {wrong}",
        f"authorization: Basic {wrong}",
        f"authorization: {TOKEN}",
        f"cookie: {cookie}={wrong}",
        f"cookie: {cookie}x={TOKEN}",
        f"cookie: {cookie}=x; {cookie}={wrong}",
        f'cookie: {cookie}="{wrong}\\"',
        f"cookie: a={cookie}%3D{TOKEN}",
        "x-forwarded-for: 127.0.0.1\r\nx-forwarded-host: localhost\r\nx-forwarded-proto: https",
        "x-http-method-override: GET\r\nx-original-url: /api/study\r\nx-rewrite-url: /api/study",
        f"referer: http://127.0.0.1:{port}/?token={wrong}",
        "origin: null",
        f"token: {TOKEN}",
        'content-type: application/json\r\ncontent-length: 14\r\n\r\n{"name":"ann"}'[:44],
    ]
    lines += [e.encode() for e in rng.sample(extras, rng.randint(0, 4))]
    return b"\r\n".join([*lines, b"connection: close", b"", b""])


def path(rng: random.Random) -> str:
    found = rng.choice(PATHS)
    shape = rng.randrange(7)
    if shape == 1:
        found = found.replace("/", rng.choice(["//", "/./", "/%2e/", "/x/../", "%2f"]), 1)
    elif shape == 2:
        found += rng.choice(["/", "%00", "%20", ";token=" + TOKEN, ".json", "%0d%0aset-cookie:x=1"])
    elif shape == 3:
        found = found.upper()
    elif shape == 4:
        found += f"?{rng.choice(['token=', 'Token=', 'token[]=', 'token=%00', 'x=1&token='])}{TOKEN[:-1]}"
    elif shape == 5:
        found = f"http://{rng.choice(['evil.example', '127.0.0.1'])}{found}"
    return found


def test_nobody_gets_in_without_the_token(
    locked: Server, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    rng = random.Random(7)
    port = place(locked)[1]
    seen: dict[str, int] = {}
    count = times(400, 20_000)
    for _ in range(count):
        sent = hostile(rng, port)
        received = raw(locked, sent)
        found = statuses(received)
        assert found, sent
        assert all(400 <= status < 500 for status in found), (sent, received[:300])
        assert SECRET.encode() not in received and TOKEN.encode() not in received, sent
        assert b"set-cookie" not in received.lower(), sent
        seen[str(found[0])] = seen.get(str(found[0]), 0) + 1
    with sqlite3.connect(locked.study.annotations.path) as connection:  # type: ignore[attr-defined]
        for table in ("annotations", "drafts", "leases"):
            assert connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)
    assert httpx.get(f"{locked.root}/api/study", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    campaign.update(requests=count, let_in=0, statuses=seen)


def test_the_token_is_told_nowhere_but_in_the_first_lines(locked: Server) -> None:
    for address in (f"/?token={TOKEN}", f"/api/study?token={TOKEN}", f"/?token={TOKEN}x", f"/x?token={TOKEN}"):
        httpx.get(locked.root + address, headers={"referer": f"http://x/?token={TOKEN}"})
    raw(locked, f"GET /?token={TOKEN} HTTP/1.1\r\nbroken header {TOKEN}\r\n\r\n".encode(), wait=1)
    raw(locked, f"GET /{TOKEN} HTTP/9.9\r\n\r\n".encode(), wait=1)
    time.sleep(0.3)
    said = [line for line in locked.said if TOKEN in line]
    assert said and all(" at http://" in line for line in said)
    for file in Path(locked.study.path).rglob("*"):  # type: ignore[attr-defined]
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_tokens_are_compared_in_constant_time() -> None:
    """Not by a clock, which a busy machine makes worthless: by what compares them."""
    import ast
    import inspect

    from thriftune.annotation.web import guard

    compared = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(inspect.getsource(guard)))
        if isinstance(node, ast.Compare) and any("token" in ast.unparse(n) for n in (node.left, *node.comparators))
    ]
    assert all(text.endswith(("is None", "is not None")) for text in compared), compared
    assert "compare_digest" in inspect.getsource(guard)


TRAVERSALS = [
    f"{lead}{up * n}{target}"
    for lead in ("/static/", "/", "/api/", "/static/x/", "/static/static/")
    for up in ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%252f", "..\\", "..%5c", "....//", "%c0%ae%c0%ae/", "..;/",
               "%uff0e%uff0e/", ".%00./", "..%00/")
    for n in (1, 4)
    for target in ("outside.txt", "study/secret.txt", "etc/passwd", "study/study.json", "app.py")
]  # fmt: skip


def test_nothing_but_the_pages_files_can_be_read(
    open_: Server, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    chosen = random.Random(1).sample(TRAVERSALS, times(120, len(TRAVERSALS)))
    for target in [*chosen, "/static//etc/passwd", "/static/%2fetc%2fpasswd", "file:///etc/passwd"]:
        received = raw(open_, f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        assert statuses(received)[0] in (400, 404), (target, received[:200])
        assert SECRET.encode() not in received and b"root:" not in received and b"import " not in received
    campaign.update(paths=len(chosen))


HEAD = b"POST /api/undo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
SMUGGLED = HEAD.replace(b"undo", b"next") + b'content-length: 18\r\n\r\n{"name":"mallory"}'
SMUGGLERS = {
    "length and chunks": b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED)),
    "two lengths": b"content-length: 2\r\ncontent-length: %d\r\n\r\n{}" % (2 + len(SMUGGLED)),
    "lengths in one": b"content-length: 2, %d\r\n\r\n{}" % len(SMUGGLED),
    "signed length": b"content-length: +2\r\n\r\n{}",
    "hexadecimal length": b"content-length: 0x2\r\n\r\n{}",
    "negative length": b"content-length: -1\r\n\r\n{}",
    "length with blanks": b"content-length : 2\r\n\r\n{}",
    "odd chunking": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunking twice": b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "folded header": b"x: a\r\n content-length: 2\r\n\r\n{}",
    "bad chunk size": b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
    "huge chunk size": b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n\r\n",
    "NUL in a header": b"x: a\0b\r\ncontent-length: 2\r\n\r\n{}",
    "two hosts": b"host: evil.example\r\ncontent-length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("kind", SMUGGLERS)
def test_requests_that_two_servers_would_read_differently_are_refused(open_: Server, kind: str) -> None:
    name = f"m{list(SMUGGLERS).index(kind):06d}".encode()
    received = raw(open_, HEAD + SMUGGLERS[kind] + SMUGGLED.replace(b"mallory", name), wait=1)
    # Refusals only; no answer at all: it waits for more. What follows on the connection is not carried out.
    assert all(400 <= status < 500 for status in statuses(received)), received[:200]
    with sqlite3.connect(open_.study.annotations.path) as connection:  # type: ignore[attr-defined]
        leases = connection.execute("SELECT COUNT(*) FROM leases WHERE annotator = ?", (name.decode(),))
        assert leases.fetchone() == (0,)
    httpx.post(f"{open_.root}/api/undo", json={"name": "x"}).raise_for_status()


def test_headers_without_end_are_refused(open_: Server) -> None:
    for sent in (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * (1 << 20), b"G" * (1 << 20)):
        with socket.create_connection(place(open_), timeout=10) as connection:
            try:
                connection.sendall(sent)
                told = connection.recv(100)
            except ConnectionError:
                told = b""
        assert b" 400 " in told or told == b""
    assert httpx.get(f"{open_.root}/").status_code == 200


# --- those who never finish -----------------------------------------------------------------------------------------


def test_a_thousand_who_dawdle_stop_nobody(
    open_: Server, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    many = times(1000, 6000)
    slow: list[socket.socket] = []
    heads = (b"", b"GET / HT", HEAD, HEAD + b"content-length: 4000000\r\n\r\n{")
    before = open_.memory()
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.5):
            for at, connection in enumerate(list(slow)):
                if stop.is_set():
                    return
                try:
                    connection.send(b"x: y\r\n" if at % 4 == 2 else b" " if at % 4 == 3 else b"")
                except OSError:
                    continue

    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * many), hard), hard))
    except (ImportError, ValueError):
        many = 200
    threading.Thread(target=trickle, daemon=True).start()
    took: list[float] = []
    try:
        for at in range(many):
            connection = socket.create_connection(place(open_), timeout=10)
            connection.sendall(heads[at % len(heads)])
            slow.append(connection)
            if at % (many // 20) == many // 20 - 1:
                began = time.monotonic()
                # A new connection each time: it must still be accepted.
                httpx.post(f"{open_.root}/api/next", json={"name": "ann"}, timeout=20).raise_for_status()
                took.append(time.monotonic() - began)
        grown = open_.memory() - before
    finally:
        stop.set()
        for connection in slow:
            connection.close()
    assert sorted(took)[len(took) // 2] < 2
    assert grown < 0.05 * many + 20, f"{grown:.0f} MiB for {many} connections"
    campaign.update(connections=many, slowest_s=round(max(took), 3), grown_mib=round(grown, 1))


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from thriftune.annotation.web import app

    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)

    async def receive() -> Any:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b" ", "more_body": True}

    with pytest.raises(app.Refusal) as caught:
        asyncio.run(app._body({}, receive))
    assert caught.value.status == 408


def test_who_waits_longest_goes_first(tmp_path: Path) -> None:
    """With place for few, newcomers are let in and the oldest idle connections are closed."""
    code = (
        "import typer\nfrom thriftune.annotation.web import patience\npatience._MOST_WAITING = 20\n"
        "patience._WAIT_SECONDS = 1.5\n"
        "from thriftune.cli.annotate import command\ntyper.run(command)"
    )
    study = make_study(tmp_path / "study", ["One?", "Two?"], 2)
    server = Server(study.path, "--port", "0", "--reserve", "0", code=code)
    try:
        waiting = [socket.create_connection(place(server), timeout=5) for _ in range(60)]
        assert httpx.get(f"{server.root}/").status_code == 200
        ended = sum(closed(connection, 0.1) for connection in waiting[:39])
        assert ended == 39
        time.sleep(2)
        assert all(closed(connection, 0.5) for connection in waiting)  # nobody waits for ever
        busy = httpx.Client(base_url=server.root)
        for _ in range(4):
            busy.post("/api/next", json={"name": "ann"}).raise_for_status()
            time.sleep(0.8)  # together longer than one may wait
    finally:
        server.stop()


def closed(connection: socket.socket, wait: float) -> bool:
    connection.settimeout(wait)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_bodies_beyond_the_limit_use_no_memory(open_: Server, times: Callable[[int, int], int]) -> None:
    before = open_.memory()
    for _ in range(times(5, 50)):
        reply = httpx.post(
            f"{open_.root}/api/draft",
            content=b"[" * (8 << 20),
            headers={"content-type": "application/json"},
            timeout=30,
        )
        assert reply.status_code == 413
        nested = b'{"name":' + b"[" * 2_000_000
        told = httpx.post(f"{open_.root}/api/next", content=nested, headers={"content-type": "application/json"})
        assert told.status_code == 422 and len(told.content) < 2000
    assert open_.memory() - before < 60
    assert json.loads(httpx.get(f"{open_.root}/api/study").content)["study"] == "study"
