"""ProbCover: as many prompts as possible within a fixed distance of a pick."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from thriftune.progress import progress
from thriftune.selection.registry import strategy
from thriftune.types import BoolArray, Candidates, FloatArray, IntArray, Picks

_PURE = 0.95
_SAMPLE = 1000
_COLUMNS = 8192


@strategy(
    name="prob_cover",
    needs=("embeddings",),
    uses=("weights",),
    source="Yehuda et al. 2022, Active Learning Through a Covering Lens, arXiv 2205.11320",
    prefix=True,
)
def prob_cover(
    candidates: Candidates,
    budget: int,
    rng: np.random.Generator,
    *,
    radius: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = "auto",
    clusters: Annotated[int, Field(ge=2)] = 20,
) -> Picks:
    """Each pick is the prompt with the most prompts around it, within a fixed radius, that no earlier pick covers. Use
    it for small budgets, where the dense regions should be covered and stray prompts left alone.

    ``auto`` takes the largest radius at which 95 % of the balls around prompts stay within one of ``clusters``
    clusters. When all that can be covered is covered, the radius is halved and covering goes on. The gain of a pick is
    the number (or weight) of prompts it newly covers.
    """
    from thriftune.selection.engine.blocks import workers
    from thriftune.selection.engine.lookahead import first_gains, pick_by_batches

    assert candidates.embeddings is not None
    weights = np.ones(len(candidates)) if candidates.weights is None else candidates.weights.astype(np.float64)
    rows: list[int] = []
    gains: list[float] = []
    partial = False
    with progress("prob_cover", budget, "picks") as advance, workers() as run:
        # From the mean: distances are small against far-off coordinates, and single precision would lose them.
        a = candidates.embeddings - candidates.embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        squared = np.einsum("ij,ij->i", a, a)
        reach = _pure_radius(a, clusters) if radius == "auto" else float(radius)
        notes = {"radius": reach}
        smallest = 1e-3 * float(np.sqrt(squared.mean(dtype=np.float64)))
        taken = candidates.annotated.copy()
        while len(rows) < budget and not partial and reach > smallest:
            balls = _Balls(a, squared, reach, weights, run)
            try:
                for row in np.flatnonzero(taken):
                    balls.take(balls.block(np.array([row]))[0], int(row))
                bound = first_gains(balls, ~taken)
            except KeyboardInterrupt:
                partial = True
                break
            more, gained, partial = pick_by_batches(balls, bound, budget - len(rows), advance, least=0.0)
            rows, gains, reach = rows + more, gains + gained, reach / 2
            taken[more] = True
    if not partial:
        rest = np.flatnonzero(~taken)[: budget - len(rows)]
        rows, gains = rows + rest.tolist(), gains + [0.0] * len(rest)
    return Picks(np.array(rows, np.int64), np.array(gains), notes=notes, partial=partial)


def _pure_radius(a: FloatArray, clusters: int) -> float:
    """The largest radius at which 95 % of the balls hold rows of one cluster only."""
    from thriftune.selection.engine.lloyd import k_means

    clustering = k_means(a, clusters, np.random.default_rng(0))
    if clustering.partial:
        raise KeyboardInterrupt  # nothing is picked yet
    labels = clustering.labels
    sample = np.sort(np.random.default_rng(0).choice(len(a), min(len(a), _SAMPLE), replace=False))
    squared = np.einsum("ij,ij->i", a, a)
    other = np.full(len(sample), np.inf, np.float32)  # squared distance to the nearest row of another cluster
    for begin in range(0, len(a), _COLUMNS):
        part = slice(begin, begin + _COLUMNS)
        distance = squared[sample, None] + squared[part] - 2 * (a[sample] @ a[part].T)
        distance[labels[sample, None] == labels[part]] = np.inf
        np.minimum(other, distance.min(axis=1), out=other)
    # A ball is pure up to the nearest row of another cluster; 5 % of the balls may reach theirs.
    found = float(np.sort(other)[int((1 - _PURE) * len(other))])
    if not np.isfinite(found):
        found = 4 * float(squared.max(initial=0))  # one cluster: a ball may hold everything
    return float(np.sqrt(max(found, 0.0)))


class _Balls:
    """Weight of the rows nearer than ``reach`` to what is picked.

    Args:
        a: (n, d) float32.
        squared: (n,) squared lengths.
        reach: radius, itself excluded.
        weights: (n,).
        run: threads.
    """

    def __init__(self, a: FloatArray, squared: FloatArray, reach: float, weights: FloatArray, run: Any) -> None:
        self.a, self.squared, self.limit, self.run = a, squared, np.float32(reach * reach), run
        self.left = weights.astype(np.float64)  # of the rows that are not covered

    def block(self, rows: IntArray) -> BoolArray:
        n = len(self.a)
        found: npt.NDArray[np.bool_] = np.empty((len(rows), n), bool)

        def part(begin: int) -> None:
            columns = slice(begin, begin + _COLUMNS)
            product = self.a[rows] @ self.a[columns].T
            found[:, columns] = self.squared[rows, None] + self.squared[columns] - 2 * product < self.limit

        self.run(part, range(0, n, _COLUMNS))
        found[np.arange(len(rows)), rows] = True
        return found

    def gains(self, block: BoolArray, rows: IntArray) -> FloatArray:
        return np.array([float(self.left[line].sum()) for line in block])

    def take(self, line: BoolArray, row: int) -> None:
        self.left[line] = 0
