"""The smallest detectable saving: what is promised is what experiments find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from thriftune.bench.efficiency import infer
from thriftune.bench.power import ASSUMED, Noise, detectable_words, noise_of, saving_found, smallest_detectable
from thriftune.bench.synthetic import World, draw, table

WORLD = World(shape="straight", ratios=(1.0,), fading=0.0, items=120, tasks=6)
NOISE = Noise(slope=0.27, seed_sd=0.035, item_sd=0.15, residual_sd=0.4, source="known")


def test_with_noise_of_seeds_alone_it_is_the_power_of_a_t_test() -> None:
    noise = Noise(slope=0.5, seed_sd=0.04, item_sd=0.0, residual_sd=0.0, source="by hand")
    error = 0.04 * np.sqrt(0.5 / 8)  # two budgets with weights of a half, eight seeds
    critical = scipy.stats.t.isf(0.025, 7)
    shift = scipy.optimize.brentq(lambda d: scipy.stats.nct.sf(critical, 7, d) - 0.8, 0, 20)
    expected = 1 - np.exp(-shift * error / 0.5)
    assert smallest_detectable(seeds=8, budgets=[100, 50], items=500, noise=noise) == pytest.approx(expected, rel=0.01)


def test_the_promised_saving_is_found_as_often_as_promised() -> None:
    planned = smallest_detectable(seeds=8, budgets=WORLD.budgets, items=120, noise=NOISE)
    assert planned is not None
    rng = np.random.default_rng(1)
    count = 400
    found = [infer(draw(replace(WORLD, ratios=(1 / (1 - planned),)), rng), draws=500)[0] for _ in range(count)]
    # 80 %, give or take three standard errors and what rounding the variance to two quantiles costs.
    assert 0.72 < np.mean([one.saving for one in found]) < 0.86
    said = [one.detectable for one in found if one.detectable is not None]
    assert np.median(said) == pytest.approx(planned, rel=0.12)


def test_what_helps_helps_and_what_harms_harms() -> None:
    def found(**changed: object) -> float:
        given = {"seeds": 8, "budgets": [50, 100, 200, 400], "items": 500, "comparisons": 3} | changed
        saving = smallest_detectable(**given)
        assert saving is not None
        return saving

    assert 0 < found(seeds=16) < found() < found(seeds=4) < 1
    assert found(items=2000) < found() < found(items=100)
    assert found(comparisons=1) < found() < found(comparisons=12)
    assert found() < found(noise=replace(ASSUMED, slope=0.1))
    assert found(power=0.5) < found() < found(level=0.99)


def test_what_cannot_be_found_is_none() -> None:
    assert smallest_detectable(seeds=1, budgets=[50, 100], items=500) is None
    assert smallest_detectable(seeds=8, budgets=[50], items=500) is None
    assert smallest_detectable(seeds=8, budgets=[50, 100], items=500, noise=replace(ASSUMED, slope=0.0)) is None
    assert smallest_detectable(seeds=2, budgets=[50, 100], items=20, comparisons=9) is None
    assert saving_found((0.1, 0.0), 0.05, 7, -0.1, 2.0) is None


def test_noise_is_recovered_from_an_earlier_experiment() -> None:
    rng = np.random.default_rng(2)
    world = replace(WORLD, ratios=(1.0,) * 6, seeds=10)
    found = [noise_of(table(draw(world, rng)), "metric-0", True) for _ in range(8)]
    for name in ("slope", "seed_sd", "item_sd", "residual_sd"):
        got = [getattr(one, name) for one in found]
        assert np.mean(got) == pytest.approx(getattr(NOISE, name), rel=0.15), name
    assert noise_of(table(draw(replace(WORLD, seeds=1), rng)), "metric-0", True) is None
    assert noise_of(table(draw(replace(WORLD, budgets=(50,)), rng)), "metric-0", True) is None


def test_said_in_words_with_its_assumptions() -> None:
    words = detectable_words(0.217, ASSUMED)
    assert "80 % probability: 22 % of the annotations (noise assumed, not measured" in words
    assert "could show no saving" in detectable_words(None, ASSUMED)
