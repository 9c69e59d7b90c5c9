"""Ctrl-C during a greedy strategy leaves the picks made so far."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from thriftune.selection import registry
from thriftune.selection.cut import prefix_closed
from thriftune.selection.engine import lloyd
from thriftune.selection.run import select
from thriftune.study import SCORE_COLUMNS

GREEDY = [
    "d_optimal",
    "dpp",
    "facility_location",
    "filtered_facility_location",
    "filtered_k_center",
    "graph_cut",
    "ideal",
    "k_center",
    "prob_cover",
    "saturated_coverage",
    "uncertain_facility_location",
    "v_optimal",
    "vote_k",
    "weighted_facility_location",
]
POOL: dict[str, Any] = {
    "embeddings": np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32),
    "scores": {name: np.random.default_rng(1).permutation(200) for name in ("mean_entropy", "mean_margin")},
}


def interrupt(name: str, after: float, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[registry.get(name).function.__module__]
    base = {"hybrids": ["facility", "k_center", "hybrids"]}.get(module.__name__.rpartition(".")[2], [])
    modules = [sys.modules[f"thriftune.selection.strategies.{b}"] for b in base] or [module]

    @contextlib.contextmanager
    def stopping(description: str, total: float, unit: str = "") -> Iterator[Callable[[float], None]]:
        made = 0.0

        def advance(amount: float) -> None:
            nonlocal made
            made += amount
            if made >= after:
                raise KeyboardInterrupt

        yield advance

    for m in modules:
        monkeypatch.setattr(m, "progress", stopping)


@pytest.mark.parametrize("name", GREEDY)
def test_what_was_picked_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = select(**POOL, strategy=name, budget=60)
    interrupt(name, 7, monkeypatch)
    part = select(**POOL, strategy=name, budget=60)
    assert part.partial
    assert 7 <= len(part) < 60
    assert part.rows.tolist() == whole.rows[: len(part)].tolist()
    assert part.gains is not None
    assert len(part.gains) == len(part)


@pytest.mark.parametrize(("name", "after"), [("gist", 0.1), ("k_means", 1), ("k_means", 2)])
def test_what_is_refined_as_a_whole_is_kept_as_it_is(name: str, after: float, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = select(**POOL, strategy=name, budget=60)
    interrupt(name, after, monkeypatch)
    part = select(**POOL, strategy=name, budget=60)
    assert part.partial
    assert len(set(part.rows.tolist())) == len(part) == 60
    assert part.rows.tolist() != whole.rows.tolist()


def test_clusters_of_typiclust_that_were_done_give_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt("typiclust", 50, monkeypatch)
    part = select(**POOL, strategy="typiclust", budget=60)
    assert part.partial
    assert 1 <= len(part) < 60
    assert part.gains is not None
    assert (part.gains >= 0).all()


def test_first_centres_drawn_so_far_are_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    passes = lloyd.nearest_centre

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return passes(*arguments)

    monkeypatch.setattr(lloyd, "nearest_centre", stopping)
    monkeypatch.setattr(lloyd, "_SEEDS", 10)
    part = select(**POOL, strategy="k_means", budget=60)
    assert part.partial
    assert 1 <= len(part) <= 11
    monkeypatch.setattr(lloyd, "nearest_centre", passes)
    # cluster_margin needs no more than some clusters.
    calls = 0
    monkeypatch.setattr(lloyd, "nearest_centre", stopping)
    assert select(**POOL, strategy="cluster_margin", budget=60).partial


OURS = [name for name, strategy in registry.strategies().items() if strategy.built_in and not strategy.uses_tasks]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that signals")
@pytest.mark.parametrize("name", OURS)
def test_ctrl_c_at_any_moment_gives_a_valid_selection_or_none(name: str) -> None:
    n = 1200
    rng = np.random.default_rng(0)
    scores = {column: rng.permutation(n).astype(float) for column in SCORE_COLUMNS}
    named = {p.name: [0] if p.prompts else "mean_nll" for p in registry.get(name).parameters.values() if p.required}
    pool = {"embeddings": rng.normal(size=(n, 16)), "scores": scores, "lengths": np.arange(n) + 1, **named}
    whole = select(**pool, strategy=name, budget=150)  # also compiles
    began = time.perf_counter()
    whole = select(**pool, strategy=name, budget=150)
    took = time.perf_counter() - began

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            found = None
            try:
                signal.setitimer(signal.ITIMER_REAL, max(share * took, 1e-4))
                found = select(**pool, strategy=name, budget=150)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                continue  # before there was anything
            assert 1 <= len(set(found.rows.tolist())) == len(found) <= 150
            assert found.partial or len(found) == 150
            if prefix_closed(whole):
                assert found.rows.tolist() == whole.rows[: len(found)].tolist()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
