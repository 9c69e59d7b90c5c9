"""A small run of benchmarks/calibration.py: intervals hold the truth as often as they say, nulls show no savings.

Bounds are three standard errors of a share beyond what is allowed. A method that is off is found out: the last test
shows that intervals a quarter narrower would be.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from thriftune.bench.efficiency import infer
from thriftune.bench.synthetic import World, draw

STUDY = World()
MIXED = replace(STUDY, ratios=(0.8, 1.25, 2.0))


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks" / "calibration.py"
    spec = importlib.util.spec_from_file_location("calibration", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _beyond(share: float, count: int) -> float:
    return 3 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("world", [MIXED, replace(MIXED, shape="straight", metrics=2)], ids=["mixed", "two metrics"])
def test_all_intervals_hold_the_truth_as_often_as_they_say(calibration: ModuleType, world: World) -> None:
    count = 150
    got = calibration.measure(world, count, 11)
    assert 0.93 - _beyond(0.93, count) < got["all"] <= min(1.0, 0.97 + _beyond(0.97, count))
    assert got["false saving"] == 0  # of the dearer strategy
    assert abs(got["worst bias"]) < 0.03


def test_at_the_null_they_do_too_and_narrower_intervals_would_be_found_out() -> None:
    count = 300
    rng = np.random.default_rng(13)
    held = narrower = false = 0
    for seed in range(count):
        found = infer(draw(STUDY, rng), draws=1000, seed=seed)
        held += all((c.low is None or c.low <= 0) and (c.high is None or c.high >= 0) for c in found)
        reach = [abs((c.low if c.theta > 0 else c.high) - c.theta) for c in found]
        narrower += all(abs(c.theta) <= 0.75 * r for c, r in zip(found, reach, strict=True))
        false += any(c.saving for c in found)
    assert 0.93 - _beyond(0.93, count) < held / count < 0.97 + _beyond(0.97, count)
    assert false / count < 0.05
    assert narrower / count < 0.93 - _beyond(0.93, count)


@pytest.mark.parametrize(
    "world",
    [
        replace(STUDY, seeds=3, budgets=(50, 100, 200)),
        replace(STUDY, shape="flat"),
        replace(STUDY, shape="falling"),
        replace(STUDY, ratios=(0.2, 0.2, 0.2), behind=0.3),
        replace(STUDY, accuracy=True),
    ],
    ids=["three seeds", "flat", "falling", "never reach random", "accuracy"],
)
def test_where_nothing_is_saved_no_saving_is_shown(calibration: ModuleType, world: World) -> None:
    count = 100
    assert calibration.measure(world, count, 12)["false saving"] < 0.05 + _beyond(0.05, count)
