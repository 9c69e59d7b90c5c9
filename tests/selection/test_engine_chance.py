"""What picks are worth beyond random ones, against drawing many."""

from __future__ import annotations

import numpy as np
import pytest

from thriftune.selection.engine.blocks import workers
from thriftune.selection.engine.chance import ahead_of_random, share_above_random
from thriftune.selection.engine.width import similarity
from thriftune.selection.run import select


@pytest.mark.parametrize(("n", "budget"), [(400, 3), (400, 120), (3000, 40)])
def test_random_picks_cover_what_many_draws_say(n: int, budget: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(30, 6))[rng.integers(0, 30, n)] + 0.4 * rng.normal(size=(n, 6))).astype(np.float32)
    u = rng.random(n).astype(np.float32)
    sim = similarity(x, "rbf", 0.5, budget)
    w = sim.block(slice(0, n), slice(0, n))
    before, free = w[:, :2].max(axis=1), np.arange(2, n)
    cover = np.maximum(before, w[:, 2 : 2 + budget].max(axis=1))
    draws = [u @ np.maximum(before, w[:, rng.choice(free, budget, replace=False)].max(axis=1)) for _ in range(300)]
    with workers() as run:
        found = ahead_of_random(sim, u, before, cover, lambda r: r.choice(free, budget, replace=False), run)
    spread = np.std(draws) / np.sqrt(max(1, min(32, 1000 // budget)))
    sampled = 0.0 if n <= 1024 else 0.02 * float(u.sum())
    assert abs(found - (float(u @ cover) - np.mean(draws))) < 4 * spread + sampled


def test_the_share_is_one_where_nothing_is_to_be_gained() -> None:
    assert share_above_random(0.0, 0.0) == 1
    assert share_above_random(3.0, 1.0) == 0.75
    assert share_above_random(-1.0, 4.0) == 0


@pytest.mark.parametrize("money", [None, 30.0])
def test_a_selection_says_where_it_stands_between_random_and_the_best(money: float | None) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 5)) + 6 * rng.integers(0, 3, (60, 1))
    given = {"budget": 6} if money is None else {"budget_cost": money, "costs": 1 + 9 * rng.random(60)}
    proven = select(embeddings=x, strategy="facility_location", **given).certificate
    assert proven is not None
    ahead = proven["value"] - proven["random"]
    assert ahead > 0
    assert proven["above_random"] == pytest.approx(ahead / (proven["upper_bound"] - proven["random"]))
    assert proven["above_random"] < proven["ratio"]
