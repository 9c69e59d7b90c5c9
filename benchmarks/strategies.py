"""How long each strategy takes, for `thriftune strategies NAME` and docs/strategies.md.

    python benchmarks/strategies.py

Each measurement is a process of its own on clustered points, with two threads; what compiles is compiled before. What
was measured is kept in src/thriftune/selection/measured.json after every one, and the same command goes on from there;
--again NAME measures a strategy anew. A size is left out when the sizes before it say that it takes more than ten
minutes of CPU time.
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # this folder: Python's own module `select` would be looked up here first

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from thriftune.selection.measured import expected

RECORD = Path(__file__).parents[1] / "src" / "thriftune" / "selection" / "measured.json"
SIZES = (10_000, 30_000, 100_000)
DIMENSIONS = 384
SHARE = 0.015
LIMIT = 600.0  # CPU seconds
SMALL = 1_500  # rows of the run that compiles
QUICK = 1.0  # CPU seconds
THREADS = 2


def points(n: int) -> np.ndarray:
    """(n, 384) float32 of unit length, in clusters of uneven size and spread."""
    rng = np.random.default_rng(0)
    count = max(50, n // 60)
    centres = rng.standard_normal((count, DIMENSIONS)).astype(np.float32)
    sizes = np.arange(1, count + 1) ** -0.7
    label = rng.choice(count, n, p=sizes / sizes.sum())
    x = centres[label] + rng.uniform(0.3, 1.2, (count, 1)).astype(np.float32)[label] * rng.standard_normal(
        (n, DIMENSIONS), dtype=np.float32
    )
    found: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found


def one(name: str, n: int) -> dict[str, float]:
    """Measure a strategy at one size, in this process."""
    from thriftune.selection import registry
    from thriftune.selection.run import select
    from thriftune.study import SCORE_COLUMNS

    rng = np.random.default_rng(1)
    tasks = rng.integers(0, 60, n)
    lengths = rng.integers(5, 400, n)
    scores = {column: rng.random(n).astype(np.float32) for column in SCORE_COLUMNS}
    x = points(n)

    def run(size: int) -> None:
        params: dict[str, Any] = {}
        for parameter in registry.get(name).parameters.values():
            if parameter.required:
                params[parameter.name] = list(range(0, size, 50)) if parameter.prompts else "mean_nll"
        select(
            embeddings=x[:size],
            scores={column: values[:size] for column, values in scores.items()},
            tasks=[f"task {t}" for t in tasks[:size]],
            lengths=lengths[:size],
            strategy=name,
            budget=round(SHARE * size),
            **params,
        )

    run(SMALL)
    began = time.process_time()
    run(n)
    return {
        "n": n,
        "cpu_seconds": round(time.process_time() - began, 3),
        "gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def following(rows: list[dict[str, float]]) -> float:
    """The size to measure next; infinite when all are done."""
    if rows and rows[-1]["n"] == SIZES[0] and rows[-1]["cpu_seconds"] < QUICK:
        return SIZES[-1]  # needs no step on the way
    return next((n for n in SIZES if not rows or n > rows[-1]["n"]), math.inf)


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:
            model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{THREADS} threads on {model}"


def save(record: dict[str, Any], file: Path) -> None:
    from thriftune.artifacts import write_json

    write_json(file, {**record, "strategies": dict(sorted(record["strategies"].items()))})


def main() -> None:
    from thriftune.selection import registry

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--again", metavar="NAME", action="append", default=[], help="measure this one anew")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="no size beyond this")
    parser.add_argument("--record", type=Path, default=RECORD, help="where figures are kept [%(default)s]")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one, asked.n)))
        return
    record = json.loads(asked.record.read_text()) if asked.record.exists() else {"strategies": {}}
    record |= {
        "machine": machine(),
        "dimensions": DIMENSIONS,
        "share": SHARE,
        "limit_cpu_seconds": LIMIT,
        "versions": {package: metadata.version(package) for package in ("numpy", "numba")},
    }
    done: dict[str, list[dict[str, float]]] = record["strategies"]
    for name in asked.again:
        done.pop(name, None)
    for strategy in registry.strategies().values():
        if strategy.built_in:
            done.setdefault(strategy.name, [])
    limited = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    failed: set[str] = set()
    while True:
        # What is quickest first.
        jobs = [(expected(rows, n), name, n) for name, rows in done.items() if (n := following(rows)) <= asked.largest]
        jobs = [job for job in sorted(jobs) if job[0] <= LIMIT and job[1] not in failed]
        if not jobs:
            return
        _, name, n = jobs[0]
        command = [sys.executable, __file__, "--one", name, "--n", str(n)]
        out = subprocess.run(command, env={**os.environ, **limited}, capture_output=True, text=True, check=False)
        if out.returncode:
            print(f"{name} at {n:,}: {out.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True)
            failed.add(name)
            continue
        done[name].append(json.loads(out.stdout))
        print(
            f"{name:30} {n:8,} {done[name][-1]['cpu_seconds']:9.2f} CPU s {done[name][-1]['gib']:6.2f} GiB", flush=True
        )
        save(record, asked.record)


if __name__ == "__main__":
    main()
