"""Speed, memory and quality of selection beside other libraries.

    python benchmarks/select.py --n 10000 --share 0.45

Every contender runs in a process of its own on the same float32 data with the same kernel width and number of threads;
its time includes building whatever it needs from the embeddings, and loading and compiling code is timed apart. What
it picks is judged here, by one block-wise evaluation of the objective. Peers that are not installed are left out
(pip install apricot-select submodlib-py fpsample).
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # this folder: Python's own module `select` would be looked up here first

import argparse
import importlib.metadata
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WARM = 1500  # rows of the run that loads and compiles
BLOCK = 2048


def clusters(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Points on the sphere in clusters of uneven size and spread, themselves in 40 groups."""

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    count = max(50, n // 60)
    groups = unit(rng.standard_normal((40, d)))
    centres = unit(groups[rng.integers(0, 40, count)] + rng.standard_normal((count, d)) * 0.9 / np.sqrt(d))
    sizes = np.arange(1, count + 1) ** -0.7
    label = rng.choice(count, n, p=sizes / sizes.sum())
    spread = rng.uniform(0.25, 1.2, count)
    x = np.empty((n, d), np.float32)
    for begin in range(0, n, BLOCK):
        part = label[begin : begin + BLOCK]
        x[begin : begin + BLOCK] = unit(
            centres[part] + rng.standard_normal((len(part), d)) * spread[part, None] / np.sqrt(d)
        )
    return x


def sphere(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform on the sphere: no structure at all."""
    x = rng.standard_normal((n, d), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def copies(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Clusters in which nine rows in ten are copies or near copies of the tenth."""
    few = clusters(max(1, n // 10), d, rng)
    x = few[rng.integers(0, len(few), n)]
    near = rng.random(n) < 0.5
    x[near] += rng.standard_normal((int(near.sum()), d), dtype=np.float32) * np.float32(0.01 / np.sqrt(d))
    return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


DATA = {"clusters": clusters, "sphere": sphere, "copies": copies}


def scale_of(x: np.ndarray, gamma: float) -> float:
    """1 / (gamma m), m the mean squared distance between different rows."""
    mean = x.mean(axis=0, dtype=np.float64)
    squared = np.einsum("ij,ij->", x, x, dtype=np.float64) / len(x)
    return 1 / (gamma * 2 * (squared - mean @ mean) * len(x) / (len(x) - 1))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product = a @ b.T
    product *= -2
    product += np.einsum("ij,ij->i", a, a)[:, None]
    product += np.einsum("ij,ij->i", b, b)
    return np.maximum(product, 0, out=product)


def similarities(x: np.ndarray, gamma: float) -> np.ndarray:
    """The n x n matrix that the other libraries start from."""
    w = np.empty((len(x), len(x)), np.float32)
    scale = np.float32(-scale_of(x, gamma))
    for begin in range(0, len(x), BLOCK):
        w[begin : begin + BLOCK] = np.exp(scale * squared_distances(x[begin : begin + BLOCK], x))
    return w


def judge(x: np.ndarray, rows: np.ndarray, gamma: float) -> tuple[float, float]:
    """Mean similarity to the nearest pick, and the largest distance to it."""
    scale, total, radius = scale_of(x, gamma), 0.0, 0.0
    for begin in range(0, len(x), BLOCK):
        block = x[begin : begin + BLOCK]
        nearest = np.full(len(block), np.inf, np.float32)
        for first in range(0, len(rows), 4 * BLOCK):
            nearest = np.minimum(nearest, squared_distances(block, x[rows[first : first + 4 * BLOCK]]).min(axis=1))
        total += float(np.exp(-scale * nearest.astype(np.float64)).sum())
        radius = max(radius, float(nearest.max()))
    return total / len(x), radius**0.5


def _facility(engine: str) -> Callable[..., tuple[np.ndarray, dict[str, Any]]]:
    def run(x: np.ndarray, k: int, gamma: float) -> tuple[np.ndarray, dict[str, Any]]:
        from thriftune.selection.engine.facility import facility_location

        none = np.empty(0, np.int64)
        result = facility_location(x, k, gamma=gamma, chosen=none, engine=engine, advance=lambda _: None)
        return result.rows, {**result.notes, "certified": result.value / result.bound}

    return run


def _k_center(x: np.ndarray, k: int, gamma: float) -> tuple[np.ndarray, dict[str, Any]]:
    from thriftune.selection.engine.farthest import k_center

    return k_center(x, k, chosen=np.empty(0, np.int64), start=0, advance=lambda _: None).rows, {}


def _apricot(x: np.ndarray, k: int, gamma: float) -> tuple[np.ndarray, dict[str, Any]]:
    from apricot import FacilityLocationSelection

    chosen = FacilityLocationSelection(k, metric="precomputed", optimizer="lazy").fit(similarities(x, gamma))
    return chosen.ranking, {}


def _submodlib(x: np.ndarray, k: int, gamma: float) -> tuple[np.ndarray, dict[str, Any]]:
    from submodlib import FacilityLocationFunction

    w = similarities(x, gamma)
    function = FacilityLocationFunction(n=len(x), mode="dense", sijs=w, separate_rep=False)
    picks = function.maximize(budget=min(k, len(x) - 1), optimizer="LazyGreedy", show_progress=False)
    return np.array([row for row, _ in picks]), {}


def _fpsample(x: np.ndarray, k: int, gamma: float) -> tuple[np.ndarray, dict[str, Any]]:
    import fpsample

    return fpsample.fps_sampling(x, k, start_idx=0).astype(np.int64), {}


CONTENDERS: dict[str, tuple[str, str, Callable[..., tuple[np.ndarray, dict[str, Any]]]]] = {
    "exact": ("facility", "thriftune", _facility("exact")),
    "neighbours": ("facility", "thriftune", _facility("neighbours")),
    "apricot": ("facility", "apricot-select", _apricot),
    "submodlib": ("facility", "submodlib-py", _submodlib),
    "k_center": ("centre", "thriftune", _k_center),
    "fpsample": ("centre", "fpsample", _fpsample),
}


def contend(name: str, pool: str, k: int, gamma: float, picks: str) -> None:
    """In a process of its own: run once to load and compile, once for the record; print a JSON line."""
    x = np.load(pool)
    run = CONTENDERS[name][2]
    begun = time.perf_counter()
    run(x[:WARM], WARM // 3, gamma)
    cold = time.perf_counter() - begun
    begun, worked = time.perf_counter(), time.process_time()
    rows, notes = run(x, k, gamma)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - worked
    np.save(picks, rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "cold": cold, "GiB": peak, "notes": notes}, default=str))


def sgemm_rate(d: int, threads: int) -> float:
    """Multiply-adds count two: floating point operations per second of this process's matrix product."""
    a = np.random.default_rng(0).standard_normal((2048 * threads, d), dtype=np.float32)
    out = np.empty((len(a), len(a)), np.float32)
    b = a.copy()
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        np.dot(a, b.T, out=out)
        times.append(time.perf_counter() - begun)
    return 2 * len(a) ** 2 * d / min(times)


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the contenders and print the table."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        environment[f"{name}_NUM_THREADS"] = str(args.threads)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool.npy"
        if args.data in DATA:
            x = DATA[args.data](args.n, args.d, np.random.default_rng(args.seed))
        else:
            x = np.ascontiguousarray(np.load(args.data)[: args.n], np.float32)
        np.save(pool, x)
        n, d = x.shape
        k = round(args.share * n)
        rate = sgemm_rate(d, args.threads)
        floor = 2 * n * n * d / rate
        print(
            f"{n} x {d} float32 ({args.data}), {k} picks, rbf gamma {args.gamma}, {args.threads} threads; "
            f"sgemm {rate / 1e9:.0f} GF/s, one pass over all pairs {floor:.2f} s"
        )
        random, _ = judge(x, np.random.default_rng(1).choice(n, k, replace=False), args.gamma)
        cold = Path(folder) / "numba"
        for name in args.contenders.split(","):
            kind, package, _ = CONTENDERS[name]
            version = installed(package)
            if version is None:
                print(f"{name}: {package} is not installed, left out")
                continue
            ours = package == "thriftune"
            picks = Path(folder) / f"{name}.npy"
            command = [sys.executable, __file__, "--contend", name, str(pool), str(k), str(args.gamma), str(picks)]
            if ours:
                environment["NUMBA_CACHE_DIR"] = str(cold / name)
            runs = []
            for _ in range(1 + ours):  # ours twice: without and with compiled code on disk
                child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if child.returncode:
                    break
                runs.append(json.loads(child.stdout.splitlines()[-1]))
            if child.returncode:
                last = (child.stderr.strip().splitlines() or [f"ended by signal {-child.returncode}"])[-1]
                print(f"{name}: failed: {last}")
                continue
            value, radius = judge(x, np.load(picks), args.gamma)
            best = min(runs, key=lambda r: r["seconds"])
            result = {
                "name": name,
                "kind": kind,
                "version": version,
                "n": n,
                "k": k,
                "value": value,
                "radius": radius,
                **best,
                "compile": runs[0]["cold"],
                "load": runs[-1]["cold"],
                "floor": floor,
            }
            results.append(result)
            print(
                f"{name:<11}{best['seconds']:9.2f} s {best['cpu_seconds']:9.2f} CPU-s {best['GiB']:6.2f} GiB "
                f"{best['seconds'] / floor:6.2f} passes; first run {runs[0]['cold']:.1f} s"
                + (f", {runs[1]['cold']:.1f} s once compiled" if ours else "")
                + (f"; mean similarity {value:.6f}" if kind == "facility" else f"; radius {radius:.6f}")
                + (f"; certified {best['notes']['certified']:.4f}" if "certified" in best["notes"] else "")
            )
        exact = next((r for r in results if r["name"] == "exact"), None)
        if exact:
            for r in results:
                if r["kind"] == "facility" and r is not exact:
                    share = (r["value"] - random) / (exact["value"] - random)
                    print(
                        f"{r['name']}: {r['value'] / exact['value']:.6f} of exact, {share:.5f} above random; "
                        f"exact is {r['seconds'] / exact['seconds']:.2f} times as fast"
                    )
        centre = next((r for r in results if r["name"] == "k_center"), None)
        for r in results:
            if centre and r["kind"] == "centre" and r is not centre:
                print(f"k_center is {r['seconds'] / centre['seconds']:.1f} times as fast as {r['name']}")
    return results


def main() -> None:
    if sys.argv[1:2] == ["--contend"]:
        name, pool, k, gamma, picks = sys.argv[2:]
        contend(name, pool, int(k), float(gamma), picks)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--share", type=float, default=0.45, help="picks as a share of n")
    parser.add_argument("--gamma", type=float, default=0.25)
    parser.add_argument("--data", default="clusters", help=f"{', '.join(DATA)} or an .npy file of embeddings")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    results = compare(args)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1, default=str))


if __name__ == "__main__":
    main()
