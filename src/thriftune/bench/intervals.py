"""Intervals for the efficiency ratio: comparisons of curves, their two-way variance, and the inversion of a test.

The plain choice, percentiles of a bootstrap over seeds and items, covers too little with eight seeds; a bootstrap of
both together covers too much when what is left after seeds and items dominates; and a ratio has no finite interval at
all where the curve is flat. Here each candidate ratio is *tested* by a studentised paired comparison of the two
curves, and the interval is the set of ratios that are not rejected (Fieller 1954). Where the curve is flat no ratio is
rejected and the interval has no end: a saving is never shown for want of information. One factor for the whole family
of strategies and metrics, from a resampling of the joint distribution of the studentised comparisons, makes the
intervals simultaneous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thriftune.types import FloatArray, IntArray

_STEPS = 200  # candidates on either side of ratio 1
_MANY = 400.0  # degrees of freedom from which Student's t is the normal distribution for our purpose


def t_quantile(tail: float, df: FloatArray | float) -> FloatArray:
    """Upper quantile of Student's t for real degrees of freedom.

    Args:
        tail: probability above the quantile, in (0, 0.5].
        df: degrees of freedom, at least 1; any shape. Capped at 400, where the quantile is 0.3 % above the normal one.

    Returns:
        Quantiles, of the shape of ``df``: t = sqrt(df) tan(phi), phi having density proportional to cos(phi)^(df-1).
    """
    asked = np.clip(np.asarray(df, float), 1.0, _MANY)
    knots = np.unique(np.concatenate([[1.0, _MANY], np.exp(np.linspace(0.0, np.log(_MANY), 160))]))
    wanted = knots if asked.size > 400 else np.unique(asked)
    angle = np.linspace(0.0, np.pi / 2, 4001)
    density = np.cos(angle) ** (wanted[:, None] - 1)
    area = np.concatenate([np.zeros((len(wanted), 1)), np.cumsum((density[:, 1:] + density[:, :-1]) / 2, axis=1)], axis=1)
    inside = 1 - 2 * tail
    phi = np.array([np.interp(inside, row / row[-1], angle) for row in area])
    return np.interp(np.log(asked), np.log(wanted), np.sqrt(wanted) * np.tan(phi))


@dataclass(frozen=True)
class Moments:
    """Means of cells and the covariance of their errors.

    Args:
        mean: (c,) float64, each cell's metric averaged over tasks, then seeds.
        seed: (c, c) float64, covariance of the means that shows between seeds.
        item: (c, c) float64, covariance that all seeds share because they share items; not always positive definite.
        df_seed: (c,) float64, seeds of the cell less one.
        df_item: items less tasks.
    """

    mean: FloatArray
    seed: FloatArray
    item: FloatArray
    df_seed: FloatArray
    df_item: float


def moments(values: FloatArray, tasks: IntArray) -> Moments:
    """Means and two-way error covariance of cells that share seeds and items.

    Seeds are a sample and items are a sample within fixed tasks. The covariance is the sum of what seeds show (between
    seeds, which contains what is left after seed and item) and of what items add to every seed alike, estimated from
    products of different seeds only: with the same items in all seeds this is the usual V(seed) + V(item) - V(rest)
    (Cameron, Gelbach, Miller 2011), with other items in each seed it is V(seed) alone.

    Args:
        values: (c, r, n) float64, metric of a cell, seed and item. NaN where missing: a cell lacks a seed wholly or has
            all items of that seed.
        tasks: (n,) int64, the task of each item, from 0.

    Returns:
        The moments; seeds are weighted equally in a cell, tasks equally in a seed, items equally in a task.
    """
    cells, seeds, items = values.shape
    count = int(tasks.max()) + 1
    member = np.zeros((items, count))
    member[np.arange(items), tasks] = 1.0
    present = ~np.isnan(values).all(axis=2)  # (c, r)
    taken = ~np.isnan(values).all(axis=0)  # (r, n)
    averages = np.full((cells, seeds), np.nan)
    spread = np.zeros((cells, seeds, items))
    for seed in range(seeds):
        rows, columns = np.flatnonzero(present[:, seed]), np.flatnonzero(taken[seed])
        if not len(rows):
            continue
        x, inside = values[np.ix_(rows, [seed], columns)][:, 0], member[columns]
        size = inside.sum(axis=0)
        weight = inside @ np.divide(1.0, size * (size > 0).sum(), out=np.zeros(count), where=size > 0)
        averages[rows, seed] = x @ weight
        # A task of one item has no spread of its own: such tasks are taken together, which can only widen.
        lonely = size == 1
        inside = np.concatenate([inside[:, ~lonely], inside[:, lonely].sum(axis=1, keepdims=True)], axis=1)
        size = inside.sum(axis=0)
        centre = (x @ inside) / np.maximum(size, 1)
        factor = np.sqrt(size / np.maximum(size - 1, 1))
        spread[np.ix_(rows, [seed], columns)] = ((x - centre @ inside.T) * (weight * (inside @ factor)))[:, None]
    number = present.sum(axis=1)
    mean = np.nansum(averages, axis=1) / np.maximum(number, 1)
    # Each cell's own correction R / (R - 1), so that cells which lack seeds are not believed too much.
    scale = (1 / np.sqrt(np.maximum(number, 1) * np.maximum(number - 1, 1)))[:, None]
    between = np.nan_to_num(averages - mean[:, None]) * scale
    spread *= scale[..., None]
    together, apart = spread.sum(axis=1), spread.reshape(cells, -1)
    return Moments(
        mean,
        between @ between.T,
        together @ together.T - apart @ apart.T,
        np.maximum(number - 1.0, 0.0),
        float(max(taken.any(axis=0).sum() - len(np.unique(tasks[taken.any(axis=0)])), 1)),
    )


def hats(x: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Weights by which the mean of a piecewise linear curve over an interval depends on its knots.

    Args:
        x: (k,) float64, knots, increasing.
        low: (g,) float64, lower ends, within the knots.
        high: (g,) float64, upper ends; equal to ``low`` for the curve's value there.

    Returns:
        (g, k) float64, rows adding up to 1.
    """

    def integral(at: FloatArray) -> FloatArray:
        left, right = np.diff(x, prepend=x[0]), np.diff(x, append=x[-1])
        up = np.divide(at[:, None] - x + left, left, out=np.zeros((len(at), len(x))), where=left > 0)
        down = np.divide(at[:, None] - x, right, out=np.zeros((len(at), len(x))), where=right > 0)
        up, down = np.clip(up, 0, 1), np.clip(down, 0, 1)
        return left / 2 * up**2 + right / 2 * (1 - (1 - down) ** 2)

    width = np.asarray(high - low, float)
    point = np.array([np.interp(low, x, row) for row in np.eye(len(x))]).T
    area = integral(np.asarray(high, float)) - integral(np.asarray(low, float))
    return np.where((width > 1e-9)[:, None], area / np.maximum(width, 1e-9)[:, None], point)


def shifts(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Candidate shifts of a curve along log budget, and the comparison of the curves that each calls for.

    Args:
        x: (k,) float64, log budgets, increasing.

    Returns:
        theta (g,) float64, and weights (g, 2 k) float64 of a strategy's and the baseline's cells: the mean of
        m_strategy(x) - m_baseline(x + theta) over the budgets where both are measured, curves being linear between
        log budgets. It is zero in expectation when the strategy's annotations count exp(theta) times; the error of
        drawing straight lines through a bent curve cancels, since it is made in both.
    """
    width = x[-1] - x[0]
    theta = np.linspace(-width, width, 2 * _STEPS + 1) if width > 0 else np.zeros(1)
    theta[len(theta) // 2] = 0.0
    low, high = np.maximum(x[0], x[0] - theta), np.minimum(x[-1], x[-1] - theta)
    low, high = np.clip(low, x[0], x[-1]), np.clip(high, x[0], x[-1])
    high = np.maximum(low, high)
    base = np.clip(np.stack([low + theta, high + theta]), x[0], x[-1])
    return theta, np.concatenate([hats(x, low, high), -hats(x, base[0], base[1])], axis=1)


@dataclass(frozen=True)
class Compared:
    """Comparisons, each a weighted sum of cell means.

    Args:
        value: (g,) float64.
        error: (g,) float64, standard error.
        df: (g,) float64, Satterthwaite's degrees of freedom.
    """

    value: FloatArray
    error: FloatArray
    df: FloatArray


def compare(stats: Moments, weights: FloatArray, cells: IntArray) -> Compared:
    """Value, standard error and degrees of freedom of weighted sums of cells.

    Args:
        stats: the cells' moments.
        weights: (g, k) float64.
        cells: (k,) int64, the cells that the columns of ``weights`` mean.
    """
    grid = np.ix_(cells, cells)
    seed = ((weights @ stats.seed[grid]) * weights).sum(axis=1)
    item = np.maximum(((weights @ stats.item[grid]) * weights).sum(axis=1), 0.0)
    least = np.where(np.abs(weights) > 1e-12, stats.df_seed[cells], np.inf).min(axis=1)
    squares = seed**2 / np.maximum(least, 1e-9) + item**2 / stats.df_item
    total = seed + item
    df = np.divide(total**2, squares, out=np.ones_like(total), where=squares > 0)
    return Compared(weights @ stats.mean[cells], np.sqrt(total), np.maximum(df, 1.0))


def simultaneous(stats: Moments, weights: FloatArray, level: float, draws: int, rng: np.random.Generator) -> float:
    """The factor by which the quantiles of single intervals grow so that all hold together.

    Args:
        stats: the cells' moments.
        weights: (j, c) float64, the family: one comparison a row, over all cells.
        level: e.g. 0.95.
        draws: how many families are drawn.
        rng: what draws them.

    Returns:
        At least 1: the ``level`` quantile of max |t| / t_quantile, with errors drawn from normal distributions that
        have the estimated covariance of the family, and every comparison studentised by its own drawn seeds.
    """
    if len(weights) < 2:
        return 1.0
    single = compare(stats, weights, np.arange(weights.shape[1]))
    critical = t_quantile((1 - level) / 2, single.df)
    used = np.abs(weights).sum(axis=0) > 1e-12
    df = int(max(stats.df_seed[used].min(), 1))
    between, shared = _root(weights @ stats.seed @ weights.T), _root(weights @ stats.item @ weights.T)
    largest = np.zeros(draws)
    for begin in range(0, draws, 5000):
        z = rng.standard_normal((min(5000, draws - begin), df + 2, len(weights)))
        seen = z[:, 2:] @ between.T
        variance = (seen**2).mean(axis=1) + (shared**2).sum(axis=1)
        error = z[:, 0] @ between.T + z[:, 1] @ shared.T
        t = np.abs(error) / np.sqrt(np.maximum(variance, 1e-300)) / critical
        largest[begin : begin + len(z)] = t.max(axis=1)
    return max(1.0, float(np.quantile(largest, level)))


def _root(covariance: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def estimate(theta: FloatArray, value: FloatArray) -> float | None:
    """The shift at which comparisons go from above zero to below, or None where they do not.

    Noise can make several crossings; the one kept separates most of what is above zero from most of what is below.

    Args:
        theta: (g,) float64, candidate shifts, increasing.
        value: (g,) float64, comparisons.
    """
    best = int(np.argmax(np.concatenate([[0.0], np.cumsum(value)]))) - 1
    if not 0 <= best < len(value) - 1:
        return None
    return _zero(theta, value, best)


def inversion(theta: FloatArray, compared: Compared, critical: FloatArray) -> tuple[float | None, float | None]:
    """The ends of the set of shifts that the data do not reject; gaps in the set are filled.

    Args:
        theta: (g,) float64, candidate shifts, increasing.
        compared: comparisons; positive where the strategy is better than that shift says.
        critical: (g,) float64, quantiles for |value / error|.

    Returns:
        Lower and upper end; None for an end beyond the candidates.
    """
    # In units of the metric, not of errors: without any error the set is the estimate itself.
    above = compared.value - critical * compared.error
    below = compared.value + critical * compared.error
    low, high = None, None
    if above[0] > 0:
        first = int(np.argmax(above <= 0)) if (above <= 0).any() else len(theta)
        low = float(theta[-1]) if first == len(theta) else _zero(theta, above, first - 1)
    if below[-1] < 0:
        last = int(len(theta) - 1 - np.argmax((below >= 0)[::-1])) if (below >= 0).any() else -1
        high = float(theta[0]) if last == -1 else _zero(theta, below, last)
    return low, high


def _zero(theta: FloatArray, value: FloatArray, index: int) -> float:
    """Where the straight line from candidate ``index`` to the next crosses zero."""
    here, there = value[index], value[index + 1]
    share = here / (here - there) if here != there else 0.5
    return float(theta[index] + share * (theta[index + 1] - theta[index]))
