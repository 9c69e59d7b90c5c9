"""Many people at once against a real server, and the server killed under them."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from web_crowd import Log, check, crowd
from web_server import Server, make_study

from thriftune.annotations import AnnotationStore

pytest.importorskip("uvicorn")


@pytest.mark.parametrize("overlap", [1, 2])
def test_fifty_people_lose_nothing_and_get_nothing_twice(tmp_path: Path, overlap: int) -> None:
    study = make_study(tmp_path / "study", [f"Question {i}?" for i in range(900)], 800)
    server = Server(study.path, "--port", "0", "--overlap", str(overlap))
    try:
        log = asyncio.run(crowd(server.root, 50, 8, pace=0.4))
        counted = server.get("standing")
    finally:
        server.stop()
    assert log.refused == []
    assert len(log.answers) > 50
    check(log, study.annotations.path, overlap=overlap)
    assert sum(person["answers"] for person in counted["people"]) == len(log.answers)


def test_a_small_selection_is_shared_out_to_the_last(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", [f"Question {i}?" for i in range(60)], 30)
    server = Server(study.path, "--port", "0")
    try:
        deadline = time.monotonic() + 60
        while server.get("standing")["reserve"] < 20 and time.monotonic() < deadline:
            time.sleep(0.2)
        log = asyncio.run(crowd(server.root, 20, 60, pace=0.02))
        # Who found nothing left for them went; who skipped may have left something for others.
        while (item := server.post("next", name="the last")["item"]) is not None:
            server.post("answer", name="the last", id=item["id"], text="x", seconds=1, revision=item["revision"])
        counted = server.get("standing")
    finally:
        server.stop()
    assert log.refused == []
    check(log, study.annotations.path)
    assert (counted["answered"], counted["open"], counted["missing"]) == (30, 0, 0)
    assert len(study.annotations.final()) == 30


def _kill_after(server: Server, log: Log, answers: int) -> None:
    while len(log.answers) < answers:
        time.sleep(0.003)
    server.kill()


def test_a_killed_server_keeps_every_acknowledged_answer(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", [f"Question {i}?" for i in range(600)], 600)
    for round_ in range(3):
        server = Server(study.path, "--port", "0", "--reserve", "0")
        log = Log()
        killer = threading.Thread(target=_kill_after, args=(server, log, 20 + 17 * round_))
        killer.start()
        asyncio.run(crowd(server.root, 20, 60, pace=0.05, seed=round_, log=log))
        killer.join()
        assert len(log.refused) == 20  # everybody noticed
        check(log, study.annotations.path)
    assert AnnotationStore(study.annotations.path).answered()
