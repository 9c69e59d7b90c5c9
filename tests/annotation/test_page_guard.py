"""Who is let in, what requests are refused, and that the page's files are all there is to get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from web_server import Server, make_study

pytest.importorskip("uvicorn")

TOKEN = "a-token-of-the-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    study = make_study(tmp_path_factory.mktemp("guard") / "study", [f"Question {i}?" for i in range(6)], 4)
    (study.path / "secret.txt").write_text("a secret")
    running = Server(study.path, "--port", "0", "--reserve", "0")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    study = make_study(tmp_path_factory.mktemp("locked") / "study", ["One?", "Two?"], 2)
    running = Server(study.path, "--host", "0.0.0.0", "--port", "0", "--reserve", "0", "--token", TOKEN)
    yield running
    running.stop()


def ask(server: Server, method: str = "POST", path: str = "/api/next", **options: Any) -> httpx.Response:
    if method == "POST":
        options.setdefault("json", {"name": "ann"})
    return httpx.request(method, server.root + path, timeout=30, **options)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[", "localhost.evil"]
)
def test_other_names_are_not_this_server(server: Server, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/study"), ("POST", "/api/next")):
        assert ask(server, method, path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8765", "[::1]:8765", "192.168.1.7"])
def test_names_and_addresses_of_this_machine_are(server: Server, host: str) -> None:
    assert ask(server, "GET", "/api/study", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_change_nothing(server: Server, headers: dict[str, str]) -> None:
    refused = ask(server, headers=headers)
    assert refused.status_code == 403
    assert ask(server, headers={"origin": server.root}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_can_send_is_refused(server: Server, kind: str) -> None:
    sent = ask(server, content=json.dumps({"name": "ann"}), json=None, headers={"content-type": kind})
    assert sent.status_code == 415


def test_large_bodies_are_refused_before_they_are_read(server: Server) -> None:
    told = ask(server, content=b"x" * (5 << 20), json=None, headers={"content-type": "application/json"})
    assert told.status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(80):
            yield b" " * (1 << 16)

    # In pieces, without saying how many there will be.
    told = ask(server, content=endless(), json=None, headers={"content-type": "application/json"})
    assert told.status_code == 413


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/app.py",
     "/../study.json", "/study.json", "/secret.txt", "/static/..%5capp.py", "/static/index.html%00.js"],
)  # fmt: skip
def test_only_the_pages_files_are_served(server: Server, path: str) -> None:
    reply = ask(server, "GET", path)
    assert reply.status_code == 404
    assert "secret" not in reply.text


def test_every_reply_carries_the_headers(server: Server) -> None:
    replies = [
        ask(server, "GET", "/"),
        ask(server, "GET", "/static/main.js"),
        ask(server, "GET", "/nowhere"),
        ask(server),
        ask(server, "GET", "/", headers={"host": "evil"}),
        ask(server, json={"name": ""}),
    ]
    for reply in replies:
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
    page = replies[0].text
    assert "onclick" not in page and "<style" not in page and " style=" not in page
    assert "://" not in page.replace("http://www.w3.org", "")  # nothing from elsewhere


def test_every_file_the_page_names_is_there_and_unchanged_ones_are_not_sent_again(server: Server) -> None:
    import re

    seen: set[str] = set()
    wanted = set(re.findall(r'"/static/([^"]+)"', ask(server, "GET", "/").text))
    while wanted:
        name = wanted.pop()
        seen.add(name)
        reply = ask(server, "GET", f"/static/{name}")
        assert reply.status_code == 200, name
        again = ask(server, "GET", f"/static/{name}", headers={"if-none-match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        wanted |= set(re.findall(r"from '\./([^']+)'", reply.text)) - seen
    assert "markdown.js" in seen


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": " "},
        {"name": "x" * 61},
        {"name": "a\u0000b"},
        {"name": 3},
        {"name": "ann", "more": 1},
        {"name": "ann", "after": ["x"]},
        [],
        "ann",
    ],
)
def test_malformed_requests_are_told_so(server: Server, body: Any) -> None:
    reply = ask(server, json=body)
    assert reply.status_code == 422
    assert reply.json()["error"]


def test_impossible_texts_and_prompts_are_refused(server: Server) -> None:
    good = {"name": "ann", "id": "p000", "text": "x", "seconds": 1, "revision": 0}
    raw = '{"name": "ann", "id": "p000", "seconds": 1, "revision": 0, "text": "\\ud800"}'
    assert (
        ask(server, path="/api/draft", content=raw, json=None, headers={"content-type": "application/json"}).status_code
        == 422
    )
    for change in (
        {"seconds": -1},
        {"seconds": 1e300},
        {"revision": -1},
        {"revision": 2**70},
        {"text": "x" * 1_000_001},
    ):
        assert ask(server, path="/api/draft", json={**good, **change}).status_code == 422, change
    nan = json.dumps(good).replace('"seconds": 1', '"seconds": NaN')
    assert (
        ask(server, path="/api/draft", content=nan, json=None, headers={"content-type": "application/json"}).status_code
        == 422
    )
    unknown = ask(server, path="/api/draft", json={**good, "id": "../../etc/passwd"})
    assert unknown.status_code == 400 and "is not in selection" in unknown.json()["error"]


# --- the token ------------------------------------------------------------------------------------------------------


def test_without_the_token_nothing_is_told(locked: Server) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/api/study"),
        ("POST", "/api/next"),
        ("GET", "/static/main.js"),
        ("GET", "/api/openapi.json"),
    ):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"cookie": f"thriftune-{locked.root.rsplit(':', 1)[1]}=wrong"},
            {"cookie": '"'},
        ):
            reply = ask(locked, method, path, headers=headers)
            assert reply.status_code == 401, (path, headers)
            assert "Question" not in reply.text and TOKEN not in reply.text
    assert ask(locked, "GET", "/?token=wrong").status_code == 401
    assert ask(locked, "GET", f"/api/study?token={TOKEN}").status_code == 401  # the address of the page only


def test_the_token_becomes_a_cookie_and_leaves_the_address(locked: Server) -> None:
    entered = ask(locked, "GET", f"/?token={TOKEN}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    with httpx.Client(base_url=locked.root) as client:
        client.get("/", params={"token": TOKEN})
        assert client.get("/api/study").status_code == 200
        assert client.post("/api/next", json={"name": "ann"}).status_code == 200
        assert (
            client.post("/api/next", json={"name": "ann"}, headers={"origin": "http://evil.example"}).status_code == 403
        )
    assert ask(locked, "GET", "/api/study", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_beyond_this_machine_it_says_so(locked: Server) -> None:
    said = "".join(locked.said)
    assert f"?token={TOKEN}" in said
    assert "others can connect" in said and "not encrypted" in said


def test_a_token_is_made_up_where_none_is_given(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", ["One?"], 1)
    server = Server(study.path, "--host", "0.0.0.0", "--port", "0", "--reserve", "0")
    try:
        assert len(server.address.partition("?token=")[2]) >= 20
        assert ask(server, "GET", "/api/study").status_code == 401
    finally:
        server.stop()


def test_here_nobody_needs_one(server: Server) -> None:
    assert server.address.startswith("http://127.0.0.1:") and "token" not in server.address


def test_replies_are_not_held_back_for_an_acknowledgement() -> None:
    """asyncio turns Nagle's algorithm off for sockets that it knows to be TCP; these are then all that are accepted."""
    import asyncio
    import socket

    from thriftune.annotation.web.serve import bind

    seen: list[int] = []

    async def serve_one() -> None:
        listener = bind("127.0.0.1", 0, search=False)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(answer, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(serve_one())
    assert seen and seen[0]
