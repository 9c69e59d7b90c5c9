"""What strategies were measured to take, by benchmarks/strategies.py."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

_WANTED = (10_000, 100_000)


@cache
def _record() -> dict[str, Any]:
    file = Path(__file__).with_name("measured.json")
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {"strategies": {}}


def measured(name: str) -> str:
    """CPU time and memory of a strategy in one line, e.g. ``10,000 prompts 1.4 s, 0.4 GiB; ...``; empty if unknown."""
    rows = _record()["strategies"].get(name, [])
    if not rows:
        return ""
    known = {row["n"]: row for row in rows}
    said = [_one(known[n]) for n in _WANTED if n in known]
    largest, limit = rows[-1], _record()["limit_cpu_seconds"]
    if largest["n"] not in _WANTED:
        said.append(_one(largest))
    if len(rows) > 1 and largest["n"] < _WANTED[-1] and expected(rows, _WANTED[-1]) > limit:
        power = f"{growth(rows):.1f}"
        said.append(
            f"not at {_WANTED[-1]:,}: time grew as the number of prompts to the power of {power}, more than "
            f"{limit / 60:g} minutes are expected"
        )
    return "; ".join(said)


def growth(rows: list[dict[str, float]]) -> float:
    """The power of the number of prompts that CPU time grew as between the last two sizes; 2 from a single one."""
    if len(rows) < 2:
        return 2.0
    return math.log(rows[-1]["cpu_seconds"] / rows[-2]["cpu_seconds"]) / math.log(rows[-1]["n"] / rows[-2]["n"])


def expected(rows: list[dict[str, float]], n: float) -> float:
    """CPU seconds at ``n`` prompts, by what smaller numbers took; 0 where nothing is known."""
    return rows[-1]["cpu_seconds"] * (n / rows[-1]["n"]) ** growth(rows) if rows else 0.0


def conditions() -> str:
    """What the figures hold for, in one clause; empty if nothing was measured."""
    record = _record()
    if not record["strategies"]:
        return ""
    return (
        f"CPU time, threads added up, and peak memory ({record['machine']}, {record['dimensions']} dimensions, "
        f"{record['share']:.1%} of the prompts picked)"
    )


def _one(row: dict[str, float]) -> str:
    seconds = row["cpu_seconds"]
    took = "less than 0.1" if seconds < 0.1 else f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}"
    return f"{row['n']:,} prompts {took} s, {row['gib']:.1f} GiB"
