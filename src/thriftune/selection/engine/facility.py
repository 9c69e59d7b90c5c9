"""Facility location f(S) = sum_i u_i max_{j in S} w_ij by lazy greedy (Minoux 1978), with a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from thriftune.errors import StrategyError
from thriftune.selection.engine.width import Similarity, similarity
from thriftune.types import FloatArray, IntArray

Kernel = Literal["rbf", "cosine"]
Engine = Literal["auto", "exact", "neighbours", "dense"]


@dataclass(frozen=True)
class FacilityResult:
    """What greedy chose and how good it is.

    Args:
        rows: (budget,) int64 in pick order.
        gains: (budget,) float64, what each pick added to f; does not increase, up to rounding.
        value: f(A ∪ S) - f(A), where A was chosen before.
        bound: no set of ``budget`` rows can add more than this.
        notes: engine, gamma, width and the engine's own figures.
        partial: True when interrupted.
    """

    rows: IntArray
    gains: FloatArray
    value: float
    bound: float
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
    advance: Callable[[float], None],
) -> FacilityResult:
    """Pick ``budget`` rows, each the one that adds most to how well all rows are covered.

    Args:
        x: (n, d) float32, C order.
        budget: how many rows to pick, at most n - m.
        kernel: ``rbf``: exp(-squared distance / (gamma * mean squared distance)); ``cosine``: clipped at 0.
        gamma: width of ``rbf``, or ``auto``.
        weights: (n,) float >= 0, how much each row counts as something to be covered; None: all alike.
        chosen: (m,) rows that count as picked already.
        engine: which algorithm; ``auto`` decides by n, d, budget and free memory.
        advance: called with the number of picks made since the last call.

    Returns:
        Picks, gains, value and certificate; ties go to the lowest row.

    Raises:
        StrategyError: unknown kernel or engine, or an impossible width.
    """
    if kernel not in get_args(Kernel):
        raise StrategyError(f"unknown kernel {kernel!r}: choose one of {', '.join(get_args(Kernel))}")
    if engine not in get_args(Engine):
        raise StrategyError(f"unknown engine {engine!r}: choose one of {', '.join(get_args(Engine))}")
    sim = similarity(x, kernel, gamma, budget + len(chosen))
    u = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    return _dense(sim, budget, u, np.asarray(chosen, np.int64), advance)


def _dense(
    sim: Similarity, budget: int, u: FloatArray, chosen: IntArray, advance: Callable[[float], None]
) -> FacilityResult:
    n = len(sim)
    covered = np.zeros(n, np.float32)
    for begin in range(0, len(chosen), 256):
        np.maximum(covered, sim.rows(chosen[begin : begin + 256]).max(axis=0), out=covered)
    upper = np.full(n, np.inf)
    upper[chosen] = -np.inf
    fresh = np.zeros(n, np.int64)
    fresh[:] = -1
    rows: list[int] = []
    gains: list[float] = []
    value, bound = 0.0, np.inf
    try:
        while len(rows) < budget:
            first = int(upper.argmax())
            if fresh[first] != len(rows):
                batch = np.argsort(-upper, kind="stable")[:64]
                batch = batch[np.isfinite(upper[batch]) | (upper[batch] > 0)]
                batch = batch[fresh[batch] != len(rows)]
                block = sim.rows(batch)
                upper[batch] = np.maximum(block - covered, 0) @ u
                fresh[batch] = len(rows)
                continue
            if np.isfinite(upper.max()):
                left = upper[np.isfinite(upper)]
                bound = min(bound, value + float(np.partition(left, max(len(left) - budget, 0))[-budget:].sum()))
            rows.append(first)
            gains.append(float(upper[first]))
            value += gains[-1]
            np.maximum(covered, sim.rows(np.array([first]))[0], out=covered)
            upper[first] = -np.inf
            advance(1)
    except KeyboardInterrupt:
        pass
    return FacilityResult(
        np.array(rows, np.int64),
        np.array(gains),
        value,
        max(bound, value),
        {"engine": "dense", **sim.notes()},
        len(rows) < budget,
    )
