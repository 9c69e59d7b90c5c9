"""k-center by farthest-first traversal (Gonzalez 1985), exact and without a distance matrix.

Distances to the nearest centre only shrink, so old ones are upper bounds. Only the rows with the largest bounds are
brought up to date, many at a time by matrix products, and picks are made among those while they are farther than the
largest bound outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftune.selection.engine.blocks import Run, workers
from thriftune.selection.engine.centre_loops import farthest_in_batch, nearer, nearer_members
from thriftune.selection.engine.device import Rows
from thriftune.selection.engine.neighbours import by_label, clusters
from thriftune.selection.engine.width import distinct, nearest_to_mean, shifted
from thriftune.types import FloatArray, IntArray

_CHUNK = 1024  # centres at a time
_ROWS = 512  # of a batch per task
_SMALL = 2000  # rows below which clusters are not worth their making
_BATCH = 4096  # largest batch
_LEAST, _SHARE = 64, 100  # smallest batch: so many rows, and one row in so many, for finding a batch looks at all rows
_LIKELY = 256  # products computed at a time, of those farthest now
_GROW, _SHRINK = 0.1, 0.03  # picks for each row of a batch that make the next one larger, smaller


@dataclass(frozen=True)
class FarthestResult:
    """What the traversal chose.

    Args:
        rows: (budget,) int64 in pick order.
        distances: (budget,) float64, Euclidean distance to the nearest earlier centre when picked; infinite for the
            first pick when nothing was chosen before.
        radius: the largest distance of any row to its nearest centre. Half of it bounds from below what any choice
            of as many centres can reach.
        partial: True when interrupted.
    """

    rows: IntArray
    distances: FloatArray
    radius: float
    partial: bool


def k_center(
    x: FloatArray,
    budget: int,
    *,
    chosen: IntArray,
    start: int | None,
    device: str | None = None,
    advance: Callable[[float], None],
) -> FarthestResult:
    """Pick the row farthest from everything picked, ``budget`` times.

    Args:
        x: (n, d) float32, C order.
        budget: how many rows to pick, at most n - m.
        chosen: (m,) rows that count as centres already.
        start: the first pick when ``chosen`` is empty; None: the row nearest the mean.
        device: where torch computes products, e.g. ``cuda``; None: NumPy does.
        advance: called with the number of picks made since the last call.

    Returns:
        Picks; ties go to the lowest row, and rows that coincide with a centre come last.
    """
    n = len(x)
    chosen = np.asarray(chosen, np.int64)
    a = shifted(x)
    first, group = distinct(a)
    # Copies of a row are at distance 0 once it is a centre: they come last, in row order.
    unique = a if len(first) == n else np.ascontiguousarray(a[first])
    begin = np.unique(group[chosen])
    if len(begin) == 0 and budget:
        begin = np.array([group[nearest_to_mean(x) if start is None else start]])
    free = budget if len(chosen) else budget - 1
    picks = max(0, min(free, len(first) - len(begin)))
    traversal = _Traversal(unique, begin, picks, None if device is None else Rows(unique, device))
    rows: list[int] = []
    partial = False
    try:
        with workers() as run:
            if len(chosen) == 0 and budget:
                rows.append(int(first[begin[0]]) if start is None else start)
                advance(1)
            traversal.prepare(run)
            while traversal.done < picks:
                advance(traversal.step(run))
            radius = traversal.radius(run)
    except KeyboardInterrupt:
        partial = True
        with workers() as run:
            radius = traversal.radius(run)
    done = traversal.done
    rows += first[traversal.rows[:done]].tolist()
    distances = np.concatenate([np.full(len(rows) - done, np.inf), np.sqrt(traversal.squared[:done])])
    if not partial and len(rows) < budget:
        left = np.ones(n, bool)
        left[rows] = left[chosen] = False
        rest = np.flatnonzero(left)[: budget - len(rows)]
        rows += rest.tolist()
        distances = np.concatenate([distances, np.zeros(len(rest))])
        advance(len(rest))
    return FarthestResult(np.array(rows, np.int64), distances, radius, partial)


class _Traversal:
    """Farthest-first state over different rows.

    Args:
        a: (n, d) float32.
        begin: (m,) rows that are centres already, m >= 1.
        picks: how many more are wanted.
        on_device: the same rows where products are computed; None: here.
    """

    def __init__(self, a: FloatArray, begin: IntArray, picks: int, on_device: Rows | None) -> None:
        n, d = a.shape
        self.a, self.begin, self.picks, self.on_device = a, begin, picks, on_device
        self.half = (np.einsum("ij,ij->i", a, a, dtype=np.float64) / 2).astype(np.float32)
        # Products in single precision err by a few units in the last place of the squared lengths.
        self.noise = np.float32(4e-6 * float(self.half.max(initial=0)))
        self.centres = np.empty((len(begin) + picks, d), np.float32)
        self.centre_half = np.empty(len(begin) + picks, np.float32)
        self.centres[: len(begin)], self.centre_half[: len(begin)] = a[begin], self.half[begin]
        self.count = len(begin)
        self.bound = np.full(n, np.inf, np.float32)  # squared distance to the nearest of the first ``seen`` centres
        self.seen = np.zeros(n, np.int64)
        self.nearest = np.zeros(n, np.int32)
        self.rows, self.squared, self.done = np.empty(picks, np.int64), np.empty(picks), 0
        self.width = self.least = min(max(_LEAST, n // _SHARE), _BATCH)
        self.closed: float | None = None
        self.labels: IntArray | None = None

    def prepare(self, run: Run[Any]) -> None:
        """Distances of all rows to the centres given."""
        n = len(self.a)
        run(lambda first: self._update(np.arange(first, min(first + 1024, n)), -1.0), range(0, n, 1024))
        self.bound[self.begin] = -1

        count = round(1.2 * math.sqrt(n)) if n >= _SMALL else 1
        if count > 1:
            centres, self.labels = clusters(self.a, count, run)
            self.members, self.member_bounds = by_label(self.labels, len(centres))

    def _tell_cluster(self, run: Run[Any], first: int) -> None:
        """Lower the bounds of rows in the same clusters as the centres ``first ..``: most rows need no more."""
        if self.labels is None or first == self.count:
            return
        of_row = self.labels
        labels = of_row[self.rows[first - len(self.begin) : self.done]]
        order = np.argsort(labels, kind="stable")
        cuts = np.flatnonzero(np.diff(labels[order])) + 1
        groups = np.split(order + first, cuts[:: max(1, len(cuts) // 16)])

        def tell(new: IntArray) -> None:
            nearer_members(
                self.a,
                self.half,
                self.members,
                self.member_bounds,
                of_row[self.rows[new - len(self.begin)]],
                self.centres,
                self.centre_half,
                new,
                self.bound,
                self.nearest,
            )

        run(tell, groups)

    def _update(self, rows: IntArray, outside: float) -> None:
        """Bring rows up to date, except those that turn out nearer than ``outside`` on the way."""
        a, half = self.a[rows], self.half[rows]
        bound, nearest, seen = self.bound[rows], self.nearest[rows], self.seen[rows]
        begin = int(seen.min())
        while begin < self.count and len(rows):
            end = min(begin + _CHUNK, self.count)
            g: FloatArray
            if self.on_device is None:
                g = a @ self.centres[begin:end].T
            else:
                g = self.on_device.products(rows, np.concatenate([self.begin, self.rows[: self.done]])[begin:end])
            nearer(g, half, self.centre_half[begin:end], begin, bound, nearest)
            seen = np.maximum(seen, end)
            near = bound < outside
            if near.sum() > len(near) // 4 or end == self.count:
                self.bound[rows], self.nearest[rows], self.seen[rows] = bound, nearest, seen
                far = ~near
                rows, a, half, bound, nearest, seen = rows[far], a[far], half[far], bound[far], nearest[far], seen[far]
            begin = end

    def _batch(self, run: Run[Any]) -> tuple[IntArray, float]:
        """Up-to-date rows, ascending, at least as far as the largest bound outside them; and that bound."""
        n = len(self.a)
        width = min(self.width, n)
        top = np.argpartition(self.bound, n - width)[n - width :] if width < n else np.arange(n)
        kept = self.bound[top].copy()
        self.bound[top] = -1
        outside = float(self.bound.max()) if width < n else -1.0
        self.bound[top] = kept
        top = top[kept >= 0]
        stale = top[self.seen[top] < self.count]
        stale = stale[np.argsort(self.seen[stale], kind="stable")]
        run(lambda part: self._update(part, outside), [stale[i : i + _ROWS] for i in range(0, len(stale), _ROWS)])
        return np.sort(top[self.bound[top] >= outside]), outside

    def step(self, run: Run[Any]) -> int:
        """One batch; returns how many picks it gave, possibly none."""
        batch, outside = self._batch(run)
        if float(self.bound.max()) <= 4 * self.noise:
            return self._close_up(run)
        if len(batch) == 0:
            self.width = min(self.width * 2, _BATCH)
            return 0
        first, limit = self.count, self.picks - self.done
        if len(batch) >= _BATCH and float(self.bound[batch].max()) <= outside + self.noise:
            # More ties than a batch holds: those in the batch go first.
            outside, limit = -1.0, 1
        made = self._pick_among(batch, outside, limit, run)
        self._tell_cluster(run, first)
        # A larger batch costs more to bring up to date, a smaller one must be made more often.
        if made == 0 or made > _GROW * self.width:
            self.width = min(self.width * 3 // 2, _BATCH, len(self.a))
        elif made < _SHRINK * self.width:
            self.width = max(self.width * 2 // 3, self.least)
        return made

    def _pick_among(self, batch: IntArray, outside: float, limit: int, run: Run[Any]) -> int:
        """Picks within a batch of up-to-date rows while they are farther than ``outside``; returns how many."""
        a, half = self.a[batch], self.half[batch]
        bound, nearest = self.bound[batch], self.nearest[batch]
        g = np.empty((len(batch), len(batch)), np.float32)  # products of the likely picks; memory only where written
        line = np.full(len(batch), -1)
        lines = made = 0
        where, squared = np.empty(min(limit, len(batch)), np.int64), np.empty(min(limit, len(batch)))
        while True:
            some, wanted = farthest_in_batch(
                a,
                half,
                g,
                line,
                bound,
                nearest,
                self.centres,
                self.count,
                outside,
                self.noise,
                limit - made,
                where,
                squared,
            )
            here = slice(self.done, self.done + some)
            self.rows[here], self.squared[here] = batch[where[:some]], squared[:some]
            self.centre_half[self.count : self.count + some] = half[where[:some]]
            self.count += some
            self.done += some
            made += some
            if wanted < 0:
                break
            alive = bound > outside
            alive[wanted] = True
            if alive.sum() < 0.7 * len(batch):
                self._put_back(batch[~alive], bound[~alive], nearest[~alive])
                wanted = int(alive[:wanted].sum())
                kept = np.flatnonzero(alive & (line >= 0))
                g[: len(kept), : alive.sum()] = g[line[kept]][:, alive]
                batch, a, half, bound, nearest = batch[alive], a[alive], half[alive], bound[alive], nearest[alive]
                line = np.full(len(batch), -1)
                line[np.searchsorted(np.flatnonzero(alive), kept)] = np.arange(len(kept))
                lines = len(kept)
                g = g[:, : len(batch)]
            open_ = np.flatnonzero(line < 0)
            likely = open_[np.argsort(-bound[open_], kind="stable")[:_LIKELY]]
            likely = np.append(likely[likely != wanted], wanted)
            line[likely] = lines + np.arange(len(likely))
            new = g[lines : lines + len(likely)]
            if self.on_device is None:
                multiply(a[likely], a, new, run)
            else:
                new[:] = self.on_device.products(batch[likely], batch)
            lines += len(likely)
        self._put_back(batch, bound, nearest)
        return made

    def _put_back(self, rows: IntArray, bound: FloatArray, nearest: IntArray) -> None:
        self.bound[rows], self.nearest[rows], self.seen[rows] = bound, nearest, self.count

    def _close_up(self, run: Run[Any]) -> int:
        """All that is left is nearer than single precision can tell: go on in double precision."""
        n = len(self.a)
        run(lambda part: self._update(part, -1.0), np.array_split(np.arange(n), max(1, n // 1024)))
        left = np.flatnonzero(self.bound >= 0)
        a = self.a[left].astype(np.float64)
        affordable = float(len(left)) * (self.count + self.picks - self.done) * a.shape[1] < 1e11
        if affordable:
            centres = self.centres[: self.count].astype(np.float64)
            half = np.einsum("ij,ij->i", centres, centres) / 2
            for i in range(0, len(left), _CHUNK):
                self.nearest[left[i : i + _CHUNK]] = (a[i : i + _CHUNK] @ centres.T - half).argmax(axis=1)
        exact = np.array([((a[i] - self.centres[c]) ** 2).sum() for i, c in enumerate(self.nearest[left])])
        made = 0
        # Where that is too much work, rows keep the order of their distance to the centres there are now.
        while self.done < self.picks:
            pick = int(exact.argmax())
            self.rows[self.done], self.squared[self.done] = left[pick], exact[pick]
            self.centres[self.count], self.centre_half[self.count] = self.a[left[pick]], self.half[left[pick]]
            if affordable:
                np.minimum(exact, ((a - a[pick]) ** 2).sum(axis=1), out=exact)
            exact[pick] = -1
            self.bound[left[pick]] = -1
            self.done += 1
            self.count += 1
            made += 1
        self.closed = math.sqrt(max(float(exact.max(initial=0)), 0.0))
        return made

    def radius(self, run: Run[Any]) -> float:
        """The largest distance of any row to its nearest centre."""
        if self.closed is not None:
            return self.closed
        self.count = len(self.begin) + self.done  # an interrupted step may have left more
        while True:
            batch, outside = self._batch(run)
            if len(batch) == 0 and outside < 0:
                return 0.0
            if len(batch) and float(self.bound[batch].max()) >= outside:
                near = batch[self.bound[batch] >= self.bound[batch].max() - self.noise]
                difference = self.a[near].astype(np.float64) - self.centres[self.nearest[near]]
                return math.sqrt(float((difference**2).sum(axis=1).max()))
            self.width = min(self.width * 2, len(self.a))


def multiply(a: FloatArray, b: FloatArray, out: FloatArray, run: Run[Any]) -> None:
    """out = a @ b.T, by blocks of columns."""

    def part(begin: int) -> None:
        out[:, begin : begin + _CHUNK] = a @ b[begin : begin + _CHUNK].T

    run(part, range(0, len(b), _CHUNK))
