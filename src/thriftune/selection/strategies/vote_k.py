"""Vote-k: prompts that many others have among their nearest, each vote counting less once it is served."""

from __future__ import annotations

import heapq
from typing import Annotated

import numpy as np
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import Candidates, IntArray, Picks


@strategy(
    name="vote_k",
    needs=("embeddings",),
    source="Su et al. 2022, Selective Annotation Makes Language Models Better Few-Shot Learners, arXiv 2209.01975",
    prefix=True,
    by_angle=True,
)
def vote_k(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    neighbours: Annotated[int, Field(ge=1)] = 150,
) -> Picks:
    """Each pick is the prompt with the most votes: every prompt votes for its ``neighbours`` nearest, and a vote counts
    a tenth as much for each pick that the voter has got. Use it to choose examples that others can be answered from.

    This is the paper's graph stage (fast vote-k) for all picks. Its second stage asks the model again with the first
    answers as examples, which choosing everything at once cannot. The gain of a pick is the votes it got.
    """
    from thriftune.selection.engine.blocks import workers
    from thriftune.selection.engine.nearest import nearest

    assert candidates.embeddings is not None
    n = len(candidates)
    with progress("vote_k", budget, "picks") as advance:
        with workers() as run:
            graph, _ = nearest(candidates.embeddings, min(neighbours, n - 1), run)
        booth = _Booth(graph)
        for answered in np.flatnonzero(candidates.annotated):
            booth.serve(int(answered))
        # Votes only lose worth, so an old count is an upper bound: the best one is counted again until it stays best.
        free: list[int] = np.flatnonzero(~candidates.annotated).tolist()
        heap = [(-booth.votes(row), row, 0) for row in free]
        heapq.heapify(heap)
        rows: list[int] = []
        gains: list[float] = []
        try:
            while len(rows) < budget:
                votes, row, counted = heap[0]
                if counted != len(rows):
                    heapq.heapreplace(heap, (-booth.votes(row), row, len(rows)))
                    continue
                heapq.heappop(heap)
                booth.serve(row)
                rows.append(row)
                gains.append(-votes)
                advance(1)
        except KeyboardInterrupt:
            return Picks(np.array(rows[: len(gains)], np.int64), np.array(gains), partial=True)
    return Picks(np.array(rows, np.int64), np.array(gains))


class _Booth:
    """Who votes for whom, and what a vote is worth.

    Args:
        graph: (n, k) rows that each row votes for, -1 for none.
    """

    def __init__(self, graph: IntArray) -> None:
        from thriftune.selection.engine.graphs import votes_for

        self.count = votes_for
        n = len(graph)
        found = graph >= 0
        voter = np.repeat(np.arange(n), found.sum(axis=1))
        self.voters = voter[np.argsort(graph[found], kind="stable")]  # by whom they vote for
        self.ends = np.concatenate([[0], np.cumsum(np.bincount(graph[found], minlength=n))])
        self.served = np.zeros(n, np.int64)
        self.votes_still = np.ones(n, bool)

    def votes(self, row: int) -> float:
        """Worth of all votes for ``row``."""
        return float(self.count(row, self.ends, self.voters, self.served, self.votes_still))

    def serve(self, row: int) -> None:
        """Take ``row``: it votes no more, and those that voted for it count a tenth."""
        self.served[self.voters[self.ends[row] : self.ends[row + 1]]] += 1
        self.votes_still[row] = False
