"""No acknowledged answer is lost: the page's server killed, its disk full or read-only, its database held by others."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from savers import Savers, Told, missing, serve, stored
from stages import Bases
from web_browser import BROWSER, DRIVER, Person

from thriftune.annotations import AnnotationStore

pytestmark = pytest.mark.timeout(3600)


def prompts(study: Path) -> list[str]:
    ids: list[str] = pq.read_table(study / "selections" / "picks.parquet")["id"].to_pylist()
    return ids


def test_killed_servers_keep_what_they_acknowledged(
    bases: Bases, tmp_path: Path, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    rng = random.Random(5)
    points: Counter[str] = Counter()
    fates: Counter[str] = Counter()
    kept = Told()
    for number in range(times(10, 400)):
        if number % 40 == 0:
            bases.lay("chosen")
            kept, ids = Told(), prompts(bases.study)
        # In place of a statement, or at any moment.
        at = rng.randint(20, 500) if rng.random() < 0.5 else None
        running, port = serve(bases.warm, bases.study, at=at)
        savers = Savers(port, ids, seed=number)
        if at is None:
            running.strike(running.done + 1, rng.uniform(0.0, 0.3), signal.SIGKILL)
        ended = running.ended()
        told = savers.ended()
        assert ended.code == -signal.SIGKILL and not told.refused, (ended.said, told.refused)
        kept.answers |= told.answers
        kept.drafts |= told.drafts
        kept.sent |= told.sent
        answers, drafts = stored(bases.study / "annotations.sqlite", tmp_path / "copy")
        gone = missing(kept, answers, drafts)
        assert not gone, f"killed after {ended.operations[-1]}: {len(gone)} gone, such as {gone[:3]}"
        points[ended.operations[-1].what if ended.operations else "nothing"] += 1
        for key, texts in told.sent.items():
            for text in texts:
                fates["stored" if text in (answers.get(key), drafts.get(key)) else "not stored"] += 1
        campaign["acknowledged"] = campaign.get("acknowledged", 0) + len(told.answers) + len(told.drafts)
    status = bases.warm.run(["status", str(bases.study)], bases.study)
    assert status.code == 0, status.said
    campaign.update(kills=number + 1, after_operation=dict(points), on_their_way_when_killed=dict(fates), lost=0)


def test_a_held_database_is_waited_for_and_then_complained_of(
    bases: Bases, tmp_path: Path, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    """Another process holds the write lock: shorter than the patience, longer than it, and again."""
    bases.lay("chosen")
    patience = 1.0
    running, port = serve(bases.warm, bases.study, patches={"patience": patience})
    database = bases.study / "annotations.sqlite"
    rng, everything, refused, slowest = random.Random(6), Told(), 0, 0.0
    for number in range(times(4, 40)):
        long = number % 2 == 0
        holder = sqlite3.connect(database, isolation_level=None)
        savers = Savers(port, prompts(bases.study), seed=number)
        time.sleep(rng.uniform(0.0, 0.1))
        with contextlib.closing(holder):
            while True:  # the server may be at it
                with contextlib.suppress(sqlite3.OperationalError):
                    holder.execute(rng.choice(["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"]))
                    break
            before, began = len(savers.told.answers), time.monotonic()
            if long:
                while not savers.told.refused and time.monotonic() < began + 60:
                    time.sleep(0.05)
            time.sleep(rng.uniform(0.1, 0.6))
            held = time.monotonic() - began
            assert len(savers.told.answers) <= before + len(savers.threads)
            holder.execute("ROLLBACK")
        after, began = len(savers.told.answers), time.monotonic()
        while len(savers.told.answers) < after + 5 and time.monotonic() < began + 30:
            time.sleep(0.01)
        slowest = max(slowest, time.monotonic() - began)
        told = savers.ended()
        assert len(told.answers) >= after + 5, "the server does not go on when the lock is gone"
        # Where the machine is so busy that a short wait became a long one, both are right.
        assert told.refused if long else not told.refused or held >= patience, (held, told.refused[:3])
        assert all(status == 503 and "locked" in text for status, text in told.refused), told.refused[:3]
        refused += len(told.refused)
        everything.answers |= told.answers
        everything.drafts |= told.drafts
        everything.sent |= told.sent
        assert not missing(everything, *stored(database, tmp_path / "copy"))
    os.kill(running.pid, signal.SIGINT)
    ended = running.ended()
    assert ended.code == 0 and "the answers are in" in ended.said
    campaign.update(holds=number + 1, told_503=refused, acknowledged=len(everything.answers), lost=0)


@pytest.mark.parametrize("command", ["import STUDY ANSWERS", "label-studio pull STUDY --project 7"])
def test_what_brings_answers_waits_for_a_held_database_or_says_that_it_is(bases: Bases, command: str) -> None:
    patches = {"label_studio": bases.words["TASKS"]}
    for patience in (30.0, 0.3):
        bases.lay("chosen")
        AnnotationStore(bases.study / "annotations.sqlite").connect().close()
        holder = sqlite3.connect(bases.study / "annotations.sqlite", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        running = bases.warm.start(bases.argv(command), bases.study, patches={**patches, "patience": patience})
        if patience > 1:
            time.sleep(1.5)
            assert running.alive
            holder.close()
        ended = running.ended()
        holder.close()
        if patience < 1:
            assert ended.code == 2 and "database is locked; see that" in ended.said and ended.said.count("\n") == 1
            assert not AnnotationStore(bases.study / "annotations.sqlite").in_force()
            ended = bases.warm.run(bases.argv(command), bases.study, patches=patches)
        assert ended.code == 0, ended.said
        assert len(AnnotationStore(bases.study / "annotations.sqlite").answered()) == 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "small", str(place)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip("may not mount; as another user: unshare --user --map-root-user --mount make torture")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Fill a disk up to ``leave`` bytes."""
    with (disk / "ballast").open("ab", buffering=0) as handle, contextlib.suppress(OSError):
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave) > 0:
            handle.write(bytes(min(free, 1 << 16)))


def test_a_full_disk_is_said_and_loses_nothing(
    bases: Bases, small_disk: Path, tmp_path: Path, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    bases.lay("chosen")
    study = small_disk / "study"
    rng, everything, refused = random.Random(7), Told(), 0
    for number in range(times(4, 60)):
        if number % 10 == 0:
            shutil.rmtree(study, ignore_errors=True)
            shutil.copytree(bases.study, study)
            everything = Told()
        running, port = serve(bases.warm, study)
        if rng.random() < 0.5:
            first = Savers(port, prompts(study), seed=1000 + number)
            time.sleep(rng.uniform(0, 0.2))
            told = first.ended()
            everything.answers |= told.answers
            everything.drafts |= told.drafts
        fill(small_disk, rng.randint(0, 300) * 1024)
        savers = Savers(port, prompts(study), seed=number, size=20_000)
        began = time.monotonic()
        while len(savers.told.refused) < 5 and time.monotonic() < began + 30:
            time.sleep(0.005)
        full = len(savers.told.refused)
        if kill := rng.random() < 0.4:
            os.kill(running.pid, signal.SIGKILL)
            running.ended()
        else:
            (small_disk / "ballast").unlink()
            after, began = len(savers.told.answers), time.monotonic()
            while len(savers.told.answers) < after + 3 and time.monotonic() < began + 30:
                time.sleep(0.005)
            assert len(savers.told.answers) >= after + 3, "the server does not go on when there is room again"
        told = savers.ended()
        assert full >= 5, "the disk never was full"
        assert all(s == 503 and ("full" in t or "I/O" in t) for s, t in told.refused), told.refused[:3]
        refused += len(told.refused)
        everything.answers |= told.answers
        everything.drafts |= told.drafts
        everything.sent |= told.sent
        if kill:
            # While it is still full: the answers can be read, and a server that starts says what is wrong or works.
            status = bases.warm.run(["status", str(study)], study)
            assert "Traceback" not in status.said and status.code in (0, 2), status.said
            campaign[f"status_on_full_disk_{status.code}"] = campaign.get(f"status_on_full_disk_{status.code}", 0) + 1
            (small_disk / "ballast").unlink()
        gone = missing(everything, *stored(study / "annotations.sqlite", tmp_path / "copy"))
        assert not gone, gone[:3]
        if not kill:
            os.kill(running.pid, signal.SIGINT)
            assert running.ended().code == 0
    campaign.update(fills=number + 1, told_503=refused, lost=0)


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and its driver")
def test_a_person_sees_that_the_disk_is_full_and_loses_nothing(bases: Bases, small_disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("selenium")
    bases.lay("chosen")
    study = shutil.copytree(bases.study, small_disk / "study")
    running, port = serve(bases.warm, study)
    ann = Person(tmp_path / "profile")
    try:
        ann.enter(f"http://127.0.0.1:{port}/", "Ann")
        fill(small_disk, 0)
        ann.keys("written on a full disk")
        ann.until("return document.querySelector('.state.failed') !== null")
        ann.until("return document.getElementById('notice').textContent.includes('full')")
        (small_disk / "ballast").unlink()
        ann.until("return document.getElementById('saved').textContent === 'Saved'", seconds=60)
    finally:
        ann.driver.quit()
        os.kill(running.pid, signal.SIGINT)
        running.ended()
    _, drafts = stored(study / "annotations.sqlite", tmp_path / "copy")
    assert [text for text in drafts.values() if text] == ["written on a full disk"]
