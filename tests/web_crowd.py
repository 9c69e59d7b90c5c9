"""Many people at once, as their browsers behave: be handed a prompt, type with autosave, answer, now and then skip.

As a program it prints how the server held out::

    python tests/web_crowd.py --people 200 --seconds 60 --pace 3.5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from web_server import Server, make_study


class Refused(Exception):
    """No success, or no answer at all."""


class Connection:
    """One browser's connection: HTTP as far as this server speaks it, for a twentieth of what a client library costs.

    What is measured is the server, on the same two cores.
    """

    def __init__(self, root: str) -> None:
        self._host, _, port = root.removeprefix("http://").partition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        head = (
            f"POST /api/{path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        )
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port, limit=1 << 22)
            reader, writer = self._streams
            writer.write(head.encode() + data)
            told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = int(told.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            reply = await asyncio.wait_for(reader.readexactly(length), 30)
        except (TimeoutError, OSError, EOFError) as error:
            raise Refused(f"{path}: {type(error).__name__} {error}") from error
        if told[9:12] != b"200":
            raise Refused(f"{path}: {told[9:12].decode()} {reply[:200]!r}")
        return json.loads(reply)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


@dataclass
class Log:
    """What people were told.

    Args:
        answers: (prompt, person) -> text of the acknowledged answer.
        drafts: (prompt, person) -> acknowledged half-written text, and those sent after it.
        handed: (prompt, person, when received, when let go of), in the order of receipt.
        saves: seconds that each save took.
        refused: what was no success.
    """

    answers: dict[tuple[str, str], str] = field(default_factory=dict)
    drafts: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    handed: list[list[Any]] = field(default_factory=list)
    saves: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


async def crowd(
    root: str,
    people: int,
    seconds: float,
    *,
    pace: float = 0.5,
    seed: int = 0,
    log: Log | None = None,
    most: float = float("inf"),
) -> Log:
    """Let ``people`` work for ``seconds``; ``pace`` seconds lie between two saves of one person, give
    or take a half; it ends earlier after ``most`` saves."""
    log = Log() if log is None else log
    end = time.monotonic() + seconds
    work = [_person(root, f"person {i}", end, pace, random.Random(seed * 1000 + i), log, most) for i in range(people)]
    await asyncio.gather(*work)
    return log


async def _person(root: str, name: str, end: float, pace: float, rng: random.Random, log: Log, most: float) -> None:
    connection = Connection(root)

    async def post(path: str, **body: Any) -> Any:
        return await connection.post(path, {"name": name, **body})

    try:
        await asyncio.sleep(rng.random() * pace)
        item = (await post("next"))["item"]
        while item is not None and time.monotonic() < end and len(log.saves) < most:
            item = await _one(post, item, name, pace, rng, log)
    except Refused as error:
        log.refused.append(str(error))
    finally:
        connection.close()


async def _one(post: Any, item: Any, name: str, pace: float, rng: random.Random, log: Log) -> Any:
    prompt_id, revision, text = item["id"], item["revision"], item["text"]
    place = [prompt_id, name, time.monotonic(), None]
    log.handed.append(place)
    for _ in range(rng.randint(1, 5)):
        await asyncio.sleep(pace * (0.5 + rng.random()))
        text += rng.choice(["word ", "ß日本 ", "line\n", "<b> "]) * rng.randint(1, 12) + str(rng.random())
        sent = log.drafts.setdefault((prompt_id, name), [""])
        sent.append(text)
        began = time.monotonic()
        saved = await post("draft", id=prompt_id, text=text, seconds=1.5, revision=revision)
        log.saves.append(time.monotonic() - began)
        revision = saved["revision"]
        assert saved["held_by"] == []
        del sent[:-1]
    place[3] = time.monotonic()
    if rng.random() < 0.06:
        flag = rng.choice([None, None, "duplicate"])
        reply = await post("skip", id=prompt_id, seconds=2, reason="for the test", flag=flag)
    else:
        began = time.monotonic()
        reply = await post("answer", id=prompt_id, text=text, seconds=2.5, revision=revision)
        log.saves.append(time.monotonic() - began)
        log.answers[prompt_id, name] = text
    return reply["item"]


def check(log: Log, database: Path, *, overlap: int = 1) -> None:
    """Every acknowledged answer and text is stored as it was, and nobody got what others had."""
    with sqlite3.connect(database) as connection:
        stored = {
            (p, who): text
            for p, who, text in connection.execute(
                "SELECT prompt_id, annotator, response FROM annotations WHERE replaced IS NULL AND status = 'final'"
            )
        }
        drafts = {
            (p, who): text for p, who, text in connection.execute("SELECT prompt_id, annotator, response FROM drafts")
        }
    lost = [key for key, text in log.answers.items() if stored.get(key) != text]
    assert not lost, f"{len(lost)} of {len(log.answers)} acknowledged answers are lost, the first: {lost[0]}"
    for key, sent in log.drafts.items():
        # The last acknowledged, or one on its way when the server died.
        kept = drafts.get(key, "")
        assert key in log.answers or kept in sent or (kept is None and stored.get(key) in sent), key
    holders: dict[str, list[list[Any]]] = {}
    for place in log.handed:
        others = [p for p in holders.setdefault(place[0], []) if p[3] is None or p[3] > place[2]]
        assert len({p[1] for p in others} - {place[1]}) < overlap, (place, others)
        holders[place[0]].append(place)
    by_prompt: dict[str, set[str]] = {}
    for prompt_id, who in stored:
        by_prompt.setdefault(prompt_id, set()).add(who)
    assert max(map(len, by_prompt.values())) <= overlap


def quantile(values: list[float], q: float) -> float:
    """The value below which a share ``q`` of ``values`` lies."""
    return sorted(values)[min(int(len(values) * q), len(values) - 1)]


def main() -> None:
    """Run the crowd as long and as large as asked for, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pace", type=float, default=0.5)
    parser.add_argument("--overlap", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        count = int(given.people * given.seconds / given.pace) + 100
        study = make_study(Path(place) / "study", [f"Question {i}?" for i in range(count)], count - 50)
        server = Server(study.path, "--port", "0", "--overlap", str(given.overlap))
        try:
            before = server.cpu()
            log = asyncio.run(crowd(server.root, given.people, given.seconds, pace=given.pace))
            spent = server.cpu() - before
        finally:
            server.stop()
        check(log, study.annotations.path, overlap=given.overlap)
    print(
        f"{given.people} people, {given.seconds:.0f} s: {len(log.answers)} answers, none lost, none given twice; "
        f"{len(log.saves)} saves, p50 {quantile(log.saves, 0.5) * 1e3:.0f} ms, "
        f"p99 {quantile(log.saves, 0.99) * 1e3:.0f} ms, longest {max(log.saves) * 1e3:.0f} ms; "
        f"{spent / len(log.saves) * 1e3:.2f} ms of the server's processor a save; refused: {log.refused or 'none'}"
    )


if __name__ == "__main__":
    main()
