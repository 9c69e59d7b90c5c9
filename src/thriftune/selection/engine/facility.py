"""Facility location f(S) = sum_i u_i max_{j in S} w_ij by lazy greedy (Minoux 1978), with a certificate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from thriftune.errors import StrategyError
from thriftune.selection.engine.blocks import Run, free_memory, workers
from thriftune.selection.engine.chance import ahead_of_random
from thriftune.selection.engine.device import Rows
from thriftune.selection.engine.early import all_rows, early_picks, likely_picks
from thriftune.selection.engine.effort import all_pairs_are_affordable
from thriftune.selection.engine.greedy import Greedy, finish
from thriftune.selection.engine.neighbours import neighbour_graph, reverse
from thriftune.selection.engine.partition import partitioned, parts_needed
from thriftune.selection.engine.width import Similarity, distinct, similarity
from thriftune.types import FloatArray, IntArray

Kernel = Literal["rbf", "local", "cosine"]
Engine = Literal["auto", "exact", "neighbours", "dense"]

_DENSE = 1024  # pools so small are quickest with all similarities at hand
_EDGES = 1000  # pairs kept per row by the exact engine
# So many times the pairs of the graph may matter still when it takes over: the sample's picks before are worse ones.
_FEW = 8


@dataclass(frozen=True)
class FacilityResult:
    """What greedy chose and how good it is.

    Args:
        rows: (budget,) int64 in pick order.
        gains: (budget,) float64, what each pick added to f; does not increase, up to rounding.
        value: f(A ∪ S) - f(A), where A was chosen before; on the graph for the engine ``neighbours``, which is no more.
        bound: no set of ``budget`` rows can add more than this; for the engine ``neighbours`` as far as the graph
            holds each row's nearest.
        ahead: how much more the picks add than as many random ones would, estimated; 0 when interrupted.
        notes: engine, gamma, width and the engine's own figures.
        partial: True when interrupted.
    """

    rows: IntArray
    gains: FloatArray
    value: float
    bound: float
    ahead: float
    notes: dict[str, Any]
    partial: bool


def facility_location(
    x: FloatArray,
    budget: int,
    *,
    kernel: Kernel = "rbf",
    gamma: float | Literal["auto"] = "auto",
    weights: FloatArray | None = None,
    chosen: IntArray,
    engine: Engine = "auto",
    device: str | None = None,
    advance: Callable[[float], None],
) -> FacilityResult:
    """Pick ``budget`` rows, each the one that adds most to how well all rows are covered.

    Args:
        x: (n, d) float32, C order.
        budget: how many rows to pick, at most n - m.
        kernel, gamma: see `width.similarity`.
        weights: (n,) float >= 0, how much each row counts as something to be covered; None: all alike.
        chosen: (m,) rows that count as picked already.
        engine: ``exact`` (greedy without an n x n matrix), ``neighbours`` (greedy on a graph of nearest neighbours),
            ``dense`` (greedy with an n x n matrix) or ``auto``: by n, d and free memory, stated in the notes.
        device: where torch computes products, e.g. ``cuda``; None: NumPy does. Not for ``neighbours``.
        advance: called with the number of picks made since the last call.

    Returns:
        Picks, gains, value and certificate; ties go to the lowest row, and rows that gain nothing come last.

    Raises:
        StrategyError: unknown kernel or engine, an impossible width, or too little memory for ``dense``.
    """
    if kernel not in get_args(Kernel):
        raise StrategyError(f"unknown kernel {kernel!r}: choose one of {', '.join(get_args(Kernel))}")
    if engine not in get_args(Engine):
        raise StrategyError(f"unknown engine {engine!r}: choose one of {', '.join(get_args(Engine))}")
    n = len(x)
    chosen = np.asarray(chosen, np.int64)
    whole = similarity(x, kernel, gamma, budget + len(chosen))
    # Copies of a row are one candidate that covers them all: the first; the others gain nothing once it is picked.
    first, group = distinct(whole.a)
    sim = whole if len(first) == n else whole.take(first)
    u = np.bincount(group, None if weights is None else np.asarray(weights, np.float64), len(first))
    state = Greedy(np.zeros(len(first), np.float32), np.zeros(len(first), bool))
    state.taken[group[chosen]] = True
    picks = min(budget, int((~state.taken).sum()))
    if device is not None:
        sim.on_device = Rows(sim.a, device)
        state.notes["device"] = device
    used, why = _decide(engine, len(first), x.shape[1])
    state.notes.update(engine=used, engine_because=why, **whole.notes())
    if len(first) < n:
        state.notes["distinct"] = len(first)
    partial, uncovered, ahead = False, float(u.sum()), 0.0
    left = np.ones(n, bool)
    left[chosen] = False
    try:
        with workers() as run:
            _cover_by(sim, state, np.unique(group[chosen]), run)
            uncovered, before, weight = float(u @ (1.0 - state.cover)), state.cover.copy(), u.astype(np.float32)
            _search(sim, weight, state, picks, used, run, advance)
            free = group[left]
            ahead = ahead_of_random(
                sim, weight, before, state.cover, lambda rng: rng.choice(free, budget, replace=False), run
            )
    except KeyboardInterrupt:
        partial = True
    rows = first[np.array(state.rows, np.int64)]
    gains = np.array(state.gains)
    if not partial and len(rows) < budget:
        left[rows] = False
        rest = np.flatnonzero(left)[: budget - len(rows)]
        rows, gains = np.concatenate([rows, rest]), np.concatenate([gains, np.zeros(len(rest))])
        advance(len(rest))
    # Interrupted before there was a certificate: no row can be covered by more than 1.
    bound = min(state.bound, uncovered)
    return FacilityResult(rows, gains, state.value, max(bound, state.value), ahead, state.notes, partial)


def _decide(engine: str, n: int, d: int) -> tuple[str, str]:
    memory = free_memory()
    if engine == "dense" and 4 * n * n > 0.8 * memory:
        raise StrategyError(
            f"the dense engine needs {4 * n * n / 2**30:.1f} GiB for {n} different prompts and {memory / 2**30:.1f} "
            "GiB are free: use engine exact or neighbours"
        )
    if engine != "auto":
        return engine, "asked for"
    if n <= _DENSE:
        return "dense", f"{n} different rows"
    exact, because = all_pairs_are_affordable(n, d)
    return "exact" if exact else "neighbours", because


def _cover_by(sim: Similarity, state: Greedy, chosen: IntArray, run: Run[Any]) -> None:
    def part(begin: int) -> None:
        rows = slice(begin, min(begin + 1024, len(sim)))
        for c in range(0, len(chosen), 1024):
            np.maximum(state.cover[rows], sim.block(rows, chosen[c : c + 1024]).max(axis=1), out=state.cover[rows])

    run(part, range(0, len(sim), 1024))
    state.cover[chosen] = sim.own(chosen)


def _search(
    sim: Similarity,
    u: FloatArray,
    state: Greedy,
    budget: int,
    engine: str,
    run: Run[Any],
    advance: Callable[[float], None],
) -> None:
    n = len(sim)
    if engine == "dense":
        all_rows(sim, u, state, budget, run, advance)
        return
    if engine == "exact":
        edges = int(min(_EDGES * n, 0.4 * free_memory() / 14))
        pairs = early_picks(sim, u, state, budget, edges, run, advance)
        if pairs is not None:
            finish(pairs.lists(run), u, state, budget, run, advance)
        return
    share = n / max(budget, 1)
    degree = int(min(n, max(32, math.ceil(5 * share)), max(32, 0.3 * free_memory() / (24 * n))))
    if share >= 8:
        likely_picks(sim, u, state, budget, _FEW * degree * n, run, advance)
    parts = parts_needed(n, budget)
    if parts > 1:
        partitioned(sim, u, state, budget, parts, run, advance)
        return
    index, value = neighbour_graph(sim, degree, run, state.notes)
    state.bound = np.inf
    lists, floor = reverse(index, value, state.cover), value.min(axis=1)
    del index, value
    finish(lists, u, state, budget, run, advance, floor=floor)
