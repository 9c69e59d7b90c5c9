"""The numbers behind the report's figures, computed from arrays; nothing here reads a study or writes HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftune import geometry
from thriftune.progress import progress
from thriftune.types import BoolArray, FloatArray, IntArray, ObjectArray

RANDOM_SEEDS = range(20)
_MEASURED = 4000  # prompts whose distance to the nearest pick is measured
_FEWEST_MEASURED = 500
_FLOPS = 4e11  # what coverage may cost: about ten seconds on one core
_ASSIGN_BYTES = 1 << 26
_BINS = 24


def spearman(a: FloatArray, b: FloatArray) -> float | None:
    """Spearman's rank correlation; ties share their mean rank.

    Args:
        a: (n,) number.
        b: (n,) number.

    Returns:
        The correlation over the rows where both are finite; None where fewer than three are, or one is constant.
    """
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3:
        return None
    x, y = _ranks(a[both]), _ranks(b[both])
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / spread if spread > 0 else None


def _ranks(values: FloatArray) -> FloatArray:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]


def histogram(values: FloatArray, picks: Mapping[str, IntArray], *, logarithmic: bool = False) -> dict[str, Any] | None:
    """Counts of a column over the pool and over each selection, on the same edges.

    The outermost bins also hold the half per cent on either side, so that a few extreme values do not squeeze the rest.

    Args:
        values: (n,) number; those that are not finite are left out.
        picks: rows by name of selection.
        logarithmic: bins of equal ratio instead of equal width; for positive values.

    Returns:
        ``edges`` (bins + 1), ``low`` and ``high`` (the extremes), ``pool`` (bins,) and ``picks`` by name (bins,);
        None where no value is finite.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return None
    shown = np.log(np.maximum(finite, 1)) if logarithmic else finite
    low, high = np.quantile(shown, [0.005, 0.995])
    if high - low <= 1e-12 * max(abs(low), 1.0):
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)

    def counts(column: FloatArray) -> list[int]:
        kept = column[np.isfinite(column)].astype(np.float64)
        scaled = np.log(np.maximum(kept, 1)) if logarithmic else kept
        bins = np.clip(np.searchsorted(edges, scaled, side="right") - 1, 0, _BINS - 1)
        return [int(c) for c in np.bincount(bins, minlength=_BINS)]

    return {
        "edges": (np.exp(edges) if logarithmic else edges).tolist(),
        "low": float(finite.min()),
        "high": float(finite.max()),
        "pool": counts(values),
        "picks": {name: counts(values[rows]) for name, rows in picks.items()},
    }


@dataclass(frozen=True)
class Coverage:
    """Mean distance from a prompt of the pool to the nearest covered one, against the number of picks.

    Args:
        budgets: increasing numbers of picks; 0 first where something is covered before the first pick.
        selections: name -> (budgets up to its length,) distances.
        random: (seeds, len(budgets)) the same for random orders.
        already: prompts that count as covered before the first pick.
        eligible: distinct prompts that random orders draw from.
        measured: prompts whose distances were averaged.
    """

    budgets: list[int]
    selections: dict[str, FloatArray]
    random: FloatArray
    already: int
    eligible: int
    measured: int

    def against_random(self, name: str) -> dict[str, Any] | None:
        """How a whole selection covers beside random orders of the same length; None for an empty selection.

        ``within_random``: not more than three standard deviations of random orders from their mean, where a further
        random order would lie 99 times in 100.
        """
        curve = self.selections[name]
        if not len(curve) or self.budgets[len(curve) - 1] == 0:
            return None
        at = len(curve) - 1
        random = self.random[:, at]
        mean, spread = float(random.mean()), float(random.std(ddof=1))
        return {
            "budget": self.budgets[at],
            "distance": float(curve[at]),
            "random": mean,
            "random_low": float(random.min()),
            "random_high": float(random.max()),
            "change": float(curve[at]) / mean - 1 if mean > 0 else 0.0,
            "within_random": bool(abs(curve[at] - mean) <= 3 * spread + 1e-9),
        }


def coverage(
    embeddings: FloatArray, picks: Mapping[str, IntArray], covered: BoolArray, groups: IntArray | None
) -> Coverage | None:
    """Coverage against budget for selections and for random orders, all measured alike.

    Args:
        embeddings: (n, d) float, transformed.
        picks: rows in pick order by name of selection.
        covered: (n,) bool, prompts that count as covered before the first pick, for selections and random alike.
        groups: (n,) integer, equal for prompts of the same text; random orders draw each text once, as selection does,
            and repeat one only when all are used up.

    Returns:
        The curves; without selections random's alone. None where nothing is left to pick.
    """
    n = len(embeddings)
    labels = np.arange(n) if groups is None else groups
    distinct, rest = _distinct(labels, covered)
    if not len(distinct) and not any(map(len, picks.values())):
        return None
    longest = max(map(len, picks.values()), default=0) or min(len(distinct), 1000)
    base = np.flatnonzero(covered)
    budgets = _grid({len(rows) for rows in picks.values()} | {longest}, begin=0 if len(base) else 1)
    work = sum(map(len, picks.values())) + len(RANDOM_SEEDS) * longest + (len(picks) + len(RANDOM_SEEDS)) * len(base)
    affordable = int(_FLOPS / (2 * embeddings.shape[1] * max(work, 1)))
    sample = min(n, _MEASURED, max(affordable, _FEWEST_MEASURED))

    def curve(order: IntArray) -> FloatArray:
        at = [len(base) + b for b in budgets if b <= len(order)]
        return geometry.coverage(embeddings, np.concatenate([base, order]), at, sample=sample)

    with progress("measuring coverage", len(RANDOM_SEEDS) + len(picks), "orders") as advance:
        random = []
        for seed in RANDOM_SEEDS:
            rng = np.random.default_rng(seed)
            random.append(curve(np.concatenate([rng.permutation(distinct), rng.permutation(rest)])[:longest]))
            advance(1)
        curves: dict[str, FloatArray] = {}
        for name, rows in picks.items():
            curves[name] = curve(rows) if len(rows) else np.empty(0)
            advance(1)
    return Coverage(budgets, curves, np.stack(random), len(base), len(distinct), sample)


def _distinct(labels: IntArray, covered: BoolArray) -> tuple[IntArray, IntArray]:
    """Uncovered rows: the first of each text that is not covered yet, and the repetitions."""
    _, first = np.unique(labels, return_index=True)
    is_first = np.zeros(len(labels), bool)
    is_first[first] = True
    fresh = ~np.isin(labels, labels[covered])
    return np.flatnonzero(is_first & fresh), np.flatnonzero(~covered & ~(is_first & fresh))


def _grid(lengths: set[int], begin: int) -> list[int]:
    """About eight budgets a decade up to the longest selection, and the length of every selection."""
    longest = max(lengths)
    spaced = {round(10 ** (i / 8)) for i in range(8 * 8) if round(10 ** (i / 8)) <= longest}
    return sorted({b for b in spaced | lengths | {begin} if begin <= b})


def nearest_pick(embeddings: FloatArray, picks: IntArray, rows: IntArray) -> IntArray:
    """Which pick prompts are nearest to.

    Args:
        embeddings: (n, d) float, transformed.
        picks: (k,) rows, k >= 1.
        rows: (m,) the prompts asked about.

    Returns:
        (m,) int64 positions in ``picks``; the earlier one of equals.
    """
    chosen = np.asarray(embeddings[picks], np.float32)
    half = 0.5 * np.einsum("ij,ij->i", chosen, chosen)
    where = np.empty(len(rows), np.int64)
    step = max(1, _ASSIGN_BYTES // (4 * len(picks)))
    for start in range(0, len(rows), step):
        block = np.asarray(embeddings[rows[start : start + step]], np.float32)
        where[start : start + step] = (block @ chosen.T - half).argmax(axis=1)
    # A pick stands for itself even where rounding puts its double ahead.
    position = {int(row): p for p, row in reversed(list(enumerate(picks)))}
    for i, row in enumerate(rows):
        where[i] = position.get(int(row), where[i])
    return where


def task_shares(tasks: ObjectArray, picks: Mapping[str, IntArray]) -> list[dict[str, Any]]:
    """Every task with its share of the pool and of each selection, the most common first.

    Args:
        tasks: (n,) object, labels; '' where a prompt has none.
        picks: rows by name of selection.

    Returns:
        ``task``, ``count``, ``share``, and ``picks``: name -> count and share.
    """
    names, codes = np.unique(tasks.astype(str), return_inverse=True)
    pool = np.bincount(codes, minlength=len(names))
    chosen = {name: np.bincount(codes[rows], minlength=len(names)) for name, rows in picks.items()}
    return [
        {
            "task": str(names[t]),
            "count": int(pool[t]),
            "share": float(pool[t] / len(tasks)),
            "picks": {
                name: {"count": int(c[t]), "share": float(c[t] / c.sum()) if c.sum() else 0.0}
                for name, c in chosen.items()
            },
        }
        for t in np.lexsort((names, -pool))
    ]


def shown_points(n: int, picks: Sequence[IntArray], background: int, most: int) -> tuple[IntArray, IntArray]:
    """Which prompts the map draws.

    Args:
        n: prompts in the pool.
        picks: rows in pick order, one array a selection.
        background: how many prompts to draw at random, with a fixed seed, to stand for the pool.
        most: how many points there may be; beyond, the last picks of every selection are left out alike.

    Returns:
        (m,) rows in increasing order, and (b,) those of them that stand for the pool.
    """
    sample = np.sort(np.random.default_rng(0).choice(n, min(n, background), replace=False))
    depth = max(map(len, picks), default=0)
    low, high = 0, depth
    while low < high:  # the deepest prefix of all selections that fits
        middle = (low + high + 1) // 2
        if len(_union(sample, picks, middle)) <= most:
            low = middle
        else:
            high = middle - 1
    return _union(sample, picks, low), sample


def _union(sample: IntArray, picks: Sequence[IntArray], depth: int) -> IntArray:
    return np.unique(np.concatenate([sample, *(rows[:depth] for rows in picks)]))
