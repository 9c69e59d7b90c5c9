"""The measured line of strategies."""

from __future__ import annotations

from typing import Any

import pytest

from thriftune.selection import measured, registry
from thriftune.selection.present import facts


def row(n: int, seconds: float, gib: float = 0.2) -> dict[str, float]:
    return {"n": n, "cpu_seconds": seconds, "gib": gib}


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {
        "machine": "2 threads on a test",
        "dimensions": 384,
        "share": 0.015,
        "limit_cpu_seconds": 600.0,
        "strategies": {},
    }
    monkeypatch.setattr(measured, "_record", lambda: found)
    return found


def test_times_at_both_sizes(record: dict[str, Any]) -> None:
    record["strategies"]["k_center"] = [row(10_000, 0.06), row(30_000, 0.9), row(100_000, 12.4, 1.31)]
    line = "10,000 prompts less than 0.1 s, 0.2 GiB; 100,000 prompts 12 s, 1.3 GiB"
    assert measured.measured("k_center") == line
    assert f"measured: {line}" in facts(registry.get("k_center"))
    assert "(2 threads on a test, 384 dimensions, 1.5% of the prompts picked)" in measured.conditions()


def test_what_takes_too_long_says_how_it_grew(record: dict[str, Any]) -> None:
    record["strategies"]["k_center"] = [row(10_000, 10), row(30_000, 270)]
    assert measured.measured("k_center") == (
        "10,000 prompts 10 s, 0.2 GiB; 30,000 prompts 270 s, 0.2 GiB; not at 100,000: time grew as the number of "
        "prompts to the power of 3.0, more than 10 minutes are expected"
    )
    record["strategies"]["k_center"] = [row(10_000, 10), row(30_000, 20)]
    assert measured.measured("k_center") == "10,000 prompts 10 s, 0.2 GiB; 30,000 prompts 20 s, 0.2 GiB"


def test_nothing_is_said_of_what_was_not_measured(record: dict[str, Any]) -> None:
    assert measured.measured("k_center") == ""
    assert measured.conditions() == ""
    assert not any(line.startswith("measured") for line in facts(registry.get("k_center")))


def test_the_record_holds_every_strategy() -> None:
    for strategy in registry.strategies().values():
        assert not strategy.built_in or measured.measured(strategy.name).startswith("10,000 prompts "), strategy.name
