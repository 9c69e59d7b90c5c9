"""What a sample of the rows says about which picks come first; full similarity rows of promising candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftune.selection.engine import tiles
from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.greedy import Greedy
from thriftune.selection.engine.width import Similarity
from thriftune.types import BoolArray, FloatArray, IntArray

_COLUMNS = 4096
_ROOM = 1 << 28  # bytes of similarity rows to keep
STATES = 8  # prefixes of a guess at which one pass over all pairs computes everyone's gain


def similarity_rows(sim: Similarity, rows: IntArray, out: FloatArray, run: Run[Any]) -> None:
    """out[r] = similarities of rows[r] with every row."""
    n = len(sim)

    def part(first: int) -> None:
        right = slice(first, min(first + _COLUMNS, n))
        out[:, right] = sim.block(rows, right)

    run(part, range(0, n, _COLUMNS))
    out[np.arange(len(rows)), rows] = sim.own(rows)


def measure(
    sim: Similarity, rows: IntArray, u: FloatArray, cover: FloatArray, run: Run[Any]
) -> tuple[FloatArray, FloatArray]:
    """(r, n) similarities of ``rows`` with every row, and (r,) their gains."""
    s, gains = np.empty((len(rows), len(sim)), np.float32), np.empty(len(rows))
    similarity_rows(sim, rows, s, run)
    parts = np.array_split(np.arange(len(rows)), min(8, len(rows)))
    run(lambda part: tiles.row_gains(s, part, u, cover, gains), parts)
    return s, gains


class Rows:
    """Full similarity rows of promising candidates, and bounds on their gains."""

    def __init__(self, sim: Similarity, capacity: int, run: Run[Any]) -> None:
        self.sim, self.run = sim, run
        self.ids = np.empty(capacity, np.int64)
        self.s = np.empty((capacity, len(sim)), np.float32)
        self.upper = np.empty(capacity)
        self.at = np.empty(capacity, np.int64)
        self.known = np.zeros(len(sim), bool)
        self.size = 0

    def fetch(self, rows: IntArray) -> None:
        """Compute and keep the similarities of ``rows``."""
        similarity_rows(self.sim, rows, self.s[self.size : self.size + len(rows)], self.run)
        self._enter(rows, np.full(len(rows), np.inf), -1)

    def look_at(self, rows: IntArray, u: FloatArray, cover: FloatArray, step: int) -> None:
        """Measure ``rows`` and keep the better ones; where there is no room, earlier ones make some."""
        s, gains = measure(self.sim, rows, u, cover, self.run)
        kept = np.flatnonzero(gains >= 0.95 * gains.max())
        if self.size + len(kept) > len(self.ids):
            self.size = 0
            self.known[:] = False
            kept = kept[: len(self.ids)]
        self.s[self.size : self.size + len(kept)] = s[kept]
        self._enter(rows[kept], gains[kept], step)

    def _enter(self, rows: IntArray, upper: FloatArray, step: int) -> None:
        part = slice(self.size, self.size + len(rows))
        self.ids[part], self.upper[part], self.at[part] = rows, upper, step
        self.known[rows] = True
        self.size += len(rows)

    def renew(self, u: FloatArray, state: Greedy) -> None:
        """Compute the gains of all of them at the present state."""
        left = np.flatnonzero(~state.taken[self.ids[: self.size]])
        parts = np.array_split(left, max(1, min(16, len(left) // 64)))
        self.run(lambda part: tiles.row_gains(self.s, part, u, state.cover, self.upper), parts)
        self.at[left] = len(state.rows)

    def best(self, u: FloatArray, cover: FloatArray, taken: BoolArray, step: int) -> tuple[int, float]:
        """The position and gain of the best of them, the lowest row on ties; (-1, -inf) if none is left."""
        upper, at = self.upper[: self.size], self.at[: self.size]
        upper[taken[self.ids[: self.size]]] = -np.inf
        while True:
            top = int(upper.argmax()) if self.size else -1
            if top < 0 or upper[top] == -np.inf:
                return -1, -np.inf
            if at[top] == step:
                ties = np.flatnonzero(upper == upper[top])
                return int(ties[self.ids[ties].argmin()]), float(upper[top])
            stale = np.flatnonzero((at != step) & (upper >= max(upper[at == step].max(initial=-np.inf), 0)))
            stale = stale[np.argsort(-upper[stale], kind="stable")[:32]]
            parts = np.array_split(stale, min(4, len(stale)))
            self.run(lambda part: tiles.row_gains(self.s, part, u, cover, self.upper), parts)
            at[stale] = step


class Sample:
    """Estimates of every candidate's gain from a sample of the rows to be covered, weighted by strata."""

    def __init__(self, sim: Similarity, u: FloatArray, run: Run[Any]) -> None:
        n = len(sim)
        self.run, self.n = run, n
        size = max(64, min(n // 8, 2048, (1 << 30) // (4 * n)))
        self.rows = np.random.default_rng(0).choice(n, min(n, size), replace=False)
        # Any sample's first rows are a sample too: they are the centres of the strata.
        centres = max(1, len(self.rows) // 2)
        self.blocks: dict[int, FloatArray] = {}
        stratum = np.empty(n, np.int64)

        def fill(first: int) -> None:
            right = slice(first, min(first + _COLUMNS, n))
            block = sim.block(self.rows, right)
            self.blocks[first] = block
            stratum[right] = block[:centres].argmax(axis=0)

        run(fill, range(0, n, _COLUMNS))
        stratum[self.rows[:centres]] = np.arange(centres)
        of_sample = stratum[self.rows]
        size_of = np.bincount(stratum, u, centres)
        self.u = (
            size_of[of_sample]
            * u[self.rows]
            / np.maximum(np.bincount(of_sample, u[self.rows], centres)[of_sample], 1e-300)
        ).astype(np.float32)
        self.cover = np.full(len(self.rows), np.inf, np.float32)
        self.estimate, self.count = np.empty(n, np.float32), np.empty(n, np.int32)

    def gains(self, cover: FloatArray) -> tuple[FloatArray, float]:
        """(n,) float32 estimated gains, and the estimated share of pairs that still matter."""
        after = cover[self.rows]
        if np.any(after < self.cover):
            self.estimate[:], self.count[:], self.cover[:] = 0, 0, 2
            changed, before = np.arange(len(after)), np.full(len(after), 2, np.float32)
        else:
            changed = np.flatnonzero(after > self.cover)
            before = self.cover

        def score(first: int) -> None:
            part = slice(first, first + _COLUMNS)
            tiles.column_changes(
                self.blocks[first], changed, self.u, before, after, self.estimate[part], self.count[part]
            )

        self.run(score, list(self.blocks))
        self.cover = after
        return self.estimate, float(self.count.sum()) / len(self.rows) / self.n


@dataclass
class Guess:
    """Picks that a sample suggests; ``covers`` before each of them and after the last."""

    picks: list[int]
    gains: list[float]
    covers: list[FloatArray]
    enough: bool

    @property
    def threshold(self) -> FloatArray:
        """A little less than the last cover, so that the same picks in another order do not fall short of it."""
        return np.maximum(self.covers[-1] * np.float32(1 - 1e-4) - np.float32(1e-6), np.float32(0))


def guess_picks(
    sim: Similarity,
    u: FloatArray,
    state: Greedy,
    sample: Sample,
    budget: int,
    edges: int,
    run: Run[Any],
    limit: int = 64,
    correction: FloatArray | None = None,
) -> Guess:
    """Likely next picks, until about ``edges`` pairs still matter, ``budget`` or ``limit`` of them.

    Args:
        correction: (n,) what to add to the sample's estimates of gains.
    """
    n = len(u)
    rows = Rows(sim, max(64, min(n, _ROOM // (4 * n))), run)
    cover, taken = state.cover.copy(), state.taken.copy()
    guess = Guess([], [], [cover.copy()], False)
    while True:
        step = len(guess.picks)
        estimate, share = sample.gains(cover)
        guess.enough = share * n * n <= edges
        if guess.enough or len(state.rows) + step >= budget or step >= limit:
            return guess
        estimate = estimate.copy() if correction is None else estimate + correction
        estimate[taken] = -np.inf
        best_estimate = estimate.max()
        estimate[rows.known] = -np.inf
        # The first picks matter most: where they are right, one pass over all pairs is enough.
        width = min(n - 1, 64 if step >= STATES else int(np.clip(n // 256, 64, 256)))
        top = np.argpartition(-estimate, width)[:width] if n > 1 else np.arange(1)
        top = top[(estimate[top] > best_estimate * 0.8) & (estimate[top] > -np.inf)]
        if len(top):
            rows.look_at(np.sort(top), u, cover, step)
        position, gain = rows.best(u, cover, taken, step)
        if position < 0:  # nothing known is free, and the sample sees no gain in looking at more
            return guess
        pick = int(rows.ids[position])
        guess.picks.append(pick)
        guess.gains.append(gain)
        taken[pick] = True
        np.maximum(cover, rows.s[position], out=cover)
        guess.covers.append(cover.copy())
