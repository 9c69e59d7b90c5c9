"""Greedy for coverage plus what picks are worth by themselves, by gain or by gain per price, exact and lazy.

The first picks, while nearly every pair still matters, are made on whole lines of similarities; the pairs that matter
then are collected in one pass, and lazy greedy on those is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from thriftune.selection.engine.greedy import Greedy, Terms, finish
from thriftune.selection.engine.lines import Lines, similarities
from thriftune.selection.engine.lookahead import first_gains, pick_by_batches
from thriftune.selection.engine.pairs import all_pairs
from thriftune.types import FloatArray, IntArray

_EDGES = 1000  # pairs per row that are few enough to be kept
_MOST_EDGES = 150_000_000  # 14 bytes each
_SAMPLE = 256


class Coverage:
    """Greedy by (what a pick adds to sum_i u_i max_j w_ij, plus its merit) over its price.

    Args:
        lines: w.
        u: (n,) float32 weights.
        state: what is picked; its ``cover`` follows.
        terms: merit, price and cost.
    """

    def __init__(self, lines: Lines, u: FloatArray, state: Greedy, terms: Terms) -> None:
        self.lines, self.u, self.state, self.terms = lines, u, state, terms

    def block(self, rows: IntArray) -> IntArray:
        return self.lines.places(rows)

    def gains(self, block: IntArray, rows: IntArray) -> FloatArray:
        covered = self.lines.above(block, self.u, self.state.cover)
        return np.asarray((covered + self.terms.merit[rows]) / self.terms.price[rows])

    def take(self, line: Any, row: int) -> None:
        np.maximum(self.state.cover, self.lines.kept[line], out=self.state.cover)


def everyone(lines: Lines, u: FloatArray, state: Greedy, terms: Terms) -> FloatArray:
    """(n,) float64: what each row would add now, its merit included; -inf for rows that are taken."""
    whole = Terms(terms.merit, np.ones(len(u)), terms.cost)
    return first_gains(Coverage(lines, u, state, whole), ~state.taken)


def pick(
    lines: Lines,
    u: FloatArray,
    state: Greedy,
    terms: Terms,
    first: FloatArray,
    budget: int,
    advance: Callable[[float], None],
) -> None:
    """Pick until there are ``budget`` picks, until nothing gains, or until nothing can be paid.

    Args:
        lines: similarities.
        u: (n,) float32 weights.
        state: where to begin; extended.
        terms: what else counts.
        first: (n,) from `everyone` at that state.
        budget: how many picks, at most.
        advance: called with the number of picks made, or with what they cost where money is limited.

    Raises:
        KeyboardInterrupt: ``state`` holds the picks so far.
    """
    sim, run = lines.sim, lines.run
    n = len(sim)
    edges = min(_EDGES * n, _MOST_EDGES)
    bound = np.full(n, -np.inf)
    np.divide(first, terms.price, out=bound, where=~state.taken)
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(n, min(n, _SAMPLE), replace=False))
    to_sample = None if n * n <= edges else similarities(sim, sample, run)
    objective = Coverage(lines, u, state, terms)
    if terms.limited:
        state.bound_by_money(first[~state.taken], terms.cost[~state.taken], terms.money)

    def took(rows: list[int], ratios: list[float]) -> None:
        picked = np.array(rows, np.int64)
        cost = float(terms.cost[picked].sum())
        state.took(picked, np.array(ratios) * terms.price[picked], cost)
        advance(cost if terms.limited else len(rows))

    look = 0
    while len(state.rows) < budget:
        made = len(state.rows)
        if made >= look:
            # How many pairs (candidate, row) still matter, by the rows of a sample.
            if to_sample is None or (to_sample > state.cover[sample, None]).mean() * n * n <= edges:
                _, pairs = all_pairs(sim, u, [], np.empty(0, np.int64), run, state.cover)
                assert pairs is not None
                state.notes["early_picks"] = made
                finish(pairs.lists(run), u, state, budget, run, advance, terms)
                return
            look = made + 1 + made // 4
        bound[terms.cost > terms.left(state.spent)] = -np.inf
        # Each pick may put others out of reach.
        wanted = 1 if terms.limited else min(look, budget) - made
        rows, ratios, stopped = pick_by_batches(objective, bound, wanted, _ignore, least=0.0)
        took(rows, ratios)
        if stopped:
            raise KeyboardInterrupt
        if len(rows) < wanted:
            break
    if terms.limited:
        gains = bound * terms.price
        state.bound_by_money(gains[~state.taken], terms.cost[~state.taken], terms.money)


def _ignore(amount: float) -> None:
    pass
