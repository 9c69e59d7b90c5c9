"""Graphs of neighbours built in shares, by other processes, and greedy on graphs that do not fit into memory."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thriftune import select
from thriftune.errors import ClusterError
from thriftune.selection import ray_crew
from thriftune.selection.engine import facility, join, partition
from thriftune.selection.engine.blocks import workers
from thriftune.selection.engine.neighbours import neighbour_graph
from thriftune.selection.engine.sharing import helpers
from thriftune.selection.engine.width import similarity


def clustered(n: int, d: int = 16, clusters: int = 60) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(clusters, d)) * 2
    return (centres[rng.integers(0, clusters, n)] + rng.normal(size=(n, d))).astype(np.float32)


def locked(value: Any) -> Any:
    """Arrays that were sent cannot be written."""
    for array in value if isinstance(value, tuple) else (value,):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return value


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Helpers that do everything with copies and in another order; and how much each was sent."""
    sent: list[int] = []

    def there(function: Any, tasks: Any) -> Iterator[tuple[int, Any]]:
        copies = [pickle.dumps(task) for task in tasks]
        sent.extend(map(len, copies))
        with workers() as run:
            for number in reversed(range(len(copies))):
                yield number, locked(pickle.loads(pickle.dumps(function(*locked(pickle.loads(copies[number])), run))))

    before = helpers.set(there)
    yield sent
    helpers.reset(before)


@pytest.mark.parametrize("kernel", ["rbf", "cosine"])
def test_a_graph_in_shares_is_the_graph(backwards: list[int], monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    monkeypatch.setattr(join, "_SHARE", 700)
    x = clustered(6000)
    sim = similarity(x, kernel, 0.5, 100)
    with workers() as run:
        there = neighbour_graph(sim, 40, run)
        token = helpers.set(None)
        here = neighbour_graph(sim, 40, run)
        helpers.reset(token)
    assert len(backwards) == 9
    np.testing.assert_array_equal(there[0], here[0])
    np.testing.assert_array_equal(there[1], here[1])


def test_a_cluster_that_loses_a_worker_picks_the_same(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "_SHARE", 700)
    trace = tmp_path / "died"

    class Dying(ray_crew.Hand):
        def call(self, function: Any, task: Any) -> Any:
            if not trace.exists():
                trace.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().call(function, task)

    monkeypatch.setattr(ray_crew, "Hand", Dying)
    x = clustered(6000)
    asked = {"embeddings": x, "strategy": "facility_location", "budget": 300, "engine": "neighbours"}
    here = select(**asked)
    said: list[str] = []
    with ray_crew.on_cluster("local", 2, say=said.append):
        there = select(**asked)
    assert trace.exists() and sum("a worker was lost" in line for line in said) == 1
    assert there.ids.tolist() == here.ids.tolist()
    np.testing.assert_array_equal(there.gains, here.gains)
    assert there.certificate == here.certificate and there.params == here.params and there.notes == here.notes


def test_a_cluster_that_is_not_needed_is_not_asked_for() -> None:
    said: list[str] = []
    with ray_crew.on_cluster("nowhere:1", say=said.append):
        select(embeddings=clustered(200), strategy="facility_location", budget=5)
    assert said == ["--ray was not used: this selection builds no graph of neighbours (see its engine)"]


def test_no_cluster_there() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'thriftune[ray]'")
    asked = {"embeddings": clustered(2000), "strategy": "facility_location", "budget": 5, "engine": "neighbours"}
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127\.0\.0\.1:1'"), ray_crew.on_cluster("127.0.0.1:1"):
        select(**asked)


@pytest.mark.parametrize("budget", [30, 600])
def test_a_graph_larger_than_memory_is_cut_and_certified(
    backwards: list[int], monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(join, "_SHARE", 400)
    monkeypatch.setattr(partition, "_BLOCK", 1500)
    n = 2500
    x = clustered(n)
    weights = np.random.default_rng(1).uniform(0.5, 2, n)
    chosen = np.array([5, 17])

    def run(engine: str) -> Any:
        return facility.facility_location(
            x, budget, gamma=0.25, weights=weights, chosen=chosen, engine=engine, advance=lambda picks: None
        )

    exact = run("exact")
    monkeypatch.setattr(partition, "free_memory", lambda: 24.0 * n * 32)  # a graph is cut
    cut = run("neighbours")
    backwards.clear()
    token = helpers.set(None)
    again = run("neighbours")
    helpers.reset(token)
    assert not backwards
    assert cut.notes["partitions"] == (14 if budget == 30 else 4) and budget < cut.notes["proposed"] < 3 * budget + 64
    assert len(set(cut.rows.tolist()) - set(chosen.tolist())) == budget
    np.testing.assert_array_equal(cut.rows, again.rows)
    assert (cut.value, cut.bound) == (again.value, again.bound)

    # All pairs, by hand.
    squared = ((x**2).sum(1)[:, None] + (x**2).sum(1) - 2 * x @ x.T).astype(np.float64)
    w = np.exp(-np.maximum(squared, 0) / (0.25 * squared.sum() / (n * (n - 1))))
    start = w[:, chosen].max(axis=1)

    def value(rows: Any) -> float:
        return float(weights @ (np.maximum(start, w[:, rows].max(axis=1)) - start))

    assert cut.value == pytest.approx(value(cut.rows), rel=1e-4)
    assert cut.value >= 0.97 * exact.value
    assert cut.bound >= exact.value * (1 - 1e-5)
    ends = [len(cut.rows) * e // 8 for e in range(1, 9)]
    bounds = []
    for end in ends:
        cover = np.maximum(start, w[:, cut.rows[:end]].max(axis=1))
        gains = weights @ np.maximum(w - cover[:, None], 0)
        bounds.append(value(cut.rows[:end]) + np.sort(gains)[-budget:].sum())
    assert cut.bound >= min(bounds) * (1 - 1e-4)
    assert cut.bound <= min(bounds[1], bounds[3], bounds[7]) * 1.02
