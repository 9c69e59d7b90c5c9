"""The state of a greedy search, and lazy greedy on lists of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from thriftune.selection.engine.blocks import Run
from thriftune.selection.engine.list_loops import later_gains, lazy_greedy, list_gains
from thriftune.types import BoolArray, FloatArray, IntArray

Array = npt.NDArray[Any]
# Pairs (candidate, row) by candidate: start (n,) int64, length (n,) int32, row int32, similarity float32.
Lists = tuple[IntArray, IntArray, IntArray, FloatArray]
_BLOCK = 1024
_STRETCH = 1000  # picks between signs of life
_CHECKPOINTS = 8  # stretches of the search; between them everyone's gain is computed afresh for the certificate


@dataclass(frozen=True)
class Terms:
    """What picks are worth besides what they cover, what their gains are divided by to compare them, what they cost.

    Args:
        merit: (n,) float64 >= 0.
        price: (n,) float64 > 0, ones to go by gains.
        cost: (n,) float64, zeros where the number of picks is all that is limited.
        money: what the picks may cost together.
    """

    merit: FloatArray
    price: FloatArray
    cost: FloatArray
    money: float = np.inf

    @property
    def limited(self) -> bool:
        """Whether money is."""
        return bool(np.isfinite(self.money))

    def left(self, spent: float) -> float:
        """What one more pick may cost; sums of costs are good to a billionth."""
        return self.money - spent + 1e-9 * self.money if self.limited else np.inf


def plain(n: int) -> Terms:
    """Nothing but what picks cover."""
    return Terms(np.zeros(n), np.ones(n), np.zeros(n))


@dataclass
class Greedy:
    """Picks so far and the state they lead to.

    Args:
        cover: (n,) float32, the best similarity of each row to what is chosen.
        taken: (n,) bool, rows that are chosen.
        rows, gained: picks and what each added; Ctrl-C may leave one more of the latter, see `gains`.
        value: sum of gains.
        spent: what the picks cost.
        bound: no ``budget`` rows, or none that money can buy, can add more than this to the start.
    """

    cover: FloatArray
    taken: BoolArray
    rows: list[int] = field(default_factory=list)
    gained: list[float] = field(default_factory=list)
    value: float = 0.0
    spent: float = 0.0
    bound: float = np.inf
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def gains(self) -> list[float]:
        """What each pick added."""
        return self.gained[: len(self.rows)]

    def add(self, row: int, gain: float, similarity: FloatArray) -> None:
        """Take ``row``, whose (n,) similarities with all rows are given."""
        # Ctrl-C may come between any two lines: what is proven about the picks must hold of those recorded.
        self.gained.append(gain)
        self.taken[row] = True
        self.rows.append(row)
        self.value += gain
        np.maximum(self.cover, similarity, out=self.cover)

    def took(self, rows: IntArray, gains: FloatArray, cost: float = 0.0) -> None:
        """Record picks that ``cover`` reflects already."""
        self.gained += gains.tolist()
        self.taken[rows] = True
        self.rows += rows.tolist()
        self.spent += cost
        self.value += float(gains.sum())

    def bound_by(self, gains: FloatArray, budget: int, gift: float = 0.0) -> None:
        """Tighten the bound: at any state the best set adds at most its value and the ``budget`` largest gains.

        The state may be better than ``cover`` says, by a ``gift``.
        """
        k = min(budget, len(gains))
        most = float(np.partition(gains, len(gains) - k)[len(gains) - k :].sum())
        self.bound = min(self.bound, self.value + gift + most)

    def bound_by_money(self, gains: FloatArray, cost: FloatArray, money: float, gift: float = 0.0) -> None:
        """Tighten the bound: the best set adds at most the value and the best that money buys, fractions included."""
        # What is dearer than all the money is in no set at all.
        bought = np.flatnonzero((cost <= money * (1 + 1e-9)) & (gains > 0))
        bought = bought[np.argsort(-gains[bought] / cost[bought], kind="stable")]
        before = np.cumsum(cost[bought]) - cost[bought]
        share = np.clip((money * (1 + 1e-9) - before) / cost[bought], 0, 1)
        self.bound = min(self.bound, self.value + gift + float(share @ gains[bought]))


def finish(
    lists: Lists,
    u: FloatArray,
    state: Greedy,
    budget: int,
    run: Run[Any],
    advance: Callable[[float], None],
    terms: Terms | None = None,
    floor: FloatArray | None = None,
) -> None:
    """Lazy greedy on lists of pairs until ``budget`` picks, until nothing gains, or until nothing can be paid.

    Args:
        lists: the pairs that matter; they shrink on the way.
        u: (n,) float32 weights.
        state: picks so far, extended.
        budget: how many picks there should be in the end.
        run: threads.
        advance: called with the number of picks made, or with what they cost where money is limited.
        terms: what else counts; None: nothing.
        floor: (n,) float32, what no pair that the lists lack exceeds; None: they lack none that matters. Bounds hold
            for all pairs: they count every row as covered so well from the beginning.
    """
    n = len(u)
    weights = u.astype(np.float64)
    gains = np.empty(n)
    state.notes["pairs"] = len(lists[2])
    begun = len(state.rows)
    terms = plain(n) if terms is None else terms
    blocks = range(0, n, _BLOCK)

    def compute(first: int) -> None:
        list_gains(first, min(first + _BLOCK, n), *lists, weights, state.cover, gains)

    def everyone() -> IntArray:
        """Everyone's gain computed afresh, and the rows that are left."""
        left = np.flatnonzero(~state.taken)
        run(compute, blocks)
        gains[:] += terms.merit
        most, gift = gains, 0.0
        if floor is not None and short():
            cover = np.maximum(state.cover, floor)
            gift, most = float(weights @ (cover - state.cover)), np.empty(n)
            run(lambda first: later_gains(first, min(first + _BLOCK, n), *lists, weights, cover, most), blocks)
            most += terms.merit
        if terms.limited:
            state.bound_by_money(most[left], terms.cost[left], terms.money, gift)
        else:
            state.bound_by(most[left], budget, gift)
        return left

    def short() -> bool:
        """Whether pairs that the lists lack may matter."""
        return floor is not None and bool(np.any(floor > state.cover))

    for stop in _stops(begun, budget, terms.limited):
        left = everyone()
        key = gains[left] / terms.price[left]
        order = np.argsort(-key, kind="stable")
        row, key = left[order].astype(np.int32), key[order]
        size = len(row)
        fresh = np.full(n, -1, np.int32)
        fresh[row] = len(state.rows)
        while len(state.rows) < stop and size > 0:
            some = min(_STRETCH, stop - len(state.rows))
            out_row, out_gain = np.empty(some, np.int32), np.empty(some)
            before = len(state.rows)
            made, size = lazy_greedy(
                key,
                row,
                size,
                fresh,
                *lists,
                weights,
                state.cover,
                terms.merit,
                terms.price,
                terms.cost,
                terms.left(state.spent),
                before,
                some,
                out_row,
                out_gain,
            )
            cost = float(terms.cost[out_row[:made]].sum())
            state.took(out_row[:made], out_gain[:made], cost)
            advance(cost if terms.limited else made)
            if made < some:
                if terms.limited or short():
                    everyone()
                else:
                    state.bound = min(state.bound, state.value)  # nothing gains any more: this is the best there is
                return
    if terms.limited:
        everyone()


def _stops(begun: int, budget: int, limited: bool) -> list[int]:
    """Numbers of picks before which everyone's gain is computed afresh."""
    if not limited:
        return [begun + (budget - begun) * e // _CHECKPOINTS for e in range(1, _CHECKPOINTS + 1)] + [budget]
    # How many picks the money is good for is not known.
    stops = [begun + 8]
    while stops[-1] < budget:
        stops.append(min(budget, begun + math.ceil(1.25 * (stops[-1] - begun))))
    return stops
