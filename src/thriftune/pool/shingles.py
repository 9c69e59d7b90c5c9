"""Word shingles of prompts and their MinHash sketches, computed over UTF-8 bytes without Python objects per word.

Two prompts are compared by the sets of their word 5-grams (Broder 1997, "On the resemblance and containment of
documents"). Case and white space do not count; punctuation and digits do, since "3 + 4" is not "3 - 4". Scripts written
without spaces (Chinese, Japanese, Korean, Thai, Khmer, ...) count each character as a word.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
import numpy.typing as npt

SHINGLE_WORDS = 5
# 20 bands of 6 rows: a pair at Jaccard 0.8 becomes a candidate with probability 1 - (1 - 0.8**6)**20 = 0.998, one at
# 0.5 with 0.27; candidates are then compared exactly, so bands decide what may be missed, never what is wrong.
BANDS = 20
ROWS = 6


class Sketches(NamedTuple):
    """Sketches of n texts.

    Args:
        bands: (n, BANDS) uint32, equal in a band where the texts may be similar.
        sets: (n,) uint64, a hash of the whole set: equal where the sets are.
        sizes: (n,) int64, distinct shingles of each text.
        shingles: (sum of sizes,) uint32, each text's shingles in ascending order, one text after the other.
    """

    bands: npt.NDArray[np.uint32]
    sets: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int64]
    shingles: npt.NDArray[np.uint32]


def sketch(texts: list[str]) -> Sketches:
    """Shingle and sketch ``texts`` (n,)."""
    encoded = [text.casefold().encode("utf-8", "replace") for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(e) for e in encoded], out=offsets[1:])
    data = np.frombuffer(b"".join(encoded), np.uint8)
    return Sketches(*_sketch(data, offsets, _SEEDS))


_SEEDS = np.random.default_rng(20240118).integers(0, 2**32, BANDS * ROWS, dtype=np.uint32)
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@nb.njit(cache=True, inline="always")
def _mix64(x: np.uint64) -> np.uint64:
    # The finaliser of splitmix64 (Steele, Lea, Flood 2014).
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@nb.njit(cache=True)
def _decode(data, i):  # type: ignore[no-untyped-def]
    """The code point at byte ``i`` of valid UTF-8, and its length in bytes."""
    c = np.int64(data[i])
    if c < 0x80:
        return c, 1
    if c < 0xE0:
        return ((c & 0x1F) << 6) | (data[i + 1] & 0x3F), 2
    if c < 0xF0:
        return ((c & 0x0F) << 12) | ((data[i + 1] & 0x3F) << 6) | (data[i + 2] & 0x3F), 3
    high = ((c & 0x07) << 18) | ((data[i + 1] & 0x3F) << 12)
    return high | ((data[i + 2] & 0x3F) << 6) | (data[i + 3] & 0x3F), 4


_SPACE, _ALONE, _WORD = 0, 1, 2


@nb.njit(cache=True)
def _kind(c):  # type: ignore[no-untyped-def]
    """Whether a code point is space, a word by itself, or part of a word."""
    if c < 0x80:
        if 48 <= c <= 57 or 97 <= c <= 122 or 65 <= c <= 90 or c == 95:
            return _WORD
        return _SPACE if c <= 32 or c == 127 else _ALONE
    if c in (0x85, 0xA0, 0x1680, 0x202F, 0x205F, 0x3000, 0xFEFF) or 0x2000 <= c <= 0x200D or 0x2028 <= c <= 0x2029:
        return _SPACE
    if c <= 0xBF or 0x2010 <= c <= 0x2BFF or c >= 0x10000:
        return _ALONE
    if 0x0E00 <= c <= 0x0EFF or 0x1000 <= c <= 0x109F or 0x1780 <= c <= 0x17FF or 0x2E80 <= c <= 0xD7FF:
        return _ALONE
    return _WORD


@nb.njit(cache=True)
def _words(data, start, stop, words):  # type: ignore[no-untyped-def]
    """Hash the words of ``data[start:stop]`` into ``words``; returns how many."""
    n = 0
    inside = False
    h = np.uint64(0)
    i = start
    while i < stop:
        c, length = _decode(data, i)
        kind = _kind(c)
        if inside and kind != _WORD:
            words[n] = _mix64(h)
            n += 1
            inside = False
        if kind == _ALONE:
            words[n] = _mix64(np.uint64(c) * _PRIME)
            n += 1
        elif kind == _WORD:
            if not inside:
                h = np.uint64(1)
                inside = True
            h = _mix64(h * _PRIME + np.uint64(c))
        i += length
    if inside:
        words[n] = _mix64(h)
        n += 1
    return n


@nb.njit(cache=True)
def _sketch(data, offsets, seeds):  # type: ignore[no-untyped-def]
    n = len(offsets) - 1
    longest = 1
    for i in range(n):
        longest = max(longest, offsets[i + 1] - offsets[i])
    words = np.empty(longest, np.uint64)
    bands = np.empty((n, BANDS), np.uint32)
    sets = np.empty(n, np.uint64)
    sizes = np.empty(n, np.int64)
    flat = np.empty(len(data) + n, np.uint32)
    used = 0
    lowest = np.empty(len(seeds), np.uint32)
    for i in range(n):
        count = _words(data, offsets[i], offsets[i + 1], words)
        # A text shorter than a shingle is one shingle: equal to another such text or wholly different.
        width = min(SHINGLE_WORDS, count)
        total = max(1, count - width + 1)
        for j in range(total):
            h = np.uint64(width)
            for k in range(width):
                h = _mix64(h * _PRIME + words[j + k])
            flat[used + j] = np.uint32(h >> np.uint64(32))
        ordered = np.sort(flat[used : used + total])
        distinct = 0
        for j in range(total):
            if j == 0 or ordered[j] != ordered[j - 1]:
                flat[used + distinct] = ordered[j]
                distinct += 1
        whole = np.uint64(distinct)
        lowest[:] = np.uint32(0xFFFFFFFF)
        for j in range(distinct):
            x = flat[used + j]
            whole = _mix64(whole * _PRIME + np.uint64(x))
            for p in range(len(seeds)):
                # The finaliser of MurmurHash3, seeded: one random order of the shingles for each p.
                # Each step is cast back, for numba would widen it to 64 bits and lose half of the vector's lanes.
                y = np.uint32(x ^ seeds[p])
                y = np.uint32(np.uint32(y ^ np.uint32(y >> np.uint32(16))) * np.uint32(0x85EBCA6B))
                y = np.uint32(np.uint32(y ^ np.uint32(y >> np.uint32(13))) * np.uint32(0xC2B2AE35))
                y = np.uint32(y ^ np.uint32(y >> np.uint32(16)))
                lowest[p] = y if y < lowest[p] else lowest[p]
        for b in range(BANDS):
            h = np.uint64(b)
            for r in range(ROWS):
                h = _mix64(h * _PRIME + np.uint64(lowest[b * ROWS + r]))
            bands[i, b] = np.uint32(h >> np.uint64(32))
        sets[i] = whole
        sizes[i] = distinct
        used += distinct
    return bands, sets, sizes, flat[:used].copy()
