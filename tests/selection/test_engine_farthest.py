"""k-center against a double-precision loop over all distances, and its certificate against the true optimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from brute_force import squared_distances

from thriftune.selection.engine import blocks
from thriftune.selection.engine.farthest import k_center

NONE = np.empty(0, np.int64)


def ignore(amount):
    pass


def farthest_first(x, budget, chosen, start):
    d2 = squared_distances(x)
    left = np.ones(len(x), bool)
    left[chosen] = False
    near = d2[:, chosen].min(axis=1) if len(chosen) else np.full(len(x), np.inf)
    rows, distances = [], []
    for i in range(budget):
        pick = start if i == 0 and not len(chosen) else int(np.where(left, near, -1).argmax())
        rows.append(pick)
        distances.append(np.sqrt(near[pick]))
        left[pick] = False
        near = np.minimum(near, d2[pick])
    return rows, distances, np.sqrt(near.max())


def pools():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 24))
    return {
        "grid": rng.integers(0, 4, (300, 3)),
        "line": rng.integers(0, 60, (200, 1)),
        "normal": rng.standard_normal((900, 20)),
        "clusters": centres[rng.integers(0, 12, 700)] + 0.1 * rng.standard_normal((700, 24)),
        "far from zero": rng.standard_normal((400, 8)) + 1000,
        "near copies": np.repeat(centres, 25, axis=0) + 1e-4 * rng.standard_normal((300, 24)),
        "copies": np.repeat(rng.standard_normal((40, 5)), 6, axis=0)[rng.permutation(240)],
        "simplex": np.eye(150),
        "identical": np.ones((30, 3)),
        "many": rng.standard_normal((2600, 2)),
    }


@pytest.mark.parametrize("name", list(pools()))
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_equals_a_loop_over_all_distances(name, warm, share):
    x = np.ascontiguousarray(pools()[name], np.float32)
    chosen = np.array([3, 11]) if warm else NONE
    budget = int(share * (len(x) - len(chosen)))
    result = k_center(x, budget, chosen=chosen, start=5, advance=ignore)
    rows, distances, radius = farthest_first(x, budget, chosen, 5)
    np.testing.assert_array_equal(result.rows, rows)
    np.testing.assert_allclose(result.distances, distances, rtol=1e-9, atol=1e-12)
    assert result.radius == pytest.approx(radius, rel=1e-9, abs=1e-12)
    assert not result.partial


def test_starts_nearest_the_mean():
    x = np.array([[0.0], [10.0], [4.0], [6.0], [5.5]], np.float32)  # mean 5.1
    result = k_center(x, 3, chosen=NONE, start=None, advance=ignore)
    assert result.rows.tolist() == [4, 0, 1]
    assert result.distances[0] == np.inf
    assert result.distances[1:].tolist() == [5.5, 4.5]
    assert result.radius == 1.5


def test_start_tie_goes_to_the_lowest_row():
    assert k_center(np.eye(64, dtype=np.float32), 1, chosen=NONE, start=None, advance=ignore).rows[0] == 0


@pytest.mark.parametrize("seed", range(6))
def test_half_the_radius_bounds_every_choice(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((11, 2)).astype(np.float32)
    chosen, budget = np.array([4]), 3
    d = np.sqrt(squared_distances(x))
    optimum = min(d[:, [4, *s]].min(axis=1).max() for s in itertools.combinations(range(11), budget))
    radius = k_center(x, budget, chosen=chosen, start=None, advance=ignore).radius
    assert radius / 2 <= optimum <= radius


def test_threads_do_not_change_the_picks(monkeypatch):
    x = np.random.default_rng(1).standard_normal((3000, 32)).astype(np.float32)
    monkeypatch.setattr(blocks, "threads", lambda: 1)
    one = k_center(x, 1000, chosen=NONE, start=None, advance=ignore)
    monkeypatch.setattr(blocks, "threads", lambda: 4)
    four = k_center(x, 1000, chosen=NONE, start=None, advance=ignore)
    np.testing.assert_array_equal(one.rows, four.rows)
    np.testing.assert_array_equal(one.distances, four.distances)


def test_interrupted_picks_are_a_prefix():
    x = np.random.default_rng(2).standard_normal((2000, 16)).astype(np.float32)
    whole = k_center(x, 800, chosen=NONE, start=None, advance=ignore)
    made = 0

    def stop(amount):
        nonlocal made
        made += amount
        if made >= 100:
            raise KeyboardInterrupt

    part = k_center(x, 800, chosen=NONE, start=None, advance=stop)
    assert part.partial
    assert 100 <= len(part.rows) < 800
    np.testing.assert_array_equal(part.rows, whole.rows[: len(part.rows)])
    _, _, radius = farthest_first(x[:, :], len(part.rows), NONE, int(part.rows[0]))
    assert part.radius == pytest.approx(radius)


def test_nothing_to_pick():
    result = k_center(np.ones((4, 2), np.float32), 0, chosen=np.arange(4), start=None, advance=ignore)
    assert len(result.rows) == 0
    assert result.radius == 0
