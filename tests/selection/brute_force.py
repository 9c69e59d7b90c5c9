"""Objectives by their definition in double precision, and what it means that picks are greedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from thriftune.types import Selection

Value = Callable[[list[int]], float]


def squared_distances(x: Any) -> Any:
    """(n, n) float64, from the differences themselves."""
    x = np.asarray(x, np.float64)
    return np.array([((x - p) ** 2).sum(axis=1) for p in x])


def rbf(x: Any, gamma: float) -> Any:
    """(n, n) exp(-squared distance / (gamma * mean squared distance between different rows))."""
    squared = squared_distances(x)
    return np.exp(-squared / (gamma * squared.sum() / (len(x) * (len(x) - 1))))


def local(x: Any, gamma: float, rank: int = 7) -> Any:
    """(n, n) affinity of Zelnik-Manor and Perona 2004, with a floor."""
    x = np.asarray(x, np.float64)
    d2 = squared_distances(x)
    unique = np.unique(x, axis=0)
    to_unique = ((x[:, None] - unique[None]) ** 2).sum(axis=2)
    s2 = np.sort(to_unique, axis=1)[:, min(rank, len(unique) - 1)]
    s2 = np.maximum(s2, max(0.01 * np.median(s2), 1e-4 * d2.sum() / (len(x) * (len(x) - 1))))
    return np.exp(-d2 / (2 * gamma * np.sqrt(s2[:, None] * s2)))


def cosine(x: Any) -> Any:
    """(n, n) cosines, not clipped."""
    x = np.asarray(x, np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def check_greedy(
    value: Value, selection: Selection, chosen: list[int], *, tolerance: float = 1e-5, picks: int | None = None
) -> None:
    """Every pick gains as much as the best there was, and its gain is what it added to ``value``."""
    assert selection.gains is not None
    n = max([*selection.rows, *chosen]) + 1 if picks is None else picks
    have = list(chosen)
    before = value(have)
    for place, (row, gain) in enumerate(zip(selection.rows.tolist(), selection.gains, strict=True)):
        added = {i: value([*have, i]) - before for i in range(n) if i not in have}
        scale = tolerance * max(1.0, *(abs(g) for g in added.values()))
        assert gain == pytest.approx(added[row], abs=scale), f"pick {place}"
        assert added[row] >= max(added.values()) - scale, f"pick {place}"
        have.append(row)
        before += added[row]
