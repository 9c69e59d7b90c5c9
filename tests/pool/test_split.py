"""The holdout: whole groups, exactly as many prompts as asked for where any choice of groups gives it."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from thriftune.pool.split import choose_groups


def keys_of(n: int) -> list[bytes]:
    return [f"group {i}".encode() for i in range(n)]


@settings(max_examples=300, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9), wanted=st.integers(1, 30), seed=st.integers(0, 5))
def test_the_largest_sum_that_any_choice_gives(sizes: list[int], wanted: int, seed: int) -> None:
    best = max(
        total
        for r in range(len(sizes) + 1)
        for chosen in itertools.combinations(sizes, r)
        if (total := sum(chosen)) <= wanted
    )
    chosen = choose_groups(keys_of(len(sizes)), np.array(sizes), wanted, seed)
    assert np.array(sizes)[chosen].sum() == best


def test_positions_do_not_matter_and_seeds_do() -> None:
    keys = keys_of(200)
    sizes = np.random.default_rng(0).integers(1, 5, 200)
    order = np.random.default_rng(1).permutation(200)
    first = {keys[i] for i in np.flatnonzero(choose_groups(keys, sizes, 100, 3))}
    shuffled = [keys[i] for i in order]
    assert {shuffled[i] for i in np.flatnonzero(choose_groups(shuffled, sizes[order], 100, 3))} == first
    assert {keys[i] for i in np.flatnonzero(choose_groups(keys, sizes, 100, 4))} != first


def test_every_group_has_its_chance() -> None:
    keys = keys_of(20)
    counts = sum(choose_groups(keys, np.ones(20, int), 5, seed).astype(int) for seed in range(400))
    # Binomial(400, 1/4): mean 100, standard deviation 8.7.
    assert counts.min() > 60
    assert counts.max() < 140
