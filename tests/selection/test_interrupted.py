"""Ctrl-C during a greedy strategy leaves the picks made so far."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from thriftune.selection import registry
from thriftune.selection.run import select

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
WHOLE = ["cluster_margin", "gist", "k_means", "typiclust"]
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


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_picked_one_by_one_gives_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(name, 1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        select(**POOL, strategy=name, budget=60)
