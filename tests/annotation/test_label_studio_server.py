"""Push and pull against a real Label Studio server, from an environment of its own (its SDK wants an older NumPy).

``make label-studio`` runs this; THRIFTUNE_LABEL_STUDIO names the environment, which is made where it is missing.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thriftune.study import Study
from thriftune.types import Annotation

PLACE = os.environ.get("THRIFTUNE_LABEL_STUDIO")
TOKEN = secrets.token_hex(20)
ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PLACE, reason="THRIFTUNE_LABEL_STUDIO names no environment: make label-studio"),
]


@pytest.fixture(scope="module")
def python() -> Path:
    assert PLACE
    interpreter = Path(PLACE).absolute() / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([sys.executable, "-m", "venv", PLACE], check=True)
    install = [interpreter, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "label-studio==1.23.2", "--editable", ROOT], check=True)
    return interpreter


@pytest.fixture(scope="module")
def server(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("label-studio")
    environment = {
        **os.environ,
        "LABEL_STUDIO_BASE_DATA_DIR": str(home),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
    }
    command = [python.parent / "label-studio", "start", "--no-browser", "--port", str(port)]
    command += ["--internal-host", "127.0.0.1", "--username", "ann@example.org", "--password", secrets.token_hex(8)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen([*command, "--user-token", TOKEN], env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            time.sleep(1)
            assert process.poll() is None, (home / "log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except OSError:
                continue
        yield url
    finally:
        process.terminate()
        process.wait(30)


def call(url: str, path: str, body: Any = None, method: str | None = None) -> Any:
    """Label Studio's own REST interface: what an annotator's browser does."""
    request = urllib.request.Request(
        f"{url}/api/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def written(text: str) -> list[dict[str, Any]]:
    return [{"from_name": "response", "to_name": "prompt", "type": "textarea", "value": {"text": [text]}}]


def run(python: Path, *arguments: str | Path, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LABEL_STUDIO_API_KEY": token}
    command = [python, "-m", "thriftune.cli.main", "label-studio", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_push_annotate_pull(python: Path, server: str, small_study: Study) -> None:
    where: list[str | Path] = ["--url", server, "--project", "Expert answers"]
    pushed = run(python, "push", small_study.path, *where)
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.startswith("10 prompts pushed, 0 were there")
    (project,) = [p for p in call(server, "projects")["results"] if p["title"] == "Expert answers"]
    tasks = sorted(
        call(server, f"tasks?project={project['id']}&fields=all&page_size=100")["tasks"], key=lambda t: t["id"]
    )
    # In selection order, with draft and confidence.
    assert [t["data"]["thriftune_id"] for t in tasks] == small_study.selection("first")[0]
    assert tasks[0]["predictions"][0]["result"][0]["value"]["text"] == ["Draft 3\nsecond line"]
    assert tasks[1]["predictions"][0]["score"] == pytest.approx(0.36788, abs=1e-5)
    assert [t["role"] for t in tasks[2]["data"]["messages"]] == ["system", "user", "assistant", "user"]

    again = run(python, "push", small_study.path, *where)
    assert again.stdout.startswith("0 prompts pushed, 10 were there"), again.stderr

    text = 'Line one\n\n<b>"zwei"</b> 🧵'
    first = call(server, f"tasks/{tasks[0]['id']}/annotations", {"result": written(text), "lead_time": 12.5})
    call(server, f"tasks/{tasks[1]['id']}/annotations", {"result": written("later"), "was_cancelled": True})
    pulled = run(python, "pull", small_study.path, *where)
    assert pulled.stdout.startswith("imported 1 answer: 1 new; 9 not answered yet"), pulled.stderr
    expected = Annotation("p03", text, annotator="ann@example.org", seconds=12.5)
    assert small_study.annotations.in_force() == [expected]
    assert run(python, "pull", small_study.path, *where).stdout.startswith("imported 0 answers: 0 new; 1 unchanged")

    call(server, f"annotations/{first['id']}", {"result": written("better"), "lead_time": 20}, "PATCH")
    assert run(python, "pull", small_study.path, *where).stdout.startswith("imported 1 answer: 0 new; 1 replaced")
    assert [a.response for a in small_study.annotations.in_force()] == ["better"]
    for file in small_study.path.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()


def test_errors_say_what_to_do(python: Path, server: str, small_study: Study) -> None:
    where: list[str | Path] = [small_study.path, "--url", server, "--project"]
    refused = run(python, "pull", *where, "nothing such")
    assert refused.returncode == 2 and "push makes it" in refused.stderr
    for_token = run(python, "push", *where, "x y z", token="0" * 40)
    assert for_token.returncode == 2 and "refuses the token" in for_token.stderr
    short = run(python, "push", *where, "x")
    assert short.returncode == 2 and "at least 3 characters" in short.stderr
    absent = run(python, "push", small_study.path, "--url", "http://127.0.0.1:9", "--project", "abc")
    assert absent.returncode == 2 and "cannot be reached" in absent.stderr and len(absent.stderr.splitlines()) == 1
