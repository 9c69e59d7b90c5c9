"""Exact and near duplicates of a pool, in memory that grows by some 120 bytes a prompt.

Near duplicates are prompts whose word 5-grams have a Jaccard similarity of at least 0.8, twice: counted as they are,
and weighted so that a run of words found in more than five distinct prompts counts less in proportion. The weights keep
a template apart from what is asked: "<forty words of instructions> Spell this backward: house" and "... : garden" are
different prompts, although they share most of their words.

Candidates come from MinHash bands (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3) and every link
is verified on the full sets, which wait in a file; groups are the connected components.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from thriftune.pool.shingles import BANDS, sketch
from thriftune.progress import progress

# Near duplicates: |A & B| >= 4/5 |A | B|, which is the same as: what only one of them has is at most (|A| + |B|) / 9.
ALIKE = 0.8
_SINGLE_SHARE = (1 - ALIKE) / (1 + ALIKE)
_ROUNDING = 1e-9
COMMON = 5  # a shingle of more distinct prompts than these is taken for a template's
# Candidates compared with each prompt in one band. Prompts are ordered by further bands, so that the most similar are
# neighbours (as in an LSH forest) and a bucket of thousands needs no comparison of all pairs.
_WINDOW = 64
_LEAST_COUNTERS, _MOST_COUNTERS = 22, 26  # log2; two bytes each


def first_rows(*keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """For each row the number of the first row with the same keys.

    Args:
        keys: (n,) each, any sortable values.

    Returns:
        (n,) int64.
    """
    order = np.lexsort(keys)
    begins = np.ones(len(order), bool)
    # lexsort is stable: within a run of equal keys rows ascend.
    begins[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    firsts = np.empty(len(order), np.int64)
    firsts[order] = order[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
    return firsts


class NearDuplicates:
    """Collects prompts batch by batch, then groups them.

    Args:
        file: where the shingles wait, four bytes for each distinct shingle of each prompt; the caller removes it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.handle = file.open("wb")
        self.bands: list[npt.NDArray[np.uint32]] = []
        self.sets: list[npt.NDArray[np.uint64]] = []
        self.sizes: list[npt.NDArray[np.int64]] = []

    def add(self, texts: list[str]) -> None:
        """Sketch ``texts``, the next prompts of the pool."""
        made = sketch(texts)
        self.bands.append(made.bands)
        self.sets.append(made.sets)
        self.sizes.append(made.sizes)
        made.shingles.tofile(self.handle)

    def close(self) -> None:
        """End the file of shingles; `groups` reads it."""
        self.handle.close()

    def groups(self) -> npt.NDArray[np.int64]:
        """Group all prompts added.

        Returns:
            (n,) int64, the number of the first prompt of the group; the grouping does not depend on their order.
        """
        sets = np.concatenate(self.sets)
        # From here on distinct sets in the order of their hashes, which no shuffling changes.
        _, rows, inverse = np.unique(sets, return_index=True, return_inverse=True)
        bands = np.concatenate(self.bands)[rows]
        self.bands.clear()
        sizes = np.concatenate(self.sizes)
        starts = (np.cumsum(sizes) - sizes)[rows]
        sizes = sizes[rows]
        shingles = np.asarray(np.memmap(self.file, np.uint32, "r"))
        # Sixteen counters a shingle where memory allows: two shingles on one counter would pass for a commoner one.
        log2 = min(max(_LEAST_COUNTERS, int(sizes.sum()).bit_length() + 4), _MOST_COUNTERS)
        counters = np.zeros(1 << log2, np.uint16)
        _count(shingles, starts, sizes, counters)
        weights = _weigh(shingles, starts, sizes, counters)
        parents = np.arange(len(rows))
        with progress("finding near duplicates", BANDS, "bands") as advance:
            for band in range(BANDS):
                order = np.lexsort([bands[:, (band + ahead) % BANDS] for ahead in (2, 1, 0)])
                _link(order, bands, band, shingles, starts, sizes, weights, counters, parents)
                advance(1)
        return first_rows(_roots(parents)[inverse])


@nb.njit(cache=True)
def _count(shingles, starts, sizes, counters):  # type: ignore[no-untyped-def]
    """Count the distinct prompts of each shingle (at most 65,535)."""
    mask = len(counters) - 1
    for i in range(len(starts)):
        for s in range(starts[i], starts[i] + sizes[i]):
            c = shingles[s] & mask
            if counters[c] < 65535:
                counters[c] += 1


@nb.njit(cache=True)
def _weight(shingle, counters):  # type: ignore[no-untyped-def]
    return min(1.0, COMMON / counters[shingle & (len(counters) - 1)])


@nb.njit(cache=True)
def _weigh(shingles, starts, sizes, counters):  # type: ignore[no-untyped-def]
    """The weight of each prompt's whole set."""
    totals = np.zeros(len(starts))
    for i in range(len(starts)):
        for s in range(starts[i], starts[i] + sizes[i]):
            totals[i] += _weight(shingles[s], counters)
    return totals


@nb.njit(cache=True)
def _alike(a, b, weight, counters):  # type: ignore[no-untyped-def]
    """Whether two ascending shingle sets, together of this weight, are near duplicates."""
    room = (len(a) + len(b)) * _SINGLE_SHARE + _ROUNDING
    room_by_weight = weight * (_SINGLE_SHARE + _ROUNDING)
    i = j = single = 0
    single_weight = 0.0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and a[i] == b[j]:
            i += 1
            j += 1
            continue
        if j == len(b) or (i < len(a) and a[i] < b[j]):
            single_weight += _weight(a[i], counters)
            i += 1
        else:
            single_weight += _weight(b[j], counters)
            j += 1
        single += 1
        if single > room or single_weight > room_by_weight:
            return False
    return True


@nb.njit(cache=True)
def _root(parents, i):  # type: ignore[no-untyped-def]
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@nb.njit(cache=True)
def _roots(parents):  # type: ignore[no-untyped-def]
    roots = np.empty_like(parents)
    for i in range(len(parents)):
        roots[i] = _root(parents, i)
    return roots


@nb.njit(cache=True)
def _met(bands, band, i, j):  # type: ignore[no-untyped-def]
    """Whether an earlier band already brought two prompts together."""
    for earlier in range(band):  # noqa: SIM110 (numba has no any() of a generator)
        if bands[i, earlier] == bands[j, earlier]:
            return True
    return False


@nb.njit(cache=True)
def _link(order, bands, band, shingles, starts, sizes, weights, counters, parents):  # type: ignore[no-untyped-def]
    """Join the near duplicates among prompts that are equal in ``band``, by which ``order`` is sorted."""
    first = 0
    for at in range(1, len(order)):
        i = order[at]
        if bands[i, band] != bands[order[first], band]:
            first = at
            continue
        a = shingles[starts[i] : starts[i] + sizes[i]]
        for back in range(at - 1, max(first, at - _WINDOW) - 1, -1):
            j = order[back]
            here, there = _root(parents, i), _root(parents, j)
            if here == there or _met(bands, band, i, j):
                continue
            b = shingles[starts[j] : starts[j] + sizes[j]]
            if _alike(a, b, weights[i] + weights[j], counters):
                parents[max(here, there)] = min(here, there)
