"""The first picks, made while nearly every pair still matters, without an n x n matrix and exactly.

After a few picks a pair (candidate, row) can only ever matter if its similarity exceeds what the row is covered by
already, and few do. So: a sample suggests the first picks; one pass over all pairs computes everyone's gain along
them, which proves the suggestion or bounds everyone from where it goes wrong, and collects the pairs that still
matter. Lazy greedy on those is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftune.selection.engine import tiles
from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.greedy import Greedy
from thriftune.selection.engine.pairs import Pairs, all_pairs
from thriftune.selection.engine.width import Similarity
from thriftune.types import BoolArray, FloatArray, IntArray

_TILE = 1024
_STATES = 8  # prefixes of the suggestion at which one pass computes everyone's gain
_NOISE = 1e-5  # gains that a pass sums in single precision are good to this; closer ones are computed afresh


def early_picks(
    sim: Similarity,
    u: FloatArray,
    state: Greedy,
    budget: int,
    edges: int,
    run: Run[Any],
    advance: Callable[[float], None],
) -> Pairs | None:
    """Pick until at most about ``edges`` pairs still matter, and collect those.

    Returns:
        The pairs; None when ``budget`` was reached before.
    """
    n = len(sim)
    rows = _Rows(sim, _capacity(n), run)
    sample = _Sample(sim, u, run)
    guess = _Guess([], [], [], False)
    gains: dict[int, FloatArray] = {}
    pairs: Pairs | None = None
    agrees, step = True, 0

    def suggest(correction: FloatArray | None) -> FloatArray:
        """Suggest picks from here on and go over all pairs; everyone's gain at the present state."""
        nonlocal guess, gains, pairs, agrees, step
        pairs = None
        guess = _guess(u, state, rows, sample, budget, edges, correction=correction)
        gains, pairs = all_pairs(sim, u, guess.covers, _states(len(guess.picks)), guess.enough, run)
        rows.forget()
        agrees, step = True, 0
        state.notes["passes"] = state.notes.get("passes", 0) + 1
        return gains[0]

    bounds = _Bounds(sim, u, state, sample, suggest, run)
    while True:
        if agrees and step in gains:
            bounds.renew(gains.pop(step))
            state.bound_by(bounds.upper[~state.taken], budget)
        if len(state.rows) >= budget:
            return None
        if pairs is not None and agrees and step == len(guess.picks):
            return pairs
        if not agrees or step >= len(guess.picks):
            missing = state.cover < guess.covers[-1] if pairs is not None else np.ones(n, bool)
            late = step >= len(guess.picks) + _STATES or pairs is None
            if (late or missing.sum() <= n // 50) and sample.gains(state.cover)[1] * n * n <= edges:
                break
        pick, gain, similarity = bounds.best(rows)
        # The search for the best may have led to a new suggestion.
        agrees = agrees and step < len(guess.picks) and pick == guess.picks[step]
        if agrees:
            state.notes["guessed"] = step + 1
        state.add(pick, gain, similarity)
        advance(1)
        step += 1
    state.notes.update(early_picks=len(state.rows), early_rows=rows.size, missing=int(missing.sum()))
    if pairs is None or missing.sum() > n // 3:
        pairs = all_pairs(sim, u, [state.cover], np.empty(0, np.int64), True, run)[1]
    else:
        pairs.complete(sim, np.flatnonzero(missing), state.cover, run)
    return pairs


def all_rows(
    sim: Similarity, u: FloatArray, state: Greedy, budget: int, run: Run[Any], advance: Callable[[float], None]
) -> None:
    """Lazy greedy with every similarity in memory, for small pools."""
    rows = _Rows(sim, len(sim), run)
    rows.fetch(np.arange(len(sim)))
    checkpoints = {budget * e // 8 for e in range(9)}
    while len(state.rows) < budget:
        if len(state.rows) in checkpoints:
            rows.renew(u, state)
            state.bound_by(rows.upper[~state.taken], budget)
        position, gain = rows.best(u, state.cover, state.taken, len(state.rows))
        if gain <= 0:
            break
        state.add(int(rows.ids[position]), gain, rows.s[position])
        advance(1)
    rows.renew(u, state)
    state.bound_by(rows.upper[~state.taken], budget)


def likely_picks(
    sim: Similarity,
    u: FloatArray,
    state: Greedy,
    budget: int,
    edges: int,
    run: Run[Any],
    advance: Callable[[float], None],
) -> None:
    """Picks that a sample suggests, with their exact gains but no proof, until about ``edges`` pairs still matter."""
    rows = _Rows(sim, _capacity(len(sim)), run)
    guess = _guess(u, state, rows, _Sample(sim, u, run), budget, edges, limit=256)
    for pick, gain, cover in zip(guess.picks, guess.gains, guess.covers[1:], strict=True):
        state.add(pick, gain, cover)
        advance(1)
    state.notes["early_picks"] = len(guess.picks)


def _capacity(n: int) -> int:
    return max(64, min(n, 2048, (1 << 29) // (4 * n)))


class _Bounds:
    """Upper bounds on everyone's gain: exact at some earlier state, and gains only shrink."""

    def __init__(
        self,
        sim: Similarity,
        u: FloatArray,
        state: Greedy,
        sample: _Sample,
        suggest: Callable[[FloatArray | None], FloatArray],
        run: Run[Any],
    ) -> None:
        self.sim, self.u, self.state, self.sample, self.suggest, self.run = sim, u, state, sample, suggest, run
        self.renew(suggest(None))

    def renew(self, upper: FloatArray) -> None:
        """Take everyone's gain at the present state."""
        self.upper = upper
        self.base = self.state.cover.copy()
        self.exact = upper.copy()
        self.spent = 0

    def best(self, rows: _Rows) -> tuple[int, float, FloatArray]:
        """The row that gains most at the present state, the lowest on ties; its gain; its similarities."""
        state, n, step = self.state, len(self.sim), len(self.state.rows)
        position, gain = rows.best(self.u, state.cover, state.taken, step)
        best = (gain, -int(rows.ids[position]), rows.s[position]) if position >= 0 else (-np.inf, 0, state.cover)
        open_ = ~rows.known & ~state.taken
        while True:
            doubtful = np.flatnonzero((self.upper >= best[0] * (1 - _NOISE)) & open_)
            if len(doubtful) == 0:
                return -best[1], best[0], best[2]
            price = min(int((state.cover > self.base).sum()), n // 2)
            if self.spent + len(doubtful) > max(price, 64) and price > 0:
                self._refresh()
                return self.best(rows)
            batch = doubtful[np.argsort(-self.upper[doubtful], kind="stable")[:128]]
            s, found = self._measure(batch)
            self.upper[batch] = found
            open_[batch] = False
            self.spent += len(batch)
            state.notes["rows_checked"] = state.notes.get("rows_checked", 0) + len(batch)
            top = int(found.argmax())
            best = max(best, (float(found[top]), -int(batch[top]), s[top].copy()), key=lambda b: b[:2])
            promising = found >= best[0] * 0.9
            rows.add(batch[promising], s[promising], found[promising], step)

    def _measure(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        s, gains = np.empty((len(rows), len(self.sim)), np.float32), np.empty(len(rows))
        _fill(self.sim, rows, s, self.run)
        parts = np.array_split(np.arange(len(rows)), min(8, len(rows)))
        self.run(lambda part: tiles.row_gains(s, part, self.u, self.state.cover, gains), parts)
        return s, gains

    def _refresh(self) -> None:
        """Everyone's gain at the present state, from the rows whose cover has changed or from all pairs."""
        state, n = self.state, len(self.sim)
        changed = np.flatnonzero(state.cover > self.base)
        state.notes["refreshes"] = state.notes.get("refreshes", 0) + 1
        if len(changed) >= n // 2:
            self.renew(self.suggest(self.exact - self.sample.gains(self.base)[0]))
            return
        before, after, w = self.base[changed], state.cover[changed], self.u[changed]
        exact = self.exact

        def part(first: int) -> None:
            right = slice(first, min(first + _TILE, n))
            for begin in range(0, len(changed), _TILE):
                end = begin + _TILE
                s = self.sim.block(changed[begin:end], right)
                lost, kept = np.zeros(s.shape[1], np.float32), np.zeros(s.shape[1], np.float32)
                count = np.zeros(s.shape[1], np.int32)
                tiles.column_gains(s, w[begin:end], before[begin:end], lost, count)
                tiles.column_gains(s, w[begin:end], after[begin:end], kept, count)
                exact[right] -= lost.astype(np.float64) - kept

        self.run(part, range(0, n, _TILE))
        self.renew(exact)


def _fill(sim: Similarity, rows: IntArray, out: FloatArray, run: Run[Any]) -> None:
    """out[r] = similarities of rows[r] with every row."""
    n = len(sim)

    def part(first: int) -> None:
        right = slice(first, min(first + 4 * _TILE, n))
        out[:, right] = sim.block(rows, right)

    run(part, range(0, n, 4 * _TILE))
    out[np.arange(len(rows)), rows] = sim.own(rows)


class _Rows:
    """Full similarity rows of promising candidates, and bounds on their gains."""

    def __init__(self, sim: Similarity, capacity: int, run: Run[Any]) -> None:
        self.sim, self.run = sim, run
        self.ids = np.empty(capacity, np.int64)
        self.s = np.empty((capacity, len(sim)), np.float32)
        self.upper = np.empty(capacity)
        self.at = np.empty(capacity, np.int64)
        self.size = 0
        self.known = np.zeros(len(sim), bool)

    def fetch(self, rows: IntArray) -> None:
        """Compute and keep the similarities of ``rows``, as far as there is room."""
        rows = rows[: len(self.ids) - self.size]
        if len(rows):
            _fill(self.sim, rows, self.s[self.size : self.size + len(rows)], self.run)
            self._enter(rows, np.full(len(rows), np.inf), -1)

    def add(self, rows: IntArray, s: FloatArray, gains: FloatArray, step: int) -> None:
        """Keep rows whose similarities (len(rows), n) and gains after ``step`` picks are known."""
        room = len(self.ids) - self.size
        rows, gains = rows[:room], gains[:room]
        self.s[self.size : self.size + len(rows)] = s[:room]
        self._enter(rows, gains, step)

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

    def forget(self) -> None:
        """Forget gains, which were those along a guess."""
        self.at[: self.size], self.upper[: self.size] = -1, np.inf

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


class _Sample:
    """Estimates of every candidate's gain from a sample of the rows to be covered, weighted by strata."""

    def __init__(self, sim: Similarity, u: FloatArray, run: Run[Any], size: int = 2048, strata: int = 1024) -> None:
        n = len(sim)
        self.run, self.n = run, n
        size = max(64, min(n // 4, size, (1 << 29) // n))  # 2 GiB at most
        self.rows = np.random.default_rng(0).choice(n, min(n, size), replace=False)
        # Any sample's first rows are a sample too: they are the centres of the strata.
        centres = max(1, min(strata, len(self.rows) // 2))
        self.blocks: dict[int, FloatArray] = {}
        stratum = np.empty(n, np.int64)

        def fill(first: int) -> None:
            right = slice(first, min(first + 4 * _TILE, n))
            block = sim.block(self.rows, right)
            self.blocks[first] = block
            stratum[right] = block[:centres].argmax(axis=0)

        run(fill, range(0, n, 4 * _TILE))
        stratum[self.rows[:centres]] = np.arange(centres)
        of_sample = stratum[self.rows]
        size_of = np.bincount(stratum, u, centres)
        self.u = (
            size_of[of_sample]
            * u[self.rows]
            / np.maximum(np.bincount(of_sample, u[self.rows], centres)[of_sample], 1e-300)
        ).astype(np.float32)
        self.estimate, self.count = np.empty(n, np.float32), np.empty(n, np.int32)

    def gains(self, cover: FloatArray) -> tuple[FloatArray, float]:
        """(n,) float32 estimated gains, and the estimated share of pairs that still matter."""
        cs = cover[self.rows]
        self.estimate[:], self.count[:] = 0, 0

        def score(first: int) -> None:
            part = slice(first, first + 4 * _TILE)
            tiles.column_gains(self.blocks[first], self.u, cs, self.estimate[part], self.count[part])

        self.run(score, list(self.blocks))
        return self.estimate, float(self.count.sum()) / len(self.rows) / self.n


@dataclass
class _Guess:
    """Picks that a sample suggests; ``covers`` before each of them and after the last."""

    picks: list[int]
    gains: list[float]
    covers: list[FloatArray]
    enough: bool


def _guess(
    u: FloatArray,
    state: Greedy,
    rows: _Rows,
    sample: _Sample,
    budget: int,
    edges: int,
    limit: int = 64,
    correction: FloatArray | None = None,
) -> _Guess:
    n = len(u)
    cover, taken = state.cover.copy(), state.taken.copy()
    guess = _Guess([], [], [cover.copy()], False)
    while True:
        estimate, share = sample.gains(cover)
        guess.enough = share * n * n <= edges
        if guess.enough or len(state.rows) + len(guess.picks) >= budget or len(guess.picks) >= limit:
            return guess
        if correction is not None:
            estimate = estimate + correction
        estimate[taken] = -np.inf
        best_estimate = estimate.max()
        estimate[rows.known] = -np.inf
        width = min(n - 1, 64)
        top = np.argpartition(-estimate, width)[:width] if n > 1 else np.arange(1)
        rows.fetch(np.sort(top[estimate[top] > best_estimate * 0.8]))
        position, gain = rows.best(u, cover, taken, len(guess.picks))
        pick = int(rows.ids[position])
        guess.picks.append(pick)
        guess.gains.append(gain)
        taken[pick] = True
        np.maximum(cover, rows.s[position], out=cover)
        guess.covers.append(cover.copy())


def _states(count: int) -> IntArray:
    """Which of the prefixes 0 .. count - 1 a pass looks at: all if they are few, else the early ones."""
    if count <= _STATES:
        return np.arange(max(count, 1))
    return np.unique(np.geomspace(1, count, _STATES).astype(int) - 1)
