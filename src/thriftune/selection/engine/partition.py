"""Greedy on a graph of neighbours that is larger than memory: in parts, merged, and with a certificate of its own.

The graph goes to disk, share by share. Greedy in each part of the pool proposes picks (Mirzasoleiman et al. 2013, with
parts of rows that are near each other instead of random ones, so that few neighbours are in another part); greedy among
all that was proposed, on whatever edges lead to it, decides. What that is worth is then counted over all pairs.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from thriftune.selection.engine import tiles
from thriftune.selection.engine.blocks import Run, free_memory
from thriftune.selection.engine.greedy import Greedy, Lists, finish
from thriftune.selection.engine.neighbours import neighbours_by_shares, reverse
from thriftune.selection.engine.sharing import helped
from thriftune.selection.engine.width import Similarity
from thriftune.types import FloatArray, IntArray

_TILE = 1024
_BLOCK = 2**15  # rows of a block of pairs that one machine counts
_EDGE = 24.0  # bytes an edge takes while greedy runs
_DEGREES = (32, 128)
_PREFIXES = (0.125, 0.25, 0.5, 1.0)  # of the picks, after which everyone's gain is counted
_SPARE = 2  # proposals for each pick


def parts_needed(n: int, budget: int) -> int:
    """In how many parts the graph of a pool of ``n`` rows fits into memory, one at a time."""
    free = free_memory()
    if _EDGE * n * min(n, _DEGREES[0]) <= 0.6 * free:
        return 1
    return math.ceil(_EDGE * n * _degree(n, budget) / (0.3 * free))


def _degree(n: int, budget: int) -> int:
    return min(n, max(_DEGREES[0], min(_DEGREES[1], math.ceil(5 * n / max(budget, 1)))))


def partitioned(
    sim: Similarity,
    u: FloatArray,
    state: Greedy,
    budget: int,
    parts: int,
    run: Run[Any],
    advance: Callable[[float], None],
) -> None:
    """Pick until there are ``budget`` picks, or until nothing that was proposed gains.

    Args:
        sim: the pool.
        u: (n,) float32 weights.
        state: where to begin; extended. Gains are the graph's; ``value`` and ``bound`` count all pairs.
        budget: how many picks there should be in the end.
        parts: how many parts, see `parts_needed`.
        run: threads.
        advance: called with the number of picks made.
    """
    n = len(sim)
    degree = _degree(n, budget)
    begun, value, cover = len(state.rows), state.value, state.cover.copy()
    with tempfile.TemporaryDirectory(prefix="thriftune-") as folder:
        shares = []
        for number, share in enumerate(neighbours_by_shares(sim, degree, run, state.notes)):
            for name, array in zip(("rows", "index", "value"), share, strict=True):
                np.save(Path(folder) / f"{number}-{name}.npy", array)
            shares.append((int(share[0].min()), len(share[0]), Path(folder) / f"{number}"))
        shares.sort()  # helpers finish in any order
        proposed = np.zeros(n, bool)
        for some in _grouped(shares, n / parts):
            proposed[_propose(some, u, state, budget - begun, run)] = True
        lists = _edges([file for _, _, file in shares], proposed, state.cover)
    finish(lists, u, state, budget, run, advance)
    _certify(sim, u, state, budget, np.array(state.rows[begun:], np.int64), value, cover, run)
    state.notes.update(degree=degree, partitions=parts, proposed=int(proposed.sum()))


def _certify(
    sim: Similarity,
    u: FloatArray,
    state: Greedy,
    budget: int,
    picks: IntArray,
    value: float,
    cover: FloatArray,
    run: Run[Any],
) -> None:
    """What ``picks`` add to ``value`` and ``cover``, and what any could, over all pairs."""
    weights = u.astype(np.float64)
    ends = sorted({math.ceil(len(picks) * share) for share in _PREFIXES})
    covers: list[FloatArray] = []
    values, free = [], []
    for begin, end in zip([0, *ends], ends, strict=False):
        covers.append(true_cover(sim, picks[begin:end], covers[-1] if covers else cover, run))
        values.append(value + float(weights @ (covers[-1] - cover).astype(np.float64)))
        free.append(~state.taken)
        free[-1][picks[end:]] = True
    state.bound = np.inf
    for known, gains, left in zip(values, all_gains(sim, u, np.stack(covers), run), free, strict=True):
        state.value = known
        state.bound_by(gains[left], budget)
    state.cover = covers[-1]


def _grouped(shares: list[tuple[int, int, Path]], size: float) -> list[list[Path]]:
    """Shares together, up to about ``size`` rows."""
    groups: list[list[Path]] = []
    rows = math.inf
    for _, count, file in shares:
        if rows + count > size:
            groups.append([])
            rows = 0
        groups[-1].append(file)
        rows += count
    return groups


def _load(file: Path) -> tuple[IntArray, IntArray, FloatArray]:
    rows, index, value = (np.load(f"{file}-{name}.npy") for name in ("rows", "index", "value"))
    return rows, index, value


def _propose(files: list[Path], u: FloatArray, state: Greedy, budget: int, run: Run[Any]) -> IntArray:
    """What greedy picks in a part of the pool, by the edges inside it."""
    rows, index, value = (np.concatenate(column) for column in zip(*map(_load, files), strict=True))
    order = np.argsort(rows)
    rows, index, value = rows[order], index[order], value[order]
    place = np.full(len(u) + 1, -1, np.int32)
    place[rows] = np.arange(len(rows))
    local = Greedy(state.cover[rows].copy(), state.taken[rows].copy())
    share = float(u[rows] @ (1 - state.cover[rows])) / max(float(u @ (1 - state.cover)), 1e-300)
    wanted = min(budget, int((~local.taken).sum()), math.ceil(_SPARE * share * budget) + 8)
    finish(reverse(place[index], value, local.cover), u[rows], local, wanted, run, lambda picks: None)
    return rows[np.array(local.rows, np.int64)]


def _edges(files: list[Path], proposed: Any, cover: FloatArray) -> Lists:
    """The edges that lead to what was proposed, by candidate."""
    found = []
    for file in files:
        rows, index, value = _load(file)
        kept = (index >= 0) & proposed[index] & (value > cover[rows, None])
        row, _ = np.nonzero(kept)
        found.append((index[kept], rows[row].astype(np.int32), value[kept]))
    target, row, value = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((row, target))
    length = np.bincount(target, minlength=len(cover)).astype(np.int32)
    return np.cumsum(length, dtype=np.int64) - length, length, row[order], value[order]


def true_cover(sim: Similarity, picks: IntArray, cover: FloatArray, run: Run[Any]) -> FloatArray:
    """(n,) float32: each row's best similarity to ``picks`` (k,), or ``cover`` where that is better."""
    blocks = [slice(b, min(b + _BLOCK, len(sim))) for b in range(0, len(sim), _BLOCK)]
    chosen = [picks[b : b + _BLOCK] for b in range(0, len(picks), _BLOCK)]
    corners = [(i, p) for i in range(len(blocks)) for p in range(len(chosen))]
    after = cover.copy()

    def task(i: int, p: int) -> tuple[Any, ...]:
        rows = _range(blocks[i])
        return sim.take(np.concatenate([rows, chosen[p]])), len(rows)

    tasks = (task(i, p) for i, p in corners)
    for number, best in helped(best_of, tasks, run):
        here = blocks[corners[number][0]]
        np.maximum(after[here], best, out=after[here])
    after[picks] = np.maximum(after[picks], sim.own(picks))
    return after


def all_gains(sim: Similarity, u: FloatArray, covers: FloatArray, run: Run[Any]) -> FloatArray:
    """(states, n) float64: what each row would add under some covers (states, n), counted over all pairs."""
    n = len(sim)
    # Sums in fixed point do not depend on the order in which machines finish.
    unit = 2.0 ** (61 - math.ceil(math.log2(max(float(u.sum(dtype=np.float64)), 1e-300))))
    totals = np.zeros(covers.shape, np.int64)
    blocks = [slice(b, min(b + _BLOCK, n)) for b in range(0, n, _BLOCK)]
    corners = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]

    def task(i: int, j: int) -> tuple[Any, ...]:
        rows = _range(blocks[i]) if i == j else np.concatenate([_range(blocks[i]), _range(blocks[j])])
        return sim.take(rows), len(_range(blocks[i])), i == j, u[rows], covers[:, rows], unit

    for number, (left, right) in helped(pair_gains, (task(i, j) for i, j in corners), run):
        i, j = corners[number]
        totals[:, blocks[i]] += left
        if i != j:
            totals[:, blocks[j]] += right
    return totals / unit


def _range(block: slice) -> IntArray:
    return np.arange(block.start, block.stop)


def best_of(sim: Similarity, rows: int, run: Run[Any]) -> FloatArray:
    """(rows,) float32: the best similarity of each of the first rows to the others."""
    best = np.zeros(rows, np.float32)

    def part(begin: int) -> None:
        here = slice(begin, min(begin + _TILE, rows))
        for p in range(rows, len(sim), _TILE):
            np.maximum(best[here], sim.block(here, slice(p, min(p + _TILE, len(sim)))).max(axis=1), out=best[here])

    run(part, range(0, rows, _TILE))
    return best


def pair_gains(
    sim: Similarity, rows: int, same: bool, u: FloatArray, covers: FloatArray, unit: float, run: Run[Any]
) -> tuple[IntArray, IntArray]:
    """What the first rows add over the others and the others over the first; ``same``: the first over themselves.

    Args:
        sim: first and other rows; u: (n,), covers: (states, n) of them.
        rows: how many are the first.
        unit: what sums are multiplied by before they are rounded.

    Returns:
        (states, rows) and (states, n - rows) int64.
    """
    n = len(sim)
    totals = np.zeros(covers.shape, np.int64)
    begins = range(0, rows, _TILE)
    corners = [(i, j) for i in begins for j in (range(i, rows, _TILE) if same else range(rows, n, _TILE))]
    lock = threading.Lock()

    def tile(corner: tuple[int, int]) -> None:
        i = slice(corner[0], min(corner[0] + _TILE, rows))
        j = slice(corner[1], min(corner[1] + _TILE, n))
        s = sim.block(i, j)
        both = corner[0] != corner[1]
        if not both:
            np.fill_diagonal(s, sim.own(np.arange(i.start, i.stop)))
        gain_i, gain_j = np.zeros((len(covers), s.shape[0])), np.zeros((len(covers), s.shape[1]))
        cover_i, cover_j = np.ascontiguousarray(covers[:, i]), np.ascontiguousarray(covers[:, j])
        tiles.tile_gains(s, both, u[i], u[j], cover_i, cover_j, gain_i, gain_j)
        with lock:
            totals[:, i] += np.rint(gain_i * unit).astype(np.int64)
            if both:
                totals[:, j] += np.rint(gain_j * unit).astype(np.int64)

    run(tile, corners)
    return totals[:, :rows], totals[:, rows:]
