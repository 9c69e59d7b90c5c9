"""People who save answers through the page's server as fast as it lets them, and remember what it acknowledged."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs import Running, Warm

Key = tuple[str, str]  # prompt, person


@dataclass
class Told:
    """What people sent and what the server said.

    Args:
        answers: the text of the last acknowledged answer.
        drafts: the last acknowledged half-written text.
        sent: texts sent as answer or draft after the last acknowledged one.
        refused: status and text of what was no success.
        lost: requests without a reply.
    """

    answers: dict[Key, str] = field(default_factory=dict)
    drafts: dict[Key, str] = field(default_factory=dict)
    sent: dict[Key, list[str]] = field(default_factory=dict)
    refused: list[tuple[int, str]] = field(default_factory=list)
    lost: int = 0


def serve(warm: Warm, study: Path, **request: Any) -> tuple[Running, int]:
    """Start the page's server; the process and its port."""
    argv = ["annotate", str(study), "--no-open", "--port", "0", "--reserve", "0", "--overlap", "100"]
    running = warm.start(argv, study, **request)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.alive:
        said = (running.place / "out").read_text()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        if found and "Ctrl-C" in said:
            return running, int(found[1])
        time.sleep(0.002)
    raise AssertionError(running.ended().said)


class Savers:
    """Some people at work, each in a thread.

    Args:
        port: of the server.
        prompts: ids to answer.
        people: how many.
        seed: of what they write.
        size: characters of a text at most.
    """

    def __init__(self, port: int, prompts: Sequence[str], people: int = 3, *, seed: int = 0, size: int = 600) -> None:
        self.told = Told()
        self.stop = threading.Event()
        self._port, self._prompts, self._size = port, prompts, size
        work = [(f"{seed}-{i}", random.Random(seed * 100 + i)) for i in range(people)]
        self.threads = [threading.Thread(target=self._work, args=w, daemon=True) for w in work]
        for thread in self.threads:
            thread.start()

    def _work(self, name: str, rng: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        number = 0
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not self.stop.is_set():
                number += 1
                self._one(connection, (rng.choice(self._prompts), f"{name}-{number}"), rng)
        connection.close()

    def _one(self, connection: http.client.HTTPConnection, key: Key, rng: random.Random) -> None:
        for revision, path in enumerate(
            rng.choice((["answer"], ["draft", "answer"], ["draft", "draft"], ["answer", "answer"]))
        ):
            text = f"{rng.random()} ß日本\n" + "word " * rng.randint(0, self._size // 5)
            self.told.sent.setdefault(key, []).append(text)
            body = {"name": key[1], "id": key[0], "text": text, "seconds": 1.5, "revision": revision}
            try:
                connection.request("POST", f"/api/{path}", json.dumps(body), {"content-type": "application/json"})
                reply = connection.getresponse()
                said = reply.read()
            except (OSError, http.client.HTTPException):
                self.told.lost += 1
                raise
            if reply.status != 200:
                self.told.refused.append((reply.status, said.decode()))
                self.told.sent[key].remove(text)
                self.stop.wait(0.01)
                return
            (self.told.answers if path == "answer" else self.told.drafts)[key] = text
            self.told.sent[key] = []

    def ended(self) -> Told:
        """Stop and wait for them."""
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=90)
            assert not thread.is_alive()
        return self.told


def stored(database: Path, scratch: Path) -> tuple[dict[Key, str], dict[Key, str]]:
    """Answers and half-written texts of a copy of a database, which must be whole; the original stays untouched."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(f"{database}{suffix}", scratch / f"copy.sqlite{suffix}")
    connection = sqlite3.connect(scratch / "copy.sqlite")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        answers = connection.execute(
            "SELECT prompt_id, annotator, response FROM annotations WHERE replaced IS NULL AND status = 'final'"
        ).fetchall()
        drafts = connection.execute("SELECT prompt_id, annotator, response FROM drafts").fetchall()
    finally:
        connection.close()
    return {(p, a): text for p, a, text in answers}, {(p, a): text for p, a, text in drafts}


def missing(told: Told, answers: dict[Key, str], drafts: dict[Key, str]) -> list[str]:
    """What was acknowledged and is not there; a later text that was on its way may stand in its place."""
    gone = []
    for key, text in told.answers.items():
        if answers.get(key) not in (text, *told.sent.get(key, [])):
            gone.append(f"answer of {key}")
    for key, text in told.drafts.items():
        if key not in told.answers and drafts.get(key) not in (text, *told.sent.get(key, [])):
            # Become an answer on its way out, it is one now.
            if drafts.get(key, "") is None and answers.get(key) in told.sent.get(key, []):
                continue
            gone.append(f"draft of {key}")
    return gone
