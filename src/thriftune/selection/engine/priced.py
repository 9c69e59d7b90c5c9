"""Facility location where picks have prices: the better of greedy by gain per cost and greedy by gain.

Either alone can be arbitrarily bad; the better of the two is worth (1 - 1/e) / 2 of the best at least
(Khuller, Moss and Naor 1999; Leskovec et al. 2007, Cost-effective Outbreak Detection in Networks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from thriftune.selection.engine import cover
from thriftune.selection.engine.blocks import Run, workers
from thriftune.selection.engine.chance import ahead_of_random
from thriftune.selection.engine.effort import all_pairs_are_affordable
from thriftune.selection.engine.greedy import Greedy, Terms, finish
from thriftune.selection.engine.lines import Lines
from thriftune.selection.engine.neighbours import neighbour_graph, reverse
from thriftune.selection.engine.width import Similarity, distinct, similarity
from thriftune.types import BoolArray, FloatArray, IntArray

_TWICE = 4.0  # how much more two searches with costs do than one without: measured at 10,000 x 384
_GRAPH = 3e8  # pairs of a graph of neighbours, at most


@dataclass(frozen=True)
class PricedResult:
    """What greedy bought and how good it is.

    Args:
        rows: (k,) int64 in pick order.
        gains: (k,) float64, what each pick added to f.
        value: f(A ∪ S) - f(A), where A was chosen before; on the graph for the engine ``neighbours``.
        bound: nothing that ``money`` buys can add more than this; for the engine ``neighbours`` as far as the graph
            holds each row's nearest.
        ahead: how much more the picks add than random ones for as much money would, estimated; 0 when interrupted.
        cost: of the picks.
        notes: engine, kernel, which greedy was better, and what the other reached.
        partial: True when interrupted.
    """

    rows: IntArray
    gains: FloatArray
    value: float
    bound: float
    cost: float
    ahead: float
    notes: dict[str, Any]
    partial: bool


def facility_location_for(
    x: FloatArray,
    money: float,
    *,
    costs: FloatArray,
    kernel: str,
    gamma: float | Literal["auto"],
    weights: FloatArray | None,
    chosen: IntArray,
    engine: str,
    advance: Callable[[float], None],
) -> PricedResult:
    """Buy rows for ``money`` that cover all rows best. Nothing is bought that adds nothing.

    Args:
        x: (n, d) float32, C order.
        money: what the picks may cost together; at least one row that is not chosen costs no more.
        costs: (n,) float64 > 0.
        kernel, gamma, weights, engine: see `facility.facility_location`; ``auto`` gamma counts on as many picks as
            the money buys at the median price.
        chosen: (m,) rows that count as picked already.
        advance: called with what was spent since the last call; both runs together spend twice ``money`` at most.

    Returns:
        Picks, gains, value and certificate; ties go to the lowest row.
    """
    n = len(x)
    free = np.ones(n, bool)
    free[chosen] = False
    costs = np.where(free, costs, np.inf)  # what is chosen is not for sale, and need not have a price
    usual = int(np.clip(money / float(np.median(costs[free])), 1, free.sum()))
    whole = similarity(x, kernel, gamma, usual + len(chosen))
    rows, group = _cheapest(whole.a, costs, free)
    sim = whole if len(rows) == n else whole.take(rows)
    u = np.bincount(group, None if weights is None else np.asarray(weights, np.float64), len(rows)).astype(np.float32)
    start = Greedy(np.zeros(len(rows), np.float32), np.zeros(len(rows), bool))
    start.taken[group[chosen]] = True
    cost = costs[rows]
    exact, because = engine != "neighbours", "asked for"
    if engine == "auto":
        exact, because = all_pairs_are_affordable(len(rows), x.shape[1], times=_TWICE)
    # With costs a matrix of all similarities serves nothing: `dense` is exact, too.
    start.notes.update(engine="exact" if exact else "neighbours", engine_because=because, **whole.notes())
    by_cost = Terms(np.zeros(len(rows)), cost, cost, money)
    by_gain = replace(by_cost, price=np.ones(len(rows)))
    runs: dict[str, Greedy] = {}
    partial, bound, ahead = False, math.inf, 0.0
    best = ""
    try:
        with workers() as run:
            search = _search(sim, u, start, np.unique(group[chosen]), usual, exact, run)
            for name, terms in (("gain per cost", by_cost), ("gain", by_gain)):
                runs[name] = _copy(start)
                search(runs[name], terms, advance)
            best = max(runs, key=lambda name: runs[name].value)
            draw = _affordable(np.flatnonzero(free), costs, money)
            ahead = ahead_of_random(sim, u, start.cover, runs[best].cover, lambda rng: group[draw(rng)], run)
    except KeyboardInterrupt:
        partial = True
        best = max(runs, key=lambda name: runs[name].value, default="")
    state = runs[best] if runs else start
    bound = max(min((r.bound for r in runs.values()), default=math.inf), state.value)
    notes = {**state.notes, "greedy_by": best}
    others = [r.value for name, r in runs.items() if name != best]
    if others:
        notes["other_greedy"] = others[0]
    picked = rows[np.array(state.rows, np.int64)]
    cost_of_all = float(costs[picked].sum())
    return PricedResult(picked, np.array(state.gains), state.value, bound, cost_of_all, ahead, notes, partial)


def _affordable(rows: IntArray, costs: FloatArray, money: float) -> Callable[[np.random.Generator], IntArray]:
    """A function that draws rows one after the other for as long as the money lasts."""

    def draw(rng: np.random.Generator) -> IntArray:
        order = rng.permutation(rows[costs[rows] <= money])
        return order[: int(np.searchsorted(np.cumsum(costs[order]), money, "right"))]

    return draw


def _copy(state: Greedy) -> Greedy:
    return Greedy(state.cover.copy(), state.taken.copy(), notes=dict(state.notes))


def _cheapest(a: FloatArray, costs: FloatArray, free: BoolArray) -> tuple[IntArray, IntArray]:
    """Of each set of identical rows the cheapest that is free, the lowest on ties; for each row, which set it is in."""
    _, group = distinct(a)
    price = np.where(free, costs, np.inf)
    order = np.lexsort((price, group))
    _, at = np.unique(group[order], return_index=True)
    return order[at], group


def _search(
    sim: Similarity, u: FloatArray, start: Greedy, chosen: IntArray, usual: int, exact: bool, run: Run[Any]
) -> Callable[[Greedy, Terms, Callable[[float], None]], None]:
    """A function that runs greedy from ``start``, whose cover is brought up to date; what both runs need is shared."""
    n = len(sim)
    for begin in range(0, len(chosen), 256):
        _cover_by(sim, start, chosen[begin : begin + 256], run)
    if exact:
        lines = Lines(sim, run)
        nothing = Terms(np.zeros(n), np.ones(n), np.zeros(n))
        first = cover.everyone(lines, u, start, nothing)
        return lambda state, terms, advance: cover.pick(lines, u, state, terms, first, n, advance)
    degree = int(min(n, max(32, math.ceil(5 * n / usual)), max(32, _GRAPH / n)))
    index, value = neighbour_graph(sim, degree, run, start.notes)
    floor = value.min(axis=1)

    def search(state: Greedy, terms: Terms, advance: Callable[[float], None]) -> None:
        finish(reverse(index, value, state.cover), u, state, n, run, advance, terms, floor)

    return search


def _cover_by(sim: Similarity, state: Greedy, chosen: IntArray, run: Run[Any]) -> None:
    def part(begin: int) -> None:
        rows = slice(begin, min(begin + 1024, len(sim)))
        np.maximum(state.cover[rows], sim.block(rows, chosen).max(axis=1), out=state.cover[rows])

    run(part, range(0, len(sim), 1024))
    state.cover[chosen] = sim.own(chosen)
