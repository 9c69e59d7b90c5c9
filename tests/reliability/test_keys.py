"""API keys go to their server and nowhere else: every byte that a run writes or prints is looked through."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from model_server import FakeServer, Say, Status

from thriftune.artifacts import provenance, write_table
from thriftune.endpoint import client
from thriftune.study import Study

KEY = "sk-sentinel-5f1e0c7a9b3d2468-never-to-be-seen"
Run = Callable[..., Any]


def variants() -> list[bytes]:
    """The key as it would look encoded, too."""
    import base64
    import urllib.parse

    plain = KEY.encode()
    return [plain, base64.b64encode(plain)[:-4], urllib.parse.quote(KEY, safe="").encode(), plain.hex().encode(),
            plain.decode().encode("utf-16-le"), plain[12:30]]  # fmt: skip


@dataclass
class Done:
    """What a command printed, and its exit status."""

    returncode: int
    stdout: bytes
    stderr: bytes


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs a command whose every file, home and temporary ones included, lies below ``tmp_path``."""
    for name in list(os.environ):
        if "KEY" in name or "TOKEN" in name:
            monkeypatch.delenv(name)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "THRIFTUNE_CACHE", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(client, "_FIRST_DELAY", 0.02)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, **environment: str) -> Done:
        from thriftune.cli.main import main

        capfdbinary.readouterr()
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            patched.setattr(sys, "argv", ["thriftune", *map(str, arguments)])
            try:
                main()
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
        printed = capfdbinary.readouterr()
        return Done(code, printed.out, printed.err)

    return run


def look_through(home: Path, *runs: Done) -> int:
    """How many bytes hold no key, in any writing."""
    looked = 0
    texts = {str(n): r.stdout + r.stderr for n, r in enumerate(runs)}
    texts |= {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file()}
    for name, data in texts.items():
        looked += len(data)
        for form in variants():
            assert form not in data, (name, form)
    # What is compressed would hide it: the tables as well.
    for file in home.rglob("*.parquet"):
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        assert KEY not in json.dumps(table.to_pylist(), default=str) + str(table.schema.metadata), file
    return looked


@pytest.fixture
def study(small_study: Study) -> Study:
    for name in ("a", "b"):
        ids = small_study.pool()["id"].to_pylist()
        table = {
            "id": ids,
            "answer": [f"{name} says {i}" for i in ids],
            "n_tokens": pa.array([3] * len(ids), pa.int32()),
            "hit_limit": [False] * len(ids),
        }
        write_table(small_study.path / "evaluations" / f"{name}.answers.parquet", pa.table(table), provenance())
    return small_study


def echoing(body: dict[str, Any], number: int) -> Any:
    """A server that says the key back where it can: in errors, in answers, in where it sends one."""
    if number % 4 == 1:
        return Status(500, {"error": {"message": f"bad upstream, Authorization: Bearer {KEY}"}})
    if number % 4 == 3:
        return Status(429, f"slow down, {KEY}", {"retry-after": "0", "x-key": KEY})
    return Say(f"An answer. [[A]] {KEY if number % 4 == 2 else ''}")


@pytest.mark.parametrize("verb", ["teach", "judge"])
def test_the_key_of_a_model_server_is_written_nowhere(
    verb: str, study: Study, tmp_path: Path, run: Run, campaign: dict[str, Any]
) -> None:
    what = [study.path, "a", "b"] if verb == "judge" else [study.path]
    runs = []
    with FakeServer(echoing) as server:
        for address in (server.url, server.url.replace("http://", f"http://user:{KEY}@")):
            runs.append(
                run(verb, *what, "--endpoint", address, "--model", "teacher", "--retries", "3", "--yes",
                    THRIFTUNE_API_KEY=KEY)
            )  # fmt: skip
        assert {h.get("Authorization", h.get("authorization")) for h in server.headers} == {f"Bearer {KEY}"}
        for code in (401, 403, 404, 422, 302):
            server.behave = lambda *_, code=code: Status(code, f"no: {KEY}", {"location": f"http://x/?key={KEY}"})
            again = [*what, "--answered-too"] if verb == "teach" else [*what, "--name", f"again-{code}"]
            runs.append(
                run(verb, *again, "--endpoint", server.url, "--model", "other", "--retries", "0", "--yes",
                    THRIFTUNE_API_KEY=KEY)
            )  # fmt: skip
    # A key on the command line or in a file is refused without being repeated.
    (tmp_path / "settings.toml").write_text(f'[{verb}]\napi_key = "{KEY}"\n')
    refused = run(
        tmp_path, verb, *what, "--endpoint", "http://127.0.0.1:9/v1", "--model", "x", "--config", "settings.toml"
    )
    (tmp_path / "settings.toml").unlink()
    assert refused.returncode == 2
    unreachable = run(verb, *what, "--endpoint", "http://127.0.0.1:9/v1", "--model", "x", "--retries", "0",
                      THRIFTUNE_API_KEY=KEY)  # fmt: skip
    odd = run(verb, *what, "--endpoint", server.url, "--model", "x", THRIFTUNE_API_KEY=KEY + "\n\u20ac")
    assert b"Traceback" not in odd.stderr + unreachable.stderr + refused.stderr
    # An answer is kept as it is given, key or no key, in one place: replies are no secrets of ours.
    looked = look_through(tmp_path, *runs, refused, unreachable, odd)
    campaign.update(runs=len(runs) + 3, bytes=looked, found=0)


class LabelStudio(BaseHTTPRequestHandler):
    """As much of Label Studio as a push asks for; it tells the token back where it can."""

    protocol_version = "HTTP/1.1"
    tokens: set[str | None] = set()  # noqa: RUF012
    fail = 0

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def reply(self, value: Any, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        for name, content in (
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("x-echo", KEY),
        ):
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.tokens.add(self.headers["authorization"])
        if self.fail:
            return self.reply({"detail": f"token {KEY} is not good"}, self.fail)
        if "/api/projects" in self.path:
            return self.reply({"count": 0, "results": [], "next": None, "previous": None})
        self.reply({"tasks": [], "total": 0, "total_annotations": 0, "total_predictions": 0})

    def do_POST(self) -> None:
        self.tokens.add(self.headers["authorization"])
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if "token/refresh" in self.path:
            return self.reply({"access": KEY})
        if self.path.rstrip("/").endswith("/import"):
            return self.reply({"task_count": 10, "task_ids": list(range(10))}, 201)
        self.reply({"id": 7, "title": "P"}, 201)

    do_PATCH = do_PUT = do_POST


@pytest.fixture
def label_studio() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), LabelStudio)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(importlib.util.find_spec("label_studio_sdk") is None, reason="needs label-studio-sdk")
def test_the_token_of_label_studio_is_written_nowhere(
    label_studio: str,
    small_study: Study,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    campaign: dict[str, Any],
) -> None:
    token = {"LABEL_STUDIO_API_KEY": KEY}
    monkeypatch.setattr(LabelStudio, "fail", 0)
    runs = [run("label-studio", "push", small_study.path, "--url", label_studio, "--project", "P", **token)]
    assert runs[0].returncode == 0, runs[0].stderr.decode()
    assert f"Token {KEY}" in LabelStudio.tokens
    for code in (401, 403, 404, 400, 500):
        monkeypatch.setattr(LabelStudio, "fail", code)
        for step in ("push", "pull"):
            done = run("label-studio", step, small_study.path, "--url", label_studio, "--project", "P", **token)
            assert done.returncode == 2, done.stderr.decode()
            runs.append(done)
    runs.append(
        run("label-studio", "push", small_study.path, "--url", f"http://u:{KEY}@127.0.0.1:9", "--project", "P",
            **token)
    )  # fmt: skip
    campaign.update(runs=len(runs), bytes=look_through(tmp_path, *runs), found=0)
