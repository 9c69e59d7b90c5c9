"""Counting in directed graphs: what can be got to from a row, and what the votes for a row are worth."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from thriftune.types import BoolArray, FloatArray, IntArray

Array = npt.NDArray[Any]


def spread(
    start: IntArray,
    target: IntArray,
    n: int,
    worlds: int,
    annotated: BoolArray,
    budget: int,
    advance: Callable[[float], None],
) -> tuple[IntArray, FloatArray, bool]:
    """Pick rows that newly reach most rows, over several graphs together.

    Args:
        start, target: ``target[start[w * n + i] : start[w * n + i + 1]]`` are the successors of row i in graph w.
        n: rows.
        worlds: graphs.
        annotated: (n,) rows that are picked already.
        budget: how many to pick, at most.
        advance: called with the number of picks made.

    Returns:
        Rows in pick order, the lowest on ties; how many (row, graph) pairs each newly reached; whether Ctrl-C ended
        it. Fewer than ``budget`` when nothing is left to be reached.
    """
    reached = np.zeros(worlds * n, bool)
    mark = np.full(worlds * n, -1, np.int64)  # the visit that last saw each pair
    stack = np.empty(n, np.int32)
    for begun in np.flatnonzero(annotated):
        visit(begun, start, target, n, worlds, reached, mark, stack, 0, True)
    mark[:] = -1
    visits = 0
    heap: list[tuple[int, int, int]] = []
    rows: list[int] = []
    gains: list[int] = []
    try:
        for one in np.flatnonzero(~annotated).tolist():
            visits += 1
            heap.append((-int(visit(one, start, target, n, worlds, reached, mark, stack, visits, False)), one, 0))
        heapq.heapify(heap)
        while heap and len(rows) < budget:
            gain, row, fresh = heap[0]
            if fresh != len(rows):
                visits += 1
                now = int(visit(row, start, target, n, worlds, reached, mark, stack, visits, False))
                heapq.heapreplace(heap, (-now, row, len(rows)))
                continue
            if gain == 0:
                break
            heapq.heappop(heap)
            visits += 1
            visit(row, start, target, n, worlds, reached, mark, stack, visits, True)
            rows.append(row)
            gains.append(-gain)
            advance(1)
    except KeyboardInterrupt:
        return np.array(rows[: len(gains)], np.int64), np.array(gains, np.float64), True
    return np.array(rows, np.int64), np.array(gains, np.float64), False


@numba.njit(cache=True, nogil=True)
def visit(
    row: int,
    start: Array,
    target: Array,
    n: int,
    worlds: int,
    reached: Array,
    mark: Array,
    stack: Array,
    number: int,
    keep: bool,
) -> int:
    """How many (row, graph) pairs ``row`` newly reaches; marks them as reached if ``keep``.

    What is reached already is not entered: all that can be got to from there is reached too.
    """
    total = 0
    for w in range(worlds):
        base = w * n
        if reached[base + row]:
            continue
        mark[base + row] = number
        stack[0] = row
        size = 1
        while size > 0:
            size -= 1
            at = base + stack[size]
            total += 1
            if keep:
                reached[at] = True
            for p in range(start[at], start[at + 1]):
                successor = base + target[p]
                if not reached[successor] and mark[successor] != number:
                    mark[successor] = number
                    stack[size] = target[p]
                    size += 1
    return total


@numba.njit(cache=True, nogil=True)
def votes_for(row: int, ends: Array, voters: Array, served: Array, votes_still: Array) -> float:
    """Worth of the votes for ``row``: 10^-times for a voter that was served so often.

    Voters are counted by how often they were served, so that equal votes are equal whatever the order of the voters.
    """
    often = np.zeros(24, np.int64)
    total = 0.0
    for p in range(ends[row], ends[row + 1]):
        voter = voters[p]
        if votes_still[voter]:
            times = served[voter]
            if times < 24:
                often[times] += 1
            else:
                total += 10.0**-times
    for times in range(23, -1, -1):
        total += often[times] * 10.0**-times
    return total
