"""Experiments, fine-tuned models and evaluations as the stages write them, made up and small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from thriftune.artifacts import provenance, write_json, write_table
from thriftune.study import Study

RHO = {"random": 1.0, "facility_location": 1.6, "k_center": 1.1, "mean_entropy": 0.8, "task_diversity": 2.4}
BOUND = {"task_diversity": "at least", "mean_entropy": "within"}


def write_bench(
    study: Study,
    name: str = "bench",
    *,
    rho: dict[str, float] | None = None,
    budgets: tuple[int, ...] = (50, 100, 200, 400),
    seeds: int = 4,
    finished: int | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Write an experiment; returns its analysis, after ``changes`` to its top level."""
    rho = RHO if rho is None else rho
    directory = study.bench_directory(name)
    config = {"strategies": list(rho), "budgets": list(budgets), "seeds": seeds, "metric": "nll"}
    cells = [
        {"strategy": s, "budget": b, "seed": seed, "id": f"{s}-{b}-seed{seed}"}
        for s in rho
        for b in budgets
        for seed in range(seeds)
    ]
    write_json(directory / "plan.json", provenance(stage="bench", config=config, cells=cells))
    rows = _results(rho, budgets, seeds)
    record = provenance(n_annotations=0)
    for cell in cells[:finished]:
        write_table(directory / "cells" / f"{cell['id']}.parquet", rows.slice(0, 1), record)
    analysis = {"name": name, **_analysis(rows, rho, budgets, seeds), **changes}
    if finished is None:
        write_table(directory / "results.parquet", rows, record)
        write_json(directory / "analysis.json", analysis)
    return analysis


def _results(rho: dict[str, float], budgets: tuple[int, ...], seeds: int) -> pa.Table:
    rng = np.random.default_rng(3)
    rows: list[tuple[Any, ...]] = []
    for seed in range(seeds):
        easy = rng.normal(0, 0.05, 20)
        for strategy, factor in rho.items():
            for budget in budgets:
                level = 2.4 - 0.28 * np.log(budget * factor) + rng.normal(0, 0.02)
                for item, shift in enumerate(easy):
                    task = f"task{item % 4}"
                    rows.append((strategy, budget, seed, task, f"i{item}", "nll", level + shift))
                    right = rng.random() < 1 / (1 + np.exp(2 * level - 2.2 + 4 * shift))
                    rows.append((strategy, budget, seed, task, f"i{item}", "exact_match", float(right)))
    names = ("strategy", "budget", "seed", "task", "item", "metric", "value")
    return pa.table(dict(zip(names, (list(c) for c in zip(*rows, strict=True)), strict=True)))


def _analysis(rows: pa.Table, rho: dict[str, float], budgets: tuple[int, ...], seeds: int) -> dict[str, Any]:
    columns = {n: np.array(rows[n].to_pylist(), dtype=object) for n in rows.column_names}
    metrics = []
    for metric, higher in (("nll", False), ("exact_match", True)):
        curves = []
        for s in rho:
            for b in budgets:
                at = (columns["strategy"] == s) & (columns["budget"] == b) & (columns["metric"] == metric)
                each = [float(columns["value"][at & (columns["seed"] == k)].mean()) for k in range(seeds)]
                half = 2 * float(np.std(each)) + 0.01
                mean = float(np.mean(each))
                point = {"strategy": s, "budget": b, "mean": mean, "low": mean - half, "high": mean + half}
                curves.append({**point, "seeds": each})
        means = {(c["strategy"], c["budget"]): c["mean"] for c in curves}
        strategies = [
            _comparison(s, rho[s], [(b, means[s, b] - means["random", b]) for b in budgets], metric, higher)
            for s in rho
            if s != "random"
        ]
        base = {"mean": 2.31} if metric == "nll" else {"mean": 0.1}
        metrics.append(
            {"metric": metric, "higher_is_better": higher, "base": base, "curves": curves, "strategies": strategies}
        )
    return {
        "level": 0.95,
        "baseline": "random",
        "budgets": list(budgets),
        "seeds": list(range(seeds)),
        "items": 20,
        "tasks": 4,
        "warnings": [f"{seeds} seeds are fewer than 8: a primary comparison needs more."],
        "metrics": metrics,
        "costs": {
            "score_seconds": 95.0,
            "select_seconds": {s: 0.02 + i for i, s in enumerate(rho)},
            "finetune_seconds_mean": 244.0,
            "evaluate_seconds_mean": 31.0,
        },
    }


def _comparison(
    strategy: str, rho: float, differences: list[tuple[int, float]], metric: str, higher: bool
) -> dict[str, Any]:
    width = 1.25 if metric == "nll" else 1.9
    low, high = rho / width, rho * width
    bound = BOUND.get(strategy, "within")
    if metric == "exact_match" and strategy == "mean_entropy":
        bound = "unidentified"
    saved: dict[str, Any] = {"saved": 1 - 1 / rho, "saved_low": 1 - 1 / low, "saved_high": 1 - 1 / high}
    ratio: dict[str, Any] = {"rho": rho, "rho_low": low, "rho_high": high}
    if bound == "unidentified":
        saved, ratio = dict.fromkeys(saved), dict.fromkeys(ratio)
    shown = bool(saved["saved"] is not None and saved["saved_low"] > 0)
    percents = f"{100 * (1 - 1 / rho):.0f} %"
    verdict = (
        f"{strategy} needs {percents} fewer annotations than random for the same held-out {metric}."
        if shown
        else f"No saving shown for {strategy}; a saving of 30 % or more would have been."
    )
    sign = 1 if higher else -1
    return {
        "strategy": strategy,
        "reads_tasks": strategy == "task_diversity",
        **ratio,
        **saved,
        "bound": bound,
        "differences": [
            {"budget": b, "mean": sign * d, "low": sign * d - 0.03, "high": sign * d + 0.03} for b, d in differences
        ],
        "crossing": None,
        "smallest_detectable": 0.3,
        "verdict": verdict,
        "shown": shown,
    }


def write_model(study: Study, name: str, steps: int = 60, **manifest: Any) -> None:
    """Write a fine-tuned model, without the model."""
    rng = np.random.default_rng(len(name))
    at = np.arange(1, steps + 1)
    loss = 0.9 + 1.6 * np.exp(-at / (steps / 4)) + rng.normal(0, 0.12, steps)
    log = {"step": at, "epoch": at / 30, "loss": loss, "learning_rate": np.full(steps, 1e-4), "seconds": at * 1.5}
    directory = study.model_directory(name)
    write_table(directory / "log.parquet", pa.table(log), provenance())
    record = {
        "stage": "finetune",
        "config": {"rank": 16},
        "base": {"model": "org/tiny-model", "revision": None},
        "selection": "k_center",
        "annotations": "human",
        "examples": 200,
        "tokens": 31000,
        "response_tokens": 9000,
        "steps": steps,
        "seconds": 92.0,
        "peak_memory_bytes": 10**9,
        "final_loss": float(loss[-1]),
        **manifest,
    }
    write_json(directory / "manifest.json", provenance(**record))


def write_evaluation(study: Study, name: str, right: float = 0.4, **record: Any) -> pa.Table:
    """Write an evaluation of 40 items of 4 tasks, and the answers beside it."""
    rng = np.random.default_rng(5)
    tasks = [f"task{i % 4}" for i in range(40)]
    items = [f"i{i}" for i in range(40)]
    values = [*rng.gamma(4, 0.3, 40).tolist(), *(rng.random(40) < right).astype(float).tolist()]
    metric = ["nll"] * 40 + ["exact_match"] * 40
    suites = ["heldout"] * 80
    rows = pa.table({"suite": suites, "task": tasks * 2, "item": items * 2, "metric": metric, "value": values})
    file: Path = study.evaluation_file(name)
    record = {"model": "org/tiny-model", "adapter": None, "tasks": ["heldout"], **record}
    write_table(file, rows, provenance(**record))
    answers = pa.table({"id": items, "answer": ["x"] * 40, "n_tokens": [1] * 40, "hit_limit": [False] * 40})
    write_table(file.with_suffix(".answers.parquet"), answers, provenance(**record))
    return rows
