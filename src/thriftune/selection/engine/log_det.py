"""Greedy log det(ridge I + sum of x x'), exact and lazy: gains only shrink, and a batch costs d x d, not n x d."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thriftune.selection.engine.lookahead import Lead, next_width
from thriftune.types import FloatArray, IntArray

_BATCH = 512  # candidates brought up to date together, at most
_REFRESH = 512  # picks after which the inverse is computed afresh
_BLOCK = 4096


@dataclass(frozen=True)
class LogDetResult:
    """What greedy chose.

    Args:
        rows: (budget,) int64 in pick order.
        gains: (budget,) float64, what each pick added.
        partial: True when interrupted.
    """

    rows: IntArray
    gains: FloatArray
    partial: bool


def compact(x: FloatArray) -> FloatArray:
    """Rows (n, d) in as few coordinates as they span where n < d: all their products stay as they are."""
    n, d = x.shape
    if n >= d:
        return x
    values, vectors = np.linalg.eigh(x.astype(np.float64) @ x.T.astype(np.float64))
    return np.ascontiguousarray(vectors * np.sqrt(np.maximum(values, 0)), np.float32)


def information(x: FloatArray, rows: IntArray, ridge: float) -> FloatArray:
    """(d, d) float64: ridge I + sum over ``rows`` of x x'."""
    total = ridge * np.eye(x.shape[1])
    for begin in range(0, len(rows), _BLOCK):
        some = x[rows[begin : begin + _BLOCK]].astype(np.float64)
        total += some.T @ some
    return total


def quadratic(x: FloatArray, matrix: FloatArray) -> FloatArray:
    """(n,) float64: x' matrix x of each row."""
    found = np.empty(len(x))
    for begin in range(0, len(x), _BLOCK):
        some = x[begin : begin + _BLOCK].astype(np.float64)
        found[begin : begin + _BLOCK] = np.einsum("ij,ij->i", some @ matrix, some)
    return found


def log_det(
    x: FloatArray,
    budget: int,
    *,
    ridge: float,
    chosen: IntArray,
    merit: FloatArray | None = None,
    advance: Callable[[float], None],
) -> LogDetResult:
    """Pick ``budget`` rows, each the one with the largest log(1 + x' M^-1 x) + merit.

    Args:
        x: (n, d) float32.
        budget: how many rows, at most n - m.
        ridge: M starts as ridge I, plus x x' of what is chosen already; > 0.
        chosen: (m,) rows that are chosen already.
        merit: (n,) float64, what a row is worth by itself; None: nothing.
        advance: called with the number of picks made.

    Returns:
        Picks; ties go to the lowest row.
    """
    x = compact(x)
    worth = np.zeros(len(x)) if merit is None else merit
    total = information(x, chosen, ridge)
    inverse = np.linalg.inv(total)
    bound = worth + np.log1p(np.maximum(quadratic(x, inverse), 0))
    bound[chosen] = -np.inf
    rows: list[int] = []
    gains: list[float] = []
    refreshed, width = 0, 32
    try:
        while len(rows) < budget:
            lead = Lead(bound, width)
            some = x[lead.rows].astype(np.float64)
            spread = some @ inverse
            inner = spread @ some.T  # x' M^-1 y within the batch
            taken: list[int] = []
            now = worth[lead.rows] + np.log1p(np.maximum(np.diagonal(inner), 0))
            while len(rows) < budget:
                best = int(now.argmax())
                if not lead.holds(now[best], lead.rows[best]):
                    break
                taken.append(best)
                rows.append(int(lead.rows[best]))
                gains.append(float(now[best]))
                column = inner[:, best]
                inner = inner - np.outer(column, column) / (1 + column[best])
                now = worth[lead.rows] + np.log1p(np.maximum(np.diagonal(inner), 0))
                now[taken] = -np.inf
                advance(1)
            bound[lead.rows] = now
            width = next_width(width, len(taken), _BATCH)
            if taken:
                new, half = some[taken], spread[taken]
                total += new.T @ new
                if len(rows) - refreshed >= _REFRESH:
                    inverse, refreshed = np.linalg.inv(total), len(rows)
                else:
                    inverse -= half.T @ np.linalg.solve(np.eye(len(taken)) + half @ new.T, half)
    except KeyboardInterrupt:
        return LogDetResult(np.array(rows[: len(gains)], np.int64), np.array(gains), True)
    return LogDetResult(np.array(rows, np.int64), np.array(gains), False)
