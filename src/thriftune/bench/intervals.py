"""Intervals for the efficiency ratio: paired comparisons of curves, and the inversion of a test.

The plain choice, percentiles of a bootstrap over seeds and items, covers too little with eight seeds, and a ratio has
no finite interval at all where the curve is flat. Here every candidate ratio is *tested* by a paired comparison of the
two curves, and the interval is the set of ratios that are not rejected (Fieller 1954). Where the curve is flat no
ratio is rejected and the interval has no end: want of information never shows a saving. One factor for the whole family
of strategies and metrics, from resampling the joint distribution of its comparisons, makes the intervals simultaneous.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from thriftune.bench.curves import Moments
from thriftune.types import FloatArray, IntArray

_STEPS = 200  # candidates on either side of ratio 1
_MANY = 400  # degrees of freedom from which Student's t is taken not to change


@functools.lru_cache(maxsize=256)
def t_quantile(tail: float, df: float) -> float:
    """Upper quantile of Student's t.

    Args:
        tail: probability above the quantile, in (0, 0.5].
        df: degrees of freedom, at least 1; beyond 400 (quantiles within 0.3 % of the normal ones) taken as 400.

    Returns:
        sqrt(df) tan(phi), phi having density proportional to cos(phi)^(df - 1).
    """
    df = min(df, _MANY)
    angle = np.linspace(0.0, np.pi / 2, 20001)
    density = np.maximum(np.cos(angle), 0.0) ** (df - 1)
    area = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(df) * math.tan(float(np.interp(1 - 2 * tail, area / area[-1], angle)))


def hats(x: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Weights by which the mean of a piecewise linear curve over an interval depends on its knots.

    Args:
        x: (k,) float64, knots, increasing.
        low: (g,) float64, lower ends, within the knots.
        high: (g,) float64, upper ends; equal to ``low`` for the curve's value there.

    Returns:
        (g, k) float64, rows adding up to 1.
    """
    left, right = np.diff(x, prepend=x[0]), np.diff(x, append=x[-1])

    def integral(at: FloatArray) -> FloatArray:
        shape = (len(at), len(x))
        up = np.divide(at[:, None] - x + left, left, out=np.zeros(shape), where=np.broadcast_to(left > 0, shape))
        down = np.divide(at[:, None] - x, right, out=np.zeros(shape), where=np.broadcast_to(right > 0, shape))
        return left / 2 * np.clip(up, 0, 1) ** 2 + right / 2 * (1 - (1 - np.clip(down, 0, 1)) ** 2)

    width = high - low
    point = np.array([np.interp(low, x, row) for row in np.eye(len(x))]).T
    area = (integral(high) - integral(low)) / np.maximum(width, 1e-9)[:, None]
    return np.where((width > 1e-9)[:, None], area, point)


def shifts(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Candidate shifts of a curve along log budget, and the comparison of curves that each calls for.

    The comparison is the mean of m_strategy(x) - m_baseline(x + theta) over the budgets where both are measured,
    curves being straight between neighbouring log budgets. It is zero in expectation when an annotation of the strategy
    counts as much as exp(theta) of the baseline. What straight lines leave out of a bent curve is left out of both
    curves and cancels but for the ends; at theta = 0 it cancels exactly.

    Args:
        x: (k,) float64, log budgets, increasing.

    Returns:
        theta (g,) float64, increasing, 0 among them; and weights (g, 2 k) float64 of the strategy's and the baseline's
        cells.
    """
    return _shifts(tuple(x))


@functools.lru_cache(maxsize=64)
def _shifts(knots: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
    x = np.array(knots)
    width = x[-1] - x[0]
    theta = np.linspace(-1.0, 1.0, 2 * _STEPS + 1) * width if width > 0 else np.zeros(1)
    low = np.clip(x[0] - theta, x[0], x[-1])
    high = np.maximum(np.clip(x[-1] - theta, x[0], x[-1]), low)
    ends = np.clip([low + theta, high + theta], x[0], x[-1])
    weights = np.concatenate([hats(x, low, high), -hats(x, ends[0], ends[1])], axis=1)
    theta.flags.writeable = weights.flags.writeable = False  # shared by all who ask again
    return theta, weights


@dataclass(frozen=True)
class Compared:
    """Comparisons, each a weighted sum of cell means.

    Args:
        value: (g,) float64.
        error: (g,) float64, standard error.
        half: (g,) float64, half the width of its interval, taken alone; infinite with one seed.
    """

    value: FloatArray
    error: FloatArray
    half: FloatArray


def compare(stats: Moments, weights: FloatArray, cells: IntArray, level: float) -> Compared:
    """Weighted sums of cells, with intervals.

    Each component of the variance has its own quantile: half = sqrt(t_seed^2 V_seed + t_item^2 V_item) (Graybill and
    Wang 1980). Satterthwaite's degrees of freedom covered too little in simulation with three seeds.

    Args:
        stats: the cells' moments.
        weights: (g, k) float64.
        cells: (k,) int64, the cells that the columns of ``weights`` mean.
        level: e.g. 0.95.
    """
    block = np.ix_(cells, cells)
    seed = np.maximum(((weights @ stats.seed[block]) * weights).sum(axis=1), 0.0)
    item = np.maximum(((weights @ stats.item[block]) * weights).sum(axis=1), 0.0)
    least = np.where(np.abs(weights) > 1e-12, stats.df_seed[cells], np.iinfo(np.int64).max).min(axis=1)
    quantile = {df: t_quantile((1 - level) / 2, int(df)) if df > 0 else math.inf for df in np.unique(least)}
    t_seed = np.array([quantile[df] for df in least])
    with np.errstate(invalid="ignore"):
        half = np.sqrt(t_seed**2 * seed + t_quantile((1 - level) / 2, stats.df_item) ** 2 * item)
    # Rounding is no evidence: equal arms that never vary differ by 1e-16.
    half = np.maximum(np.where(np.isnan(half), math.inf, half), 1e-9 * np.abs(stats.mean).max(initial=0.0))
    return Compared(weights @ stats.mean[cells], np.sqrt(seed + item), half)


def simultaneous(stats: Moments, family: FloatArray, level: float, draws: int, rng: np.random.Generator) -> float:
    """The factor by which single intervals widen so that all hold together.

    Errors of the family are drawn from normal distributions with its estimated covariance, each comparison with an
    interval of its own from drawn seeds. Correlations between seeds' errors are estimated from few seeds and a wrong
    high one would narrow the intervals, so they are shrunk by (df - 2) / (df + 1): nothing of them is left with two
    degrees of freedom, five eighths with seven.

    Args:
        stats: the cells' moments.
        family: (j, c) float64, one comparison a row, over all cells.
        level: e.g. 0.95.
        draws: how often.
        rng: what draws.

    Returns:
        At least 1: the ``level`` quantile of the largest |error| / half of the family.
    """
    used = (np.abs(family) > 1e-12).any(axis=0)
    if len(family) < 2 or stats.df_seed[used].min() < 1:
        return 1.0
    df = int(stats.df_seed[used].min())
    seed, item = family @ stats.seed @ family.T, family @ stats.item @ family.T
    kept = max(df - 2, 0) / (df + 1)
    between, shared = _root(kept * seed + (1 - kept) * np.diag(np.diag(seed))), _root(item)
    t_seed, t_item = t_quantile((1 - level) / 2, df), t_quantile((1 - level) / 2, stats.df_item)
    fixed = t_item**2 * (shared**2).sum(axis=1)
    largest = []
    for begin in range(0, draws, 2000):
        z = rng.standard_normal((min(2000, draws - begin), df + 2, len(family)))
        half = np.sqrt(t_seed**2 * ((z[:, 2:] @ between.T) ** 2).mean(axis=1) + fixed)
        error = np.abs(z[:, 0] @ between.T + z[:, 1] @ shared.T)
        largest.append(np.divide(error, half, out=np.zeros_like(error), where=half > 0).max(axis=1))
    return max(1.0, float(np.quantile(np.concatenate(largest), level)))


def _root(covariance: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def estimate(theta: FloatArray, value: FloatArray) -> float:
    """The shift at which comparisons go from above zero to below; an end of ``theta`` where they do not.

    Noise can make several crossings; the one kept separates most of what is above zero from most of what is below.

    Args:
        theta: (g,) float64, candidate shifts, increasing.
        value: (g,) float64, comparisons.
    """
    best = int(np.argmax(np.concatenate([[0.0], np.cumsum(value)]))) - 1
    if best < 0:
        return float(theta[0])
    return float(theta[-1]) if best == len(value) - 1 else _zero(theta, value, best)


def inversion(theta: FloatArray, value: FloatArray, half: FloatArray) -> tuple[float | None, float | None]:
    """The ends of the set of shifts that the data do not reject; gaps in it are filled.

    Args:
        theta: (g,) float64, candidate shifts, increasing.
        value: (g,) float64, comparisons; positive where the strategy does better than that shift says.
        half: (g,) float64, half widths: a shift is rejected where |value| > half.

    Returns:
        Lower and upper end; None for an end that the candidates do not contain.
    """
    above, below = value - half, value + half
    low, high = None, None
    if above[0] > 0:
        ends = np.flatnonzero(above <= 0)
        low = _zero(theta, above, int(ends[0]) - 1) if len(ends) else float(theta[-1])
    if below[-1] < 0:
        ends = np.flatnonzero(below >= 0)
        high = _zero(theta, below, int(ends[-1])) if len(ends) else float(theta[0])
    return low, high


def _zero(theta: FloatArray, value: FloatArray, index: int) -> float:
    """Where the straight line from candidate ``index`` to the next one crosses zero."""
    here, there = float(value[index]), float(value[index + 1])
    share = here / (here - there) if math.isfinite(here - there) and here != there else 0.0
    return float(theta[index] + share * (theta[index + 1] - theta[index]))
