"""How much of the pool a row is compared with: what is said of it, against comparing everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from thriftune.selection.engine import reach
from thriftune.selection.engine.blocks import workers
from thriftune.selection.engine.facility import facility_location
from thriftune.selection.engine.greedy import Greedy, finish
from thriftune.selection.engine.neighbours import neighbour_graph
from thriftune.selection.engine.width import similarity

NONE = np.empty(0, np.int64)


def pool(n: int, clusters: int) -> Any:
    """Unit vectors (n, 16), in ``clusters`` or, for 0, without any structure."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 16))
    if clusters:
        x = rng.normal(size=(clusters, 16))[rng.integers(0, clusters, n)] + 0.3 * x
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def found(x: Any, degree: int, kernel: str) -> tuple[float, dict[str, Any]]:
    """Share of the true neighbours in the graph, and its notes."""
    w = x @ x.T
    true = np.argsort(-w, axis=1)[:, :degree]
    notes: dict[str, Any] = {}
    with workers() as run:
        index, _ = neighbour_graph(similarity(x, kernel, 0.5, 9), degree, run, notes)
    return float(np.mean([len(set(a) & set(b)) / degree for a, b in zip(index, true, strict=True)])), notes


@pytest.mark.parametrize("kernel", ["rbf", "cosine"])
@pytest.mark.parametrize("clusters", [0, 12])
def test_nearly_all_neighbours_are_found_with_and_without_clusters(clusters: int, kernel: str) -> None:
    share, notes = found(pool(3000, clusters), 20, kernel)
    assert share > 0.97
    assert notes["recall"] == pytest.approx(share, abs=0.02)


def test_where_that_takes_too_long_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_MOST", 3000 * 700 * 16)
    share, notes = found(pool(3000, 0), 20, "rbf")
    assert share < 0.9
    assert notes["recall"] == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(("budget", "gamma"), [(6, 2.0), (40, 0.5), (200, 0.2)])
def test_the_bound_of_a_graph_holds_for_all_pairs(budget: int, gamma: float) -> None:
    x = pool(700, 0)
    exact, graph = (
        facility_location(x, budget, gamma=gamma, chosen=NONE, engine=engine, advance=lambda _: None)
        for engine in ("exact", "neighbours")
    )
    assert graph.bound >= exact.value * (1 - 1e-6)
    assert graph.value <= exact.bound * (1 + 1e-6)
    assert graph.value > 0.95 * exact.value


def test_pairs_that_lists_lack_count_in_the_bound() -> None:
    # Three rows alike by 0.9, and lists that know of each row only that it is itself: one pick is worth 2.8.
    lists = (np.arange(3), np.ones(3, np.int32), np.arange(3, dtype=np.int32), np.ones(3, np.float32))
    bounds = []
    for floor in (None, np.ones(3, np.float32), np.full(3, 0.9, np.float32)):
        state = Greedy(np.zeros(3, np.float32), np.zeros(3, bool))
        copies = (lists[0].copy(), lists[1].copy(), lists[2].copy(), lists[3].copy())
        with workers() as run:
            finish(copies, np.ones(3, np.float32), state, 1, run, lambda _: None, floor=floor)
        assert state.rows == [0]
        bounds.append(state.bound)
    assert bounds == pytest.approx([1.0, 3.0, 2.8])
