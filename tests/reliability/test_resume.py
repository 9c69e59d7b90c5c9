"""Every stage is struck by signals at random moments, run again, and ends as if nothing had happened."""

from __future__ import annotations

import bisect
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest
from runs import Ended
from stages import CASES, Bases, Case, check, contents, leftovers, span

pytestmark = pytest.mark.timeout(3600)
_NAMES = {-signal.SIGKILL: "SIGKILL", -signal.SIGTERM: "SIGTERM", 130: "SIGINT", 0: "finished before"}
_STRIKES = (signal.SIGKILL,) * 8 + (signal.SIGINT, signal.SIGTERM)
# Kills of each stage in full; `make test` kills a few once, and tests beside the stages kill the others.
_KILLS = {"score": 40, "teach": 30, "finetune full": 20, "bench": 15}
_SHORT = ("init", "score", "select", "import", "teach")
# Where something went wrong once: a kill in place of this operation.
_ONCE = (
    ("init", "rename study.json"),
    ("init", "rmdir .init-"),
    ("export", "rename out.csv"),
    ("evaluate", "rmdir evaluations/"),
)


@dataclass
class Whole:
    """An uninterrupted run to compare with."""

    case: Case
    ended: Ended
    contents: dict[str, Any]
    leftovers: list[str]
    first: int
    last: int


def run_whole(bases: Bases, case: Case) -> Whole:
    bases.lay(case.base)
    ended = bases.warm.run(bases.argv(case.command), bases.study, patches=bases.patches(case))
    assert ended.code == 0, ended.said
    return Whole(case, ended, contents(bases.study), leftovers(bases.study), *span(case, ended.operations))


def strike(bases: Bases, whole: Whole, rng: random.Random) -> tuple[Ended, str]:
    """Run a case and strike it somewhere, nine times in ten between the end of its first and of its last part."""
    operations, number = whole.ended.operations, rng.choice(_STRIKES)
    n, argv = len(operations), bases.argv(whole.case.command)
    inside = rng.random() < 0.9
    request = {"patches": bases.patches(whole.case)}
    if rng.random() < 0.5:  # in place of an operation on files
        at = (
            rng.randint(whole.first, whole.last - 1)
            if inside
            else rng.choice([*range(whole.first), *range(whole.last, n)])
        )
        ended = bases.warm.run(argv, bases.study, at=at, signal=number, **request)
    else:  # at a moment
        times = [o.time for o in operations]
        spans = [(times[whole.first - 1], times[whole.last - 1])] if inside else [(0.0, times[whole.first - 1])]
        moment = rng.uniform(*spans[0])
        after = bisect.bisect(times, moment)
        running = bases.warm.start(argv, bases.study, **request)
        running.strike(after, moment - (times[after - 1] if after else 0.0), number)
        ended = running.ended()
    done = len(ended.operations)
    where = "before the first part" if done < whole.first else "between" if done < whole.last else "after the last part"
    return ended, where


def ended_badly(ended: Ended) -> list[str]:
    """What is wrong with how a struck run ended."""
    wrong = []
    if ended.hung:
        wrong.append("hung")
    if ended.code not in _NAMES:
        wrong.append(f"status {ended.code}: {ended.said[-500:]}")
    # Python drops a Ctrl-C that falls into a destructor, and says so; the run goes on.
    if "Traceback" in ended.said and not (ended.code == 0 and "Exception ignored in" in ended.said):
        wrong.append(f"traceback: {ended.said[-1500:]}")
    if ended.code == 130 and "the same command continues" not in ended.said:
        wrong.append(f"Ctrl-C does not say how to go on: {ended.said[-300:]}")
    return wrong


def look(bases: Bases) -> list[str]:
    """What is wrong with what a struck run left behind: readers must never see half of anything."""
    for file in bases.study.rglob("*"):
        seen = not any(part.startswith(".") for part in file.relative_to(bases.study).parts)
        if seen and file.suffix == ".parquet":
            pq.read_table(file, partitioning=None)
        if seen and file.suffix == ".sqlite":
            check(file)
    if (bases.study / "study.json").exists():
        status = bases.warm.run(["status", str(bases.study)], bases.study)
        if status.code:
            return [f"status: {status.said[-500:]}"]
    return []


def finish(bases: Bases, whole: Whole) -> list[str]:
    """Run the case once more and compare with the uninterrupted run."""
    case = whole.case
    ended = bases.warm.run(bases.argv(case.command), bases.study, patches=bases.patches(case))
    if ended.code and not (ended.code == 2 and case.again and case.again in ended.said):
        return [f"the same command ends with {ended.code}: {ended.said[-1500:]}"]
    found = contents(bases.study)
    other = [name for name in sorted({*found, *whole.contents}) if found.get(name) != whole.contents.get(name)]
    wrong = [f"differs: {name}" for name in other]
    return wrong + [f"left behind: {name}" for name in leftovers(bases.study) if name not in whole.leftovers]


@pytest.mark.parametrize(("name", "operation"), _ONCE)
def test_killed_where_it_went_wrong_once(bases: Bases, name: str, operation: str) -> None:
    whole = run_whole(bases, next(case for case in CASES if case.name == name))
    names = [f"{o.what} {o.path}" for o in whole.ended.operations]
    at = next(i for i, n in enumerate(names) if n.startswith(operation))
    bases.lay(whole.case.base)
    assert bases.warm.run(bases.argv(whole.case.command), bases.study, at=at).code == -signal.SIGKILL
    assert not look(bases) and not finish(bases, whole)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_struck_and_run_again_it_ends_the_same(
    bases: Bases, case: Case, times: Callable[[int, int], int], campaign: dict[str, Any]
) -> None:
    count = times(case.name in _SHORT, _KILLS.get(case.name, 25))
    if not count:
        pytest.skip("in full only")
    rng = random.Random(f"{case.name} 1")
    whole = run_whole(bases, case)
    places: Counter[str] = Counter()
    signals: Counter[str] = Counter()
    points, wrong = [], []
    while places.total() - places["finished before the signal"] < count and places.total() < 3 * count:
        bases.lay(case.base)
        for again in (0, 1):  # one in four is struck twice
            ended, where = strike(bases, whole, rng)
            name = _NAMES.get(ended.code, str(ended.code))
            last = ended.operations[-1] if ended.operations else None
            doing = f"{last.what} {last.path}" if last else "nothing"
            point = f"{name} after {len(ended.operations)} of {len(whole.ended.operations)}: {doing}"
            points.append(point)
            signals[name] += 1
            places[where if ended.code else "finished before the signal"] += 1
            done = (
                ended.code == 2 and bool(case.again) and case.again in ended.said
            )  # struck twice, and done the first time
            wrong += [] if done else [f"{point}: {w}" for w in ended_badly(ended)]
            if rng.random() < 0.5:  # else the next run is the first to see what was left
                wrong += [f"{point}: {w}" for w in look(bases)]
            if again or rng.random() < 0.75:
                break
        wrong += [f"{point}: {w}" for w in finish(bases, whole)]
    campaign.update(stage=case.name, signals=dict(signals), places=dict(places), wrong=wrong, points=points)
    assert not wrong, "\n".join(wrong[:20])
