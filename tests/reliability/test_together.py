"""Several processes on one study, and studies on disks that are full or may not be written."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import FakeServer, Say
from savers import Savers, missing, serve, stored
from stages import CASES, Bases, Case, contents, leftovers
from test_answers import fill, prompts

from thriftune.annotations import AnnotationStore

pytestmark = pytest.mark.timeout(3600)
_SLOW = {"finetune lora": 4, "finetune full": 4, "evaluate": 5, "bench": 2}


def compare(bases: Bases, whole: dict[str, Any], left: list[str]) -> list[str]:
    found = contents(bases.study)
    wrong = [f"differs: {n}" for n in sorted({*found, *whole}) if found.get(n) != whole.get(n)]
    return wrong + [f"left behind: {n}" for n in leftovers(bases.study) if n not in left]


def finished(bases: Bases, case: Case) -> tuple[dict[str, Any], list[str], float]:
    bases.lay(case.base)
    ended = bases.warm.run(bases.argv(case.command), bases.study, patches=bases.patches(case))
    assert ended.code == 0, ended.said
    return contents(bases.study), leftovers(bases.study), ended.operations[-1].time


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_at_once_do_not_harm_each_other(
    bases: Bases, case: Case, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    count = times(case.name in ("init", "import", "select"), _SLOW.get(case.name, 10))
    if not count:
        pytest.skip("in full only")
    whole, left, seconds = finished(bases, case)
    rng = random.Random(f"{case.name} together")
    argv, patches = bases.argv(case.command), bases.patches(case)
    outcomes: Counter[str] = Counter()
    wrong = []
    for _ in range(count):
        bases.lay(case.base)
        one = bases.warm.start(argv, bases.study, patches=patches)
        one.strike(0, rng.choice((0.0, rng.uniform(0, seconds))), 0)  # signal 0: only the pause
        two = bases.warm.start(argv, bases.study, patches=patches)
        ends = [one.ended(), two.ended()]
        for ended in ends:
            if ended.code == 0:
                outcomes["done"] += 1
            elif ended.code == 2 and re.search(r"another process is (at work on|making)|process \d+ on ", ended.said):
                outcomes["told who holds it"] += 1
                if "making" not in ended.said and not re.search(r"process \d+ on \S+, since", ended.said):
                    outcomes["told without a name"] += 1
            elif ended.code == 2 and case.again and case.again in ended.said:
                outcomes["told that it is done"] += 1
            else:
                wrong.append(f"{ended.code}: {ended.said[-800:]}")
        if all(ended.code for ended in ends):
            wrong.append(f"neither did it: {[e.said[-200:] for e in ends]}")
        wrong += compare(bases, whole, left)
    campaign.update(stage=case.name, pairs=count, outcomes=dict(outcomes), wrong=wrong)
    assert not wrong, "\n".join(wrong[:10])


def test_everything_at_once_on_one_study(
    bases: Bases, tmp_path: Path, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    """People answer on the page while answers are pulled, taught and exported, and prompts selected."""
    acknowledged = 0
    for number in range(times(1, 10)):
        bases.lay("chosen")
        # Two servers, even.
        servers = [serve(bases.warm, bases.study) for _ in range(2)]
        people = [Savers(port, prompts(bases.study), 2, seed=2 * number + i) for i, (_, port) in enumerate(servers)]
        cases = {case.name: case for case in CASES}
        others = ["teach", "select", "label-studio pull", "label-studio pull", "export", "evaluate"]
        random.Random(number).shuffle(others)
        started = [
            bases.warm.start(bases.argv(cases[name].command), bases.study, patches=bases.patches(cases[name]))
            for name in others
        ]
        for name, ended in zip(others, [s.ended() for s in started], strict=True):
            held = ended.code == 2 and "another process is at work on import" in ended.said
            assert ended.code == 0 or held, f"{name}: {ended.said}"
        for savers, (running, _) in zip(people, servers, strict=True):
            told = savers.ended()
            os.kill(running.pid, signal.SIGINT)
            assert running.ended().code == 0 and not told.refused
            assert not missing(told, *stored(bases.study / "annotations.sqlite", tmp_path / "copy"))
            acknowledged += len(told.answers) + len(told.drafts)
        answers = AnnotationStore(bases.study / "annotations.sqlite").in_force()
        assert {a.prompt_id for a in answers if "In two lines" in a.response} == set(prompts(bases.study))
    campaign.update(rounds=number + 1, acknowledged=acknowledged, lost=0)


@pytest.fixture
def disk(bases: Bases) -> Iterator[Path]:
    """The place where stages work as a file system of 24 MB in memory."""
    place = bases.study.parent
    shutil.rmtree(bases.study, ignore_errors=True)
    recipe = (place / "recipe.toml").read_bytes()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "small", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount; as another user: unshare --user --map-root-user --mount make torture")
    (place / "recipe.toml").write_bytes(recipe)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stage_whose_disk_fills_says_so_and_goes_on_when_there_is_room(
    bases: Bases, disk: Path, case: Case, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    count = times(case.name in ("init", "import", "score"), _SLOW.get(case.name, 10))
    if not count:
        pytest.skip("in full only")
    bases.lay(case.base)
    before = _used(disk)
    whole, left, _ = finished(bases, case)
    need = max(_used(disk) - before, 8192)
    rng = random.Random(f"{case.name} full")
    argv, patches = bases.argv(case.command), bases.patches(case)
    outcomes: Counter[str] = Counter()
    wrong = []
    for number in range(count):
        bases.lay(case.base)
        fill(disk, 0 if number == 0 else rng.randrange(2 * need))
        ended = bases.warm.run(argv, bases.study, patches=patches)
        (disk / "ballast").unlink()
        outcomes[f"status {ended.code}"] += 1
        if ended.code not in (0, 2) or "Traceback" in ended.said:
            wrong.append(f"status {ended.code}: {ended.said[-1500:]}")
        elif ended.code == 2 and not re.search(r"space|full|written|I/O|room", ended.said):
            wrong.append(f"does not say why: {ended.said[-500:]}")
        again = bases.warm.run(argv, bases.study, patches=patches)
        if again.code and not (case.again and case.again in again.said and ended.code == 0):
            wrong.append(f"with room again {again.code}: {again.said[-800:]}")
        wrong += compare(bases, whole, left)
    campaign.update(stage=case.name, fills=count, outcomes=dict(outcomes), wrong=wrong)
    assert not wrong, "\n".join(wrong[:10])


def _used(disk: Path) -> int:
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_study_that_may_not_be_written_is_read_and_refused_politely(
    bases: Bases, disk: Path, tmp_path: Path, campaign: dict[str, Any]
) -> None:
    bases.lay("answered")
    before = contents(bases.study)
    outcomes = {}
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with FakeServer(lambda body, _: Say("no")) as server:
        commands = {case.name: case.command for case in CASES if case.base != "nothing"}
        commands["annotate"] = "annotate STUDY --no-open --port 0"
        commands["status"] = "status STUDY"
        commands["export elsewhere"] = f"export STUDY {tmp_path / 'out.csv'}"
        for name, command in commands.items():
            case = next((c for c in CASES if c.name == name), None)
            patches = {} if case is None else bases.patches(case)
            ended = bases.warm.run(bases.argv(command), bases.study, patches=patches)
            outcomes[name] = ended.code
            assert ended.code in (0, 2) and "Traceback" not in ended.said, f"{name}: {ended.said[-1500:]}"
            if name in ("status", "export elsewhere"):
                assert ended.code == 0, f"{name}: {ended.said}"
            elif ended.code:
                assert re.search(r"[Rr]ead-only|readonly|written", ended.said), f"{name}: {ended.said}"
        assert not server.bodies
    with contextlib.suppress(OSError):
        assert "In two lines" in (tmp_path / "out.csv").read_text(encoding="utf-8-sig")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert contents(bases.study) == before
    campaign.update(outcomes=outcomes)
