"""Setting prompts aside for evaluation, whole near-duplicate groups at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from thriftune.types import BoolArray, IntArray


def choose_groups(keys: Sequence[bytes], sizes: IntArray, wanted: int, seed: int) -> BoolArray:
    """Choose groups at random so that their sizes add up to ``wanted``.

    Groups are taken in a random order in which those that would overshoot are passed over; where that misses
    ``wanted`` although some choice meets it, an exact choice is searched for among the groups in the same order.

    Args:
        keys: (g,) what identifies a group by its content: the order depends on keys and seed, not on positions.
        sizes: (g,) integer > 0.
        wanted: the number of prompts.
        seed: of the order.

    Returns:
        (g,) bool, True for the chosen; their sizes add up to the largest sum <= ``wanted`` that can be had.
    """
    chosen = np.zeros(len(keys), bool)
    salt = f"{seed}:".encode()
    ranks = [hashlib.blake2b(salt + key, digest_size=16).digest() for key in keys]
    order = sorted(range(len(keys)), key=lambda g: (ranks[g], keys[g]))
    left = wanted
    for group in order:
        if sizes[group] <= left:
            chosen[group] = True
            left -= int(sizes[group])
        if left == 0:
            return chosen
    return _largest_sum(order, sizes, wanted)


def _largest_sum(order: list[int], sizes: IntArray, wanted: int) -> BoolArray:
    """The subset-sum choice, by the set of sums that the groups so far can make (bit s of ``reachable``)."""
    reachable = 1
    within = (1 << (wanted + 1)) - 1
    # The group that first made a sum: every sum it builds on was made by groups before it.
    made_by: dict[int, int] = {}
    for group in order:
        new = (reachable << int(sizes[group])) & within & ~reachable
        reachable |= new
        while new:
            lowest = new & -new
            made_by[lowest.bit_length() - 1] = group
            new ^= lowest
        if reachable >> wanted & 1:
            break
    chosen = np.zeros(len(order), bool)
    total = reachable.bit_length() - 1
    while total:
        group = made_by[total]
        chosen[group] = True
        total -= int(sizes[group])
    return chosen
