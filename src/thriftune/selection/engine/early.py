"""The first picks, made while nearly every pair still matters, without an n x n matrix and exactly.

After a few picks a pair (candidate, row) can only ever matter if its similarity exceeds what the row is covered by
already, and few do. So: a sample suggests the first picks; one pass over all pairs computes everyone's gain along
them, as far as they are right, and collects the pairs that still matter after them. From there each pick brings up
to date only the candidates whose bound demands it, over only the rows whose cover has changed, until the collected
pairs, completed where the suggestion went too far, hold all that matters. Lazy greedy on those is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from thriftune.selection.engine import tiles
from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.greedy import Greedy
from thriftune.selection.engine.guess import STATES, Guess, Rows, Sample, guess_picks, measure
from thriftune.selection.engine.pairs import Pairs, all_pairs
from thriftune.selection.engine.width import Similarity
from thriftune.types import FloatArray, IntArray

_TILE = 1024
_NOISE = 1e-5  # gains summed in single precision are good to this; closer ones are computed afresh


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
    sample = Sample(sim, u, run)
    bounds = _Bounds(sim, u, state, run)
    guess = Guess([], [], [], False)
    gains: dict[int, FloatArray] = {}
    pairs: Pairs | None = None
    agrees, step = False, 0
    missing = np.ones(n, bool)
    while len(state.rows) < budget:
        if step == 0:
            correction = bounds.correction(sample)
            pairs = None
            guess = guess_picks(sim, u, state, sample, budget, edges, run, correction=correction)
            at = _states(len(guess.picks))
            gains, pairs = all_pairs(sim, u, guess.covers, at, run, guess.threshold if guess.enough else None)
            agrees = True
            state.notes["passes"] = state.notes.get("passes", 0) + 1
        if agrees and step in gains:
            bounds.renew(gains.pop(step))
            state.bound_by(bounds.upper[~state.taken], budget)
        if pairs is not None and agrees and step == len(guess.picks):
            return pairs
        estimate, share = sample.gains(state.cover)
        if step >= len(guess.picks):
            if pairs is not None:
                missing = state.cover < guess.threshold
            settled = missing.sum() <= n // 16 or step >= 2 * len(guess.picks) or pairs is None
            if settled and share * n * n <= edges:
                break
        pick = bounds.best(estimate, again=step > 0)
        if pick is None:
            step = 0
            continue
        row, gain, similarity = pick
        agrees = agrees and step < len(guess.picks) and row == guess.picks[step]
        if agrees:
            state.notes["guessed"] = max(step + 1, state.notes.get("guessed", 0))
        state.add(row, gain, similarity)
        bounds.follow()
        advance(1)
        step += 1
    else:
        return None
    state.notes.update(early_picks=len(state.rows), missing=int(missing.sum()))
    state.bound_by(bounds.upper[~state.taken], budget)
    if pairs is None or missing.sum() > n // 3:
        pairs = None
        return all_pairs(sim, u, [], np.empty(0, np.int64), run, state.cover)[1]
    pairs.complete(sim, np.flatnonzero(missing), state.cover, run)
    return pairs


def all_rows(
    sim: Similarity, u: FloatArray, state: Greedy, budget: int, run: Run[Any], advance: Callable[[float], None]
) -> None:
    """Lazy greedy with every similarity in memory, for small pools."""
    rows = Rows(sim, len(sim), run)
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
    guess = guess_picks(sim, u, state, Sample(sim, u, run), budget, edges, run, limit=256)
    for pick, gain, cover in zip(guess.picks, guess.gains, guess.covers[1:], strict=True):
        state.add(pick, gain, cover)
        advance(1)
    state.notes["early_picks"] = len(guess.picks)


class _Bounds:
    """Upper bounds on everyone's gain: what it was after some earlier pick, less what is known to be lost since."""

    def __init__(self, sim: Similarity, u: FloatArray, state: Greedy, run: Run[Any]) -> None:
        self.sim, self.u, self.state, self.run = sim, u, state, run
        self.base: tuple[FloatArray, FloatArray] | None = None

    def renew(self, gain: FloatArray) -> None:
        """Take everyone's gain at the present state."""
        n = len(self.sim)
        self.base = self.state.cover.copy(), gain.copy()
        self.covers = [self.state.cover.copy()]
        self.gain, self.upper = gain, gain.copy()
        self.at = np.zeros(n, np.int32)  # after how many picks since then a gain was known
        self.lowered = np.zeros(n, np.int32)  # for which owner a bound was lowered
        self.owner = np.zeros(n, np.int32)  # which pick since then last raised a row's cover
        # What sums of differences in single precision may be off by.
        self.noise = 1e-7 * float(gain.max(initial=0))

    def correction(self, sample: Sample) -> FloatArray | None:
        """What to add to a sample's estimates of gains, by how far off they were where all gains are known."""
        return None if self.base is None else self.base[1] - sample.gains(self.base[0])[0]

    def follow(self) -> None:
        """Note what the last pick changed."""
        self.owner[self.state.cover > self.covers[-1]] = len(self.covers)
        self.covers.append(self.state.cover.copy())

    def best(self, estimate: FloatArray, again: bool) -> tuple[int, float, FloatArray] | None:
        """The row that gains most at the present state, the lowest on ties; its gain; its similarities.

        Args:
            estimate: (n,) gains as far as a sample says.
            again: give up when too much must be brought up to date.

        Returns:
            None when all that must be brought up to date for it is more work than going over all pairs.
        """
        now, n = len(self.covers) - 1, len(self.sim)
        open_ = ~self.state.taken
        # Something good first, so that the others can be given up early.
        likely = np.flatnonzero(open_ & (self.at < now))
        self._update(likely[np.argpartition(-estimate[likely], 15)[:16]] if len(likely) > 16 else likely, -np.inf)
        few, spent = 16, 0
        while True:
            fresh = open_ & (self.at == now)
            best = self.gain[fresh].max(initial=-np.inf)
            least = best - _NOISE * abs(best) - self.noise
            stale = np.flatnonzero(open_ & ~fresh & (self.upper >= least))
            if len(stale) == 0:
                break
            # Most have lost nearly everything to the pick that covers them best, over the rows that it covers best.
            hopeful = stale[(self.lowered[stale] != self.owner[stale]) & (self.owner[stale] > self.at[stale])]
            if len(hopeful):
                self._lower(hopeful)
                continue
            if len(stale) > few:
                stale = stale[np.argpartition(-self.upper[stale], few)[:few]]
            few *= 2
            spent += self._work(stale)
            if again and spent > n * n:
                return None
            self._update(stale, least)
        contenders = np.flatnonzero(fresh & (self.gain >= least))
        best_row, best_gain, similarity = -1, -np.inf, self.state.cover
        for begin in range(0, len(contenders), 64):
            some = contenders[begin : begin + 64]
            s, gains = measure(self.sim, some, self.u, self.state.cover, self.run)
            self.gain[some] = self.upper[some] = gains
            if gains.max() > best_gain:
                top = int(gains.argmax())
                best_row, best_gain, similarity = int(some[top]), float(gains[top]), s[top].copy()
        self._note("rows", len(contenders))
        return best_row, best_gain, similarity

    def _note(self, name: str, amount: int) -> None:
        self.state.notes[name] = self.state.notes.get(name, 0) + amount

    def _work(self, rows: IntArray) -> int:
        """Pairs that bringing ``rows`` up to date goes through."""
        later = np.bincount(self.owner, minlength=len(self.covers))[::-1].cumsum()[::-1]
        return int(np.append(later, 0)[self.at[rows] + 1].sum())

    def _lower(self, rows: IntArray) -> None:
        """Lower the bounds of ``rows`` by what they lost over the rows that the same pick covers best."""
        lost = np.zeros(len(rows))
        order = np.argsort(self.owner[rows], kind="stable")
        owners = self.owner[rows[order]]

        def part(owner: int) -> None:
            mine = order[slice(*np.searchsorted(owners, [owner, owner + 1]))]
            over = np.flatnonzero(self.owner == owner)
            for begin in range(0, len(over), _TILE):
                lost[mine] += self._losses(rows[mine], over[begin : begin + _TILE])

        self.run(part, np.unique(owners).tolist())
        np.minimum(self.upper[rows], self.gain[rows] - lost, out=lost)
        self.upper[rows] = lost
        self.lowered[rows] = self.owner[rows]

    def _update(self, rows: IntArray, least: float) -> None:
        """Bring the gains of ``rows`` up to date where cover has changed, or prove them below ``least``."""
        if len(rows) == 0:
            return
        gain, lost = self.gain[rows], np.zeros(len(rows))
        over = np.random.default_rng(0).permutation(np.flatnonzero(self.owner > self.at[rows].min()))
        live = np.arange(len(rows))
        done, size = 0, max(4 * _TILE, len(over) // 16)
        while done < len(over) and len(live):
            some, mine = over[done : done + size], rows[live]
            found = np.empty((-(-len(some) // _TILE), len(live)))

            def part(begin: int, some: IntArray = some, mine: IntArray = mine, found: FloatArray = found) -> None:
                found[begin // _TILE] = self._losses(mine, some[begin : begin + _TILE])

            self.run(part, range(0, len(some), _TILE))
            self._note("pairs_updated", len(live) * len(some))
            lost[live] += found.sum(axis=0)
            done, size = done + size, 2 * size
            bound = gain[live] - lost[live]
            self.upper[rows[live]] = np.minimum(self.upper[rows[live]], bound)
            if done < len(over):
                live = live[bound >= least]
        self.gain[rows[live]] = self.upper[rows[live]] = gain[live] - lost[live]
        self.at[rows[live]] = len(self.covers) - 1

    def _losses(self, rows: IntArray, over: IntArray) -> FloatArray:
        """(len(rows),) float64: what candidates lost over the rows ``over`` since their gains were known."""
        lost = np.zeros(len(rows))
        at = self.at[rows]
        first = int(at.min())
        before = np.stack([cover[over] for cover in self.covers[first : int(at.max()) + 1]])
        after, u = self.state.cover[over], self.u[over]
        for begin in range(0, len(rows), _TILE):
            part = slice(begin, begin + _TILE)
            s = self.sim.block(rows[part], over)
            _, i, j = np.intersect1d(rows[part], over, assume_unique=True, return_indices=True)
            s[i, j] = self.sim.own(over[j])
            tiles.row_losses(s, u, before, at[part] - first, after, lost[part])
        return lost


def _states(count: int) -> IntArray:
    """Which of the prefixes 0 .. count - 1 a pass looks at: all if they are few, else the early ones."""
    if count <= STATES:
        return np.arange(max(count, 1))
    return np.unique(np.geomspace(1, count, STATES).astype(int) - 1)
