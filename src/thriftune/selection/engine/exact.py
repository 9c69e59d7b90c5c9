"""Exact lazy greedy for facility location without an n x n matrix.

After a few picks a pair (candidate, row) can only ever matter if its similarity exceeds what the row is covered by
already, and few do. So: guess the first picks from a sample, then go over all pairs once, tile by tile, which proves
the guess (or finds where it goes wrong) and keeps the pairs that still matter; lazy greedy on those is exact.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thriftune.selection.engine import kernels
from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.width import Similarity
from thriftune.types import BoolArray, FloatArray, IntArray

_TILE = 1024
_STATES = 16  # prefixes of the guess at which one pass computes everyone's gain
_NOISE = 1e-5  # gains that a pass sums in single precision are good to this, and closer ones are computed afresh


@dataclass
class Greedy:
    """Picks so far and the state they lead to.

    Args:
        cover: (n,) float32, the best similarity of each row to what is chosen.
        taken: (n,) bool, rows that are chosen.
        rows, gains: picks and what each added.
        value: sum of gains.
        bound: no ``budget`` rows can add more than this to the start.
    """

    cover: FloatArray
    taken: BoolArray
    rows: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    value: float = 0.0
    bound: float = np.inf
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, row: int, gain: float, similarity: FloatArray) -> None:
        """Take ``row``, whose (n,) similarities with all rows are given."""
        self.rows.append(row)
        self.gains.append(gain)
        self.value += gain
        self.taken[row] = True
        np.maximum(self.cover, similarity, out=self.cover)

    def bound_by(self, gains: FloatArray, budget: int) -> None:
        """Tighten the bound: at any state the best set adds at most its value and the ``budget`` largest gains."""
        k = min(budget, len(gains))
        self.bound = min(self.bound, self.value + float(np.partition(gains, len(gains) - k)[len(gains) - k :].sum()))


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
        self.run(lambda part: kernels.row_gains(self.s, part, u, state.cover, self.upper), parts)
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
            self.run(lambda part: kernels.row_gains(self.s, part, u, cover, self.upper), parts)
            at[stale] = step


def early_picks(
    sim: Similarity,
    u: FloatArray,
    state: Greedy,
    budget: int,
    edges: int,
    run: Run[Any],
    advance: Callable[[float], None],
) -> _Edges | None:
    """Pick until at most about ``edges`` pairs still matter, and collect those.

    Returns:
        The pairs; None when ``budget`` was reached before.
    """
    n = len(sim)
    rows = _Rows(sim, _capacity(n), run)
    sample = _Sample(sim, u, run)
    guess = _guess(u, state, rows, sample, budget, edges)
    gains, pairs = _pass(sim, u, guess.covers, _states(len(guess.picks)), guess.enough, run)
    bounds = _Bounds(sim, u, state, gains[0] if 0 in gains else np.full(n, np.inf), run)
    rows.forget()
    agrees, step = True, 0
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
        agrees = agrees and step < len(guess.picks) and pick == guess.picks[step]
        if agrees:
            state.notes["guessed"] = step + 1
        state.add(pick, gain, similarity)
        advance(1)
        step += 1
    state.notes.update(early_picks=len(state.rows), early_rows=rows.size, missing=int(missing.sum()))
    if pairs is None or missing.sum() > n // 3:
        pairs = _pass(sim, u, [state.cover], np.empty(0, np.int64), True, run)[1]
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

    def __init__(self, sim: Similarity, u: FloatArray, state: Greedy, upper: FloatArray, run: Run[Any]) -> None:
        self.sim, self.u, self.state, self.run = sim, u, state, run
        self.renew(upper)

    def renew(self, upper: FloatArray) -> None:
        """Take everyone's gain at the present state."""
        self.upper = upper
        self.base = self.state.cover.copy()
        self.exact = upper.copy()
        self.spent = 0

    def best(self, rows: _Rows) -> tuple[int, float, FloatArray]:
        """The row that gains most at the present state, the lowest on ties; its gain; its similarities."""
        state, n = self.state, len(self.sim)
        step = len(state.rows)
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
                continue
            batch = doubtful[np.argsort(-self.upper[doubtful], kind="stable")[:128]]
            s, found = np.empty((len(batch), n), np.float32), np.empty(len(batch))
            _fill(self.sim, batch, s, self.run)
            parts = np.array_split(np.arange(len(batch)), min(8, len(batch)))
            self.run(lambda part: kernels.row_gains(s, part, self.u, state.cover, found), parts)
            self.upper[batch] = found
            open_[batch] = False
            self.spent += len(batch)
            state.notes["rows_checked"] = state.notes.get("rows_checked", 0) + len(batch)
            top = int(found.argmax())
            best = max(best, (float(found[top]), -int(batch[top]), s[top].copy()), key=lambda b: b[:2])
            promising = found >= best[0] * 0.9
            rows.add(batch[promising], s[promising], found[promising], step)

    def _refresh(self) -> None:
        """Everyone's gain at the present state, from the rows whose cover has changed or from all pairs."""
        state, n = self.state, len(self.sim)
        changed = np.flatnonzero(state.cover > self.base)
        state.notes["refreshes"] = state.notes.get("refreshes", 0) + 1
        if len(changed) >= n // 2:
            self.renew(_pass(self.sim, self.u, [state.cover], np.zeros(1, np.int64), False, self.run)[0][0])
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
                kernels.column_gains(s, w[begin:end], before[begin:end], lost, count)
                kernels.column_gains(s, w[begin:end], after[begin:end], kept, count)
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


class _Sample:
    """Estimates of every candidate's gain from a sample of the rows to be covered, weighted by strata."""

    def __init__(self, sim: Similarity, u: FloatArray, run: Run[Any], size: int = 1024, strata: int = 256) -> None:
        n = len(sim)
        self.run, self.n = run, n
        self.rows = np.random.default_rng(0).choice(n, min(n, size), replace=False)
        # Any sample's first rows are a sample too: they are the centres of the strata.
        centres = min(strata, len(self.rows))
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
            kernels.column_gains(self.blocks[first], self.u, cs, self.estimate[part], self.count[part])

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
    u: FloatArray, state: Greedy, rows: _Rows, sample: _Sample, budget: int, edges: int, limit: int = 64
) -> _Guess:
    n = len(u)
    cover, taken = state.cover.copy(), state.taken.copy()
    guess = _Guess([], [], [cover.copy()], False)
    while True:
        estimate, share = sample.gains(cover)
        guess.enough = share * n * n <= edges
        if guess.enough or len(state.rows) + len(guess.picks) >= budget or len(guess.picks) >= limit:
            return guess
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
        return np.arange(count)
    return np.unique(np.geomspace(1, count, _STATES).astype(int) - 1)


def _pass(
    sim: Similarity, u: FloatArray, covers: list[FloatArray], at: IntArray, collect: bool, run: Run[Any]
) -> tuple[dict[int, FloatArray], _Edges | None]:
    """Over all pairs: everyone's gain under the covers ``at``, and the pairs that matter under the last cover."""
    n = len(sim)
    last = covers[-1]
    # Sums in fixed point do not depend on the order in which threads add to them.
    unit = 2.0 ** (61 - int(np.ceil(np.log2(max(float(u.sum()), 1e-300)))))
    totals = np.zeros((len(at), n), np.int64)
    lock = threading.Lock()
    local = threading.local()
    pairs = _Edges(n) if collect else None

    def tile(corner: tuple[int, int]) -> None:
        i, j = (slice(c, min(c + _TILE, n)) for c in corner)
        if not hasattr(local, "buffer"):
            local.buffer = np.empty(_TILE * _TILE, np.float32)
        s = sim.block(i, j, local.buffer)
        both = corner[0] != corner[1]
        if not both:
            np.fill_diagonal(s, sim.own(np.arange(i.start, i.stop)))
        if len(at):
            gain_i, gain_j = np.zeros((len(at), s.shape[0])), np.zeros((len(at), s.shape[1]))
            cover_i, cover_j = (np.stack([covers[t][part] for t in at]) for part in (i, j))
            kernels.tile_gains(s, both, u[i], u[j], cover_i, cover_j, gain_i, gain_j)
            fixed_i, fixed_j = np.rint(gain_i * unit).astype(np.int64), np.rint(gain_j * unit).astype(np.int64)
            with lock:
                totals[:, i] += fixed_i
                if both:
                    totals[:, j] += fixed_j
        if pairs is not None:
            pairs.add(corner, s, both, last[i], last[j])

    run(tile, [(i, j) for i in range(0, n, _TILE) for j in range(i, n, _TILE)])
    return {int(t): totals[r] / unit for r, t in enumerate(at)}, pairs


class _Edges:
    """The pairs (candidate, row) that still matter, collected by tile and then laid out by candidate."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.tiles: dict[tuple[int, int], tuple[IntArray, IntArray, FloatArray]] = {}
        self.dropped = np.zeros(n, bool)
        self.extra: dict[int, tuple[IntArray, IntArray, FloatArray]] = {}

    def add(self, corner: tuple[int, int], s: FloatArray, both: bool, cover_i: FloatArray, cover_j: FloatArray) -> None:
        count_i, count_j = np.zeros(s.shape[0], np.int32), np.zeros(s.shape[1], np.int32)
        kernels.tile_counts(s, both, cover_i, cover_j, count_i, count_j)
        start_i, start_j = np.cumsum(count_i) - count_i, np.cumsum(count_j) - count_j
        index_i, value_i = np.empty(count_i.sum(), np.uint16), np.empty(count_i.sum(), np.float32)
        index_j, value_j = np.empty(count_j.sum(), np.uint16), np.empty(count_j.sum(), np.float32)
        kernels.tile_edges(s, both, cover_i, cover_j, start_i, start_j, index_i, value_i, index_j, value_j)
        self.tiles[corner] = (count_i, index_i, value_i)
        if both:
            self.tiles[corner[1], corner[0]] = (count_j, index_j, value_j)

    def complete(self, sim: Similarity, missing: IntArray, cover: FloatArray, run: Run[Any]) -> None:
        """Collect the pairs of the rows ``missing`` again, which need a lower threshold than they had."""
        # Adding only what is new would count pairs at the old threshold twice or never: products differ in the last
        # digit with the shape of the block they are computed in.
        self.dropped[missing] = True

        def part(first: int) -> None:
            i = slice(first, min(first + _TILE, self.n))
            extra = []
            for begin in range(0, len(missing), _TILE):
                columns = missing[begin : begin + _TILE]
                s = sim.block(i, columns)
                r, c = np.nonzero(s > cover[columns])
                extra.append((r, columns[c], s[r, c]))
            r, v, value = (np.concatenate(e) for e in zip(*extra, strict=True)) if extra else (np.empty(0, int),) * 3
            order = np.argsort(r, kind="stable")
            count = np.bincount(r, minlength=i.stop - i.start).astype(np.int32)
            self.extra[first] = (count, v[order].astype(np.int32), value[order].astype(np.float32))

        run(part, range(0, self.n, _TILE))

    def lists(self, run: Run[Any]) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
        """(start (n,) int64, length (n,) int32, index int32, value float32); empties this object as it goes."""
        n = self.n
        corners = range(0, n, _TILE)
        kept = np.zeros(n, bool)
        length = np.zeros(n, np.int32)
        for (i, _), (count, _, _) in self.tiles.items():
            length[i : i + _TILE] += count
        for i, (count, _, _) in self.extra.items():
            length[i : i + _TILE] += count
        start = np.zeros(n, np.int64)
        np.cumsum(length[:-1], out=start[1:])
        total = int(start[-1] + length[-1])
        index, value = np.empty(total, np.int32), np.empty(total, np.float32)

        def lay(i: int) -> None:
            position = start[i : i + _TILE].copy()
            for j in corners:
                count, columns, values = self.tiles.pop((i, j))
                kernels.place_edges(count, columns, values, j, self.dropped, position, index, value)
            if i in self.extra:
                count, columns, values = self.extra.pop(i)
                kernels.place_edges(count, columns, values, 0, kept, position, index, value)

        run(lay, corners)
        return start, length, index, value


Lists = tuple[IntArray, IntArray, IntArray, FloatArray]


def finish(
    lists: Lists, u: FloatArray, state: Greedy, budget: int, run: Run[Any], advance: Callable[[float], None]
) -> None:
    """Lazy greedy on lists of pairs (start, length, index, value) until ``budget`` picks or until nothing gains."""
    n = len(u)
    state.notes["edges"] = len(lists[2])
    weights = u.astype(np.float64)
    gains = np.empty(n)
    out_row, out_gain = np.empty(budget, np.int64), np.empty(budget)
    begun = done = len(state.rows)
    checkpoints = sorted({begun + (budget - begun) * e // 8 for e in range(9)})
    size = -1
    for stop in checkpoints:
        if size != 0:
            done, size = _stretch(lists, weights, state, gains, out_row, out_gain, done, stop, budget, run)
            state.rows += out_row[len(state.rows) : done].tolist()
            state.gains += out_gain[len(state.gains) : done].tolist()
            advance(done - begun)
            begun = done
            if size == 0:
                break


def _stretch(lists, u, state, gains, out_row, out_gain, done, stop, budget, run):  # type: ignore[no-untyped-def]
    n = len(u)
    run(
        lambda first: kernels.list_gains(first, min(first + _TILE, n), *lists, u, state.cover, gains),
        range(0, n, _TILE),
    )
    left = np.flatnonzero(~state.taken)
    state.bound_by(gains[left], budget)
    row = left[np.argsort(-gains[left], kind="stable")].astype(np.int32)
    gain = gains[row]
    fresh = np.full(n, done, np.int32)
    before = done
    done, size = kernels.lazy_greedy(gain, row, len(row), fresh, *lists, u, state.cover, out_row, out_gain, done, stop)
    state.taken[out_row[before:done]] = True
    state.value += float(out_gain[before:done].sum())
    return done, (0 if done < stop else size)
