"""The power fails: what was not flushed is lost in part or whole; see `power` for what is simulated."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from power import Call, Disk, calls, can_trace
from savers import Savers, Told, missing, serve, stored
from stages import CASES, Bases, contents, leftovers, span

from thriftune.annotations import AnnotationStore
from thriftune.study import Study

pytestmark = pytest.mark.timeout(3600)
# States tried of each stage, in `make test` and in full.
_STATES = {
    **{"init": (2, 20), "init-annotated": (0, 15), "import": (4, 40), "score": (1, 12), "select": (1, 12)},
    **{"finetune lora": (0, 8), "finetune full": (0, 6), "bench": (0, 4)},
}


@pytest.fixture(scope="module", autouse=True)
def _tracing(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not can_trace(tmp_path_factory.mktemp("trace") / "out"):
        pytest.skip("needs strace and the right to trace")


@dataclass
class Listener:
    """What the page's server was sent and acknowledged, as its sockets tell."""

    told: Told = field(default_factory=Told)
    heard: dict[str, bytes] = field(default_factory=dict)

    def hear(self, call: Call) -> bool:
        """Note a call; True if it acknowledged something."""
        number, path = call.descriptor
        if call.name not in ("recvfrom", "sendto") or ("socket" not in path and "TCP" not in path):
            return False
        if call.name == "recvfrom":
            self.heard[number] = self.heard.get(number, b"") + call.data()
            if (said := self._said(number)) is not None:
                key = (said["id"], said["name"])
                texts = self.told.sent.setdefault(key, [])
                if said["text"] not in texts:
                    texts.append(said["text"])
            return False
        if not call.strings() or not call.strings()[0].startswith(b"HTTP/1.1 200"):
            return False
        said = self._said(number)
        if said is None:
            return False
        head = self.heard.pop(number)
        key = (said["id"], said["name"])
        (self.told.answers if b"/api/answer" in head.split(b"\r\n")[0] else self.told.drafts)[key] = said["text"]
        self.told.sent[key] = []
        return True

    def _said(self, number: str) -> dict[str, Any] | None:
        head, _, body = self.heard.get(number, b"").partition(b"\r\n\r\n")
        if not head.startswith(b"POST /api/"):
            return None
        try:
            return dict(json.loads(body))
        except ValueError:
            return None  # the rest is on its way


def test_acknowledged_answers_outlive_a_power_failure(
    bases: Bases, tmp_path: Path, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    bases.lay("chosen")
    before = shutil.copytree(bases.study.parent, tmp_path / "before")
    trace = tmp_path / "trace"
    running, port = serve(bases.warm, bases.study, trace=trace)
    ids = pq.read_table(bases.study / "selections" / "picks.parquet")["id"].to_pylist()
    savers = Savers(port, ids, size=3000)
    deadline = time.monotonic() + 120
    while len(savers.told.answers) < times(60, 800) and time.monotonic() < deadline:
        time.sleep(0.01)
    told = savers.ended()
    os.kill(running.pid, signal.SIGINT)
    assert running.ended().code == 0 and not told.refused
    events = list(calls(trace))
    rng = random.Random(9)
    disk = Disk(before)
    disk.root = str(bases.study.parent)
    moments = {rng.randrange(len(events)) for _ in range(times(25, 400))}
    listener, states, acknowledged, ever = Listener(), 0, 0, 0
    for number, call in enumerate(events):
        disk.play(call)
        ever += listener.hear(call)
        if number not in moments:
            continue
        for chance in (None, rng, rng):
            place = tmp_path / "after"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            disk.after_failure(place, chance)
            database = place / "study" / "annotations.sqlite"
            if database.exists() or listener.told.answers:
                opened = AnnotationStore(database).in_force()
                answers, drafts = stored(database, tmp_path / "copy")
                gone = missing(listener.told, answers, drafts)
                assert not gone, f"after call {number} ({call.name}): {len(gone)} gone, such as {gone[:3]}"
                assert len(opened) == len(answers)
            Study(place / "study")
            states += 1
            acknowledged += len(listener.told.answers) + len(listener.told.drafts)
    assert ever >= len(told.answers) > 0, "the trace does not show the replies"
    assert not [d for d in disk.differences() if not d.endswith("-shm")]
    flushes = sum(call.name in ("fsync", "fdatasync") for call in events)
    campaign.update(
        moments=len(moments),
        states=states,
        acknowledgements_checked=acknowledged,
        acknowledged=ever,
        flushes=flushes,
        lost=0,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stage_whose_power_failed_ends_the_same(
    bases: Bases, tmp_path: Path, case: Any, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    count = times(*_STATES.get(case.name, (0, 12)))
    if not count:
        pytest.skip("in full only")
    bases.lay(case.base)
    work = bases.study.parent
    before = shutil.copytree(work, tmp_path / "before")
    argv, patches = bases.argv(case.command), bases.patches(case)
    ended = bases.warm.start(argv, bases.study, trace=tmp_path / "trace", patches=patches).ended()
    assert ended.code == 0, ended.said
    span(case, ended.operations)
    whole, left = contents(bases.study), leftovers(bases.study)
    mapped = {p.suffix: p.read_bytes() for p in bases.study.rglob("embeddings.npy")}
    events = list(calls(tmp_path / "trace"))

    def fresh() -> Disk:
        disk = Disk(before, mapped)
        disk.root = str(work)
        return disk

    disk = fresh()
    mine = [number for number, call in enumerate(events) if disk.play(call)]
    assert not [d for d in disk.differences() if not d.endswith("-shm")]
    rng = random.Random(f"{case.name} power")
    wrong = []
    for number in range(count):
        # The last state is the finished one: what was published is there.
        moment = mine[-1] if number == count - 1 else rng.choice(mine)
        disk = fresh()
        for call in events[: moment + 1]:
            disk.play(call)
        shutil.rmtree(work)
        work.mkdir()
        disk.after_failure(work, rng if number % 3 else None)
        point = f"after {events[moment].name} {events[moment].descriptor[1] or events[moment].paths()}"
        if moment == mine[-1] and case.name.split("-")[0] in ("import", "label"):
            answers = AnnotationStore(bases.study / "annotations.sqlite").answered()
            wrong += [] if len(answers) == 20 else [f"{point}: {len(answers)} of 20 acknowledged answers are there"]
        again = bases.warm.run(argv, bases.study, patches=patches)
        if again.code and not (again.code == 2 and case.again and case.again in again.said):
            wrong.append(f"{point}: the same command ends with {again.code}: {again.said[-1000:]}")
            continue
        found = contents(bases.study)
        wrong += [f"{point}: differs: {n}" for n in sorted({*found, *whole}) if found.get(n) != whole.get(n)]
        wrong += [f"{point}: left behind: {n}" for n in leftovers(bases.study) if n not in left]
    campaign.update(stage=case.name, states=count, calls=len(mine), wrong=wrong)
    assert not wrong, "\n".join(wrong[:20])
