"""Speed, memory and quality of selection beside other libraries, and the distance to our goals.

    python benchmarks/select.py                          # every case; the largest take many minutes and 6 GiB
    python benchmarks/select.py --case fl-10k,kc-10k     # some
    python benchmarks/select.py --markdown table.md --json results.json
    python benchmarks/select.py --data my.npy --picks 500 --contenders exact,neighbours

Every contender runs in a process of its own on the same float32 data with the same kernel width and number of threads;
its time includes building whatever it needs from the embeddings, and loading and compiling code is timed apart. What
it picks is judged here, by one evaluation of the objective; on more than 20,000 rows over a sample of 5,000 of them.
CPU seconds add up all threads and hold on a busy machine too, where seconds mean little.
Peers that are not installed are left out (pip install apricot-select submodlib-py fpsample).
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # this folder: Python's own module `select` would be looked up here first

import argparse
import datetime
import importlib.metadata
import json
import os
import resource
import runpy
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WARM = 1500  # rows of the run that loads and compiles
BLOCK = 2048
JUDGED = 5000
DATA = runpy.run_path(str(Path(__file__).with_name("select_pools.py")))["DATA"]

# name: data, rows, dimensions, picks, contenders, goals in words
CASES: dict[str, tuple[str, int, int, int, str, str]] = {
    "fl-10k": (
        "clusters", 10_000, 384, 4500, "exact,neighbours,local,apricot,submodlib",
        "exact <= 0.6 s and 0.4 GB, >= 8x apricot, >= 12x submodlib; neighbours <= 0.1 s",
    ),
    "kc-10k": ("clusters", 10_000, 384, 4500, "k_center,fpsample", "k_center >= 80x the fastest other"),
    "sphere-10k": ("sphere", 10_000, 384, 4500, "exact,neighbours,apricot,k_center,fpsample", ""),
    "copies-10k": ("copies", 10_000, 384, 4500, "exact,neighbours,apricot,k_center,fpsample", ""),
    "wide-10k": ("clusters", 10_000, 4096, 4500, "exact,neighbours,apricot,k_center", ""),
    "prompts-44k": ("prompts", 44_000, 384, 4400, "exact,neighbours,k_center", ""),
    "everyday-50k": (
        "clusters", 50_000, 384, 750, "exact,neighbours", "neighbours >= 0.995 of exact above random",
    ),
    "fl-100k": (
        "clusters", 100_000, 384, 45_000, "exact,neighbours",
        "exact <= 60 s and 4 GB; neighbours <= 2 s at >= 0.999 of exact",
    ),
    "kc-100k": ("clusters", 100_000, 384, 45_000, "k_center", "<= 4 s"),
    "everyday-200k": (
        "clusters", 200_000, 384, 3000, "exact,neighbours", ">= 0.99 of exact above random in <= 120 s and 6 GB",
    ),
    "fl-1m": (
        "clusters", 1_000_000, 384, 450_000, "neighbours", "<= 45 s, <= 6 GB, >= 0.98 of the true neighbours found",
    ),
    "kc-1m": ("clusters", 1_000_000, 384, 100_000, "k_center", "<= 100 s"),
}  # fmt: skip


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
    """Mean similarity to the nearest pick, and the largest distance to it, over all rows or a sample."""
    scale, total, radius = scale_of(x, gamma), 0.0, 0.0
    over = x if len(x) <= 20_000 else x[np.sort(np.random.default_rng(2).choice(len(x), JUDGED, replace=False))]
    for begin in range(0, len(over), BLOCK):
        block = over[begin : begin + BLOCK]
        nearest = np.full(len(block), np.inf, np.float32)
        for first in range(0, len(rows), 4 * BLOCK):
            nearest = np.minimum(nearest, squared_distances(block, x[rows[first : first + 4 * BLOCK]]).min(axis=1))
        total += float(np.exp(-scale * nearest.astype(np.float64)).sum())
        radius = max(radius, float(nearest.max()))
    return total / len(over), radius**0.5


def recall(x: np.ndarray, index: np.ndarray) -> float:
    """Share of the nearest rows, themselves included, of 300 rows that a graph (n, degree) holds."""
    rows = np.sort(np.random.default_rng(3).choice(len(x), min(len(x), 300), replace=False))
    degree = index.shape[1]
    best, who = np.full((len(rows), degree), np.inf, np.float32), np.zeros((len(rows), degree), np.int64)
    for first in range(0, len(x), 16 * BLOCK):
        distance = np.hstack([best, squared_distances(x[rows], x[first : first + 16 * BLOCK])])
        ids = np.hstack(
            [
                who,
                np.broadcast_to(
                    np.arange(first, first + distance.shape[1] - degree), (len(rows), distance.shape[1] - degree)
                ),
            ]
        )
        kept = np.argpartition(distance, degree - 1, axis=1)[:, :degree]
        best, who = np.take_along_axis(distance, kept, axis=1), np.take_along_axis(ids, kept, axis=1)
    return float(np.mean([len(set(w) & set(index[r])) / degree for w, r in zip(who, rows, strict=True)]))


def _facility(engine: str, kernel: str = "rbf") -> Callable[..., tuple[np.ndarray, dict[str, Any]]]:
    def run(x: np.ndarray, k: int, gamma: float) -> tuple[np.ndarray, dict[str, Any]]:
        from thriftune.selection.engine import facility

        found, build = [], facility.neighbour_graph

        def keep(*args: Any) -> Any:
            found[:] = [build(*args)]
            return found[0]

        facility.neighbour_graph = keep
        none = np.empty(0, np.int64)
        result = facility.facility_location(
            x, k, kernel=kernel, gamma=gamma, chosen=none, engine=engine, advance=lambda _: None
        )
        facility.neighbour_graph = build
        return result.rows, {**result.notes, "certified": result.value / result.bound, "graph": found}

    return run


def _k_center(x: np.ndarray, k: int, gamma: float) -> tuple[np.ndarray, dict[str, Any]]:
    from thriftune.selection.engine.farthest import k_center

    result = k_center(x, k, chosen=np.empty(0, np.int64), start=0, advance=lambda _: None)
    return result.rows, {"radius": result.radius}


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
    "local": ("facility", "thriftune", _facility("exact", "local")),  # judged by the same objective, not its own
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
    graph = notes.pop("graph", [])
    if graph and len(graph[0][0]) == len(x):  # without copies
        notes["recall"] = recall(x, graph[0][0])
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "cold": cold, "GiB": peak, "notes": notes}, default=str))


def sgemm_rate(d: int, threads: int) -> float:
    """Multiply-adds count two: floating point operations per CPU second, hence of one core, of NumPy's product."""
    a = np.random.default_rng(0).standard_normal((2048 * threads, d), dtype=np.float32)
    out = np.empty((len(a), len(a)), np.float32)
    b = a.copy()
    times = []
    for _ in range(7):
        begun = time.process_time()
        np.dot(a, b.T, out=out)
        times.append(time.process_time() - begun)
    return 2 * len(a) ** 2 * d / min(times)


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run the contenders of a case and print what they did."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        environment[f"{library}_NUM_THREADS"] = str(args.threads)
    data, n, d, k, contenders, goal = CASES[name]
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        pool = Path(folder) / "pool.npy"
        made = DATA[data](n, d, np.random.default_rng(0)) if data in DATA else np.load(data)
        np.save(pool, np.ascontiguousarray(made, np.float32))
        del made
        x = np.load(pool, mmap_mode="r")
        n, d = x.shape
        rate = sgemm_rate(d, args.threads)
        floor = 2 * n * n * d / rate
        random, _ = judge(x, np.random.default_rng(1).choice(n, k, replace=False), args.gamma)
        case: dict[str, Any] = {"case": name, "data": data, "n": n, "d": d, "k": k, "goal": goal, "rate": rate}
        case.update(floor=floor, random=random, load=os.getloadavg()[0], results=[])
        print(
            f"\n{name}: {n} x {d} float32 ({data}), {k} picks, rbf gamma {args.gamma}, {args.threads} threads; "
            f"sgemm {rate / 1e9:.0f} GF/s a core, one pass over all pairs {floor:.2f} CPU-s",
            flush=True,
        )
        for contender in (args.contenders or contenders).split(","):
            result = _run(contender, pool, k, args, environment, Path(folder))
            if result is None:
                continue
            result["value"], result["radius"] = judge(x, np.load(Path(folder) / f"{contender}.npy"), args.gamma)
            result["radius"] = result["notes"].get("radius", result["radius"])
            case["results"].append(result)
            print("  " + _line(result, case), flush=True)
    return case


def _run(
    name: str, pool: Path, k: int, args: argparse.Namespace, environment: dict[str, str], folder: Path
) -> dict[str, Any] | None:
    kind, package, _ = CONTENDERS[name]
    version = installed(package)
    if version is None:
        print(f"  {name}: {package} is not installed, left out")
        return None
    ours = package == "thriftune"
    command = [
        sys.executable,
        __file__,
        "--contend",
        name,
        str(pool),
        str(k),
        str(args.gamma),
        str(folder / f"{name}.npy"),
    ]
    if ours and not args.warm:
        environment = {**environment, "NUMBA_CACHE_DIR": str(folder / "numba" / name)}
    # Small pools twice: the better is kept.
    runs = []
    for _ in range(2 if np.load(pool, mmap_mode="r").shape[0] <= 20_000 else 1):
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if child.returncode:
            last = (child.stderr.strip().splitlines() or [f"ended by signal {-child.returncode}"])[-1]
            print(f"  {name}: failed: {last}", flush=True)
            return None
        runs.append(json.loads(child.stdout.splitlines()[-1]))
    best = min(runs, key=lambda r: r["cpu_seconds"])
    return {"name": name, "kind": kind, "version": version, **best, "first": runs[0]["cold"]}


def _line(r: dict[str, Any], case: dict[str, Any]) -> str:
    """What a contender did, and how it stands beside ours of the same kind that ran before it."""
    said = [
        f"{r['name']:<11}{r['seconds']:8.2f} s {r['cpu_seconds']:8.2f} CPU-s {r['GiB']:5.2f} GiB "
        f"{r['cpu_seconds'] / case['floor']:6.2f} passes; cold start {r['first']:.1f} s",
        f"mean similarity {r['value']:.6f}" if r["kind"] == "facility" else f"radius {r['radius']:.6f}",
    ]
    said += [f"{key} {r['notes'][key]:.4f}" for key in ("certified", "recall") if key in r["notes"]]
    ours = next((o for o in case["results"] if o["kind"] == r["kind"] and o is not r), None)
    if ours and ours["name"] in {"exact", "k_center"}:
        said.append(f"{ours['name']} takes 1/{r['cpu_seconds'] / ours['cpu_seconds']:.1f} of its CPU time")
        if r["kind"] == "facility":
            above = (r["value"] - case["random"]) / (ours["value"] - case["random"])
            said.append(f"{r['value'] / ours['value']:.5f} of exact, {above:.4f} above random")
    return "; ".join(said)


def table(cases: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """The record of a run in Markdown."""
    packages = ("numpy", "numba", "apricot-select", "submodlib-py", "fpsample")
    versions = ", ".join(f"{p} {v}" for p in packages if (v := installed(p)))
    command = "python benchmarks/select.py" + (f" --case {args.case}" if args.case else "")
    rows = [
        f"{datetime.date.today()}, {args.threads} shared cores, `{command}`; float32, "
        f"rbf gamma {args.gamma}; {versions}.",
        "",
        "| case | rows x dimensions, picks | | CPU-s | s | GiB | passes | of exact | above random | beside ours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        for r in case["results"]:
            ours = next(o for o in case["results"] if o["kind"] == r["kind"])
            quality = ["", ""]
            if r["kind"] == "facility" and ours["name"] == "exact":
                above = (r["value"] - case["random"]) / (ours["value"] - case["random"])
                quality = [f"{r['value'] / ours['value']:.5f}", f"{above:.4f}"]
            beside = "" if r is ours else f"{r['cpu_seconds'] / ours['cpu_seconds']:.2f}x"
            rows.append(
                f"| {case['case']} | {case['n']:,} x {case['d']}, {case['k']:,} | {r['name']} | {r['cpu_seconds']:.2f} "
                f"| {r['seconds']:.2f} | {r['GiB']:.2f} | {r['cpu_seconds'] / case['floor']:.2f} | {quality[0]} "
                f"| {quality[1]} | {beside} |"
            )
    return "\n".join(rows) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--contend"]:
        name, pool, k, gamma, picks = sys.argv[2:]
        contend(name, pool, int(k), float(gamma), picks)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--data", help="an .npy file of embeddings instead")
    parser.add_argument("--picks", type=int, default=500, help="how many, with --data")
    parser.add_argument("--contenders", help=f"some of {', '.join(CONTENDERS)} [those of the case]")
    parser.add_argument("--gamma", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--warm", action="store_true", help="use what numba has compiled before: no cold start")
    parser.add_argument("--scratch", help="folder for pools, up to 2 GB [the system's]")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--markdown", type=Path, help="also write a table here")
    args = parser.parse_args()
    if args.data:
        args.case = "given"
        CASES["given"] = (args.data, 0, 0, args.picks, "exact,neighbours,k_center", "")
    cases = []
    for name in args.case.split(",") if args.case else CASES:
        cases.append(compare(name, args))
        if args.json:
            args.json.write_text(json.dumps(cases, indent=1, default=str))
        if args.markdown:
            args.markdown.write_text(table(cases, args))


if __name__ == "__main__":
    main()
