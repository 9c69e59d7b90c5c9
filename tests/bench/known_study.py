"""A study whose responses are known, made of plain arrays: 48 prompts to choose from, 12 held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from thriftune.artifacts import provenance, read_table, write_json, write_table
from thriftune.config import BenchConfig, FinetuneConfig
from thriftune.study import Study

POOL, HELD = 48, 12
TASKS = ("add", "repeat", "colour")
FINETUNE = {"epochs": 2, "batch_size": 4, "rank": 4, "learning_rate": 0.01, "dtype": "float32", "device": "cpu"}
_COLOURS = ("red", "blue", "green", "white")


def known_study(root: Path, model: Path, *, unanswered: int = 0, references: bool = True) -> Study:
    """Make the study in ``root``; the first ``unanswered`` prompts of the pool have no response."""
    n = POOL + HELD
    ids = [f"q{i:03d}" for i in range(n)]
    tasks = [TASKS[i % 3] for i in range(n)]
    texts = {"add": "What is {0} plus {0}?", "repeat": "Repeat {0}.", "colour": "Name colour number {0}."}
    answers = [str(2 * i) if t == "add" else str(i) if t == "repeat" else _COLOURS[i % 4] for i, t in enumerate(tasks)]
    # Every eighth prompt repeats the one before it but for a word.
    near = [i - 1 if i % 8 == 7 and i < POOL else i for i in range(n)]
    pool = pa.table(
        {
            "id": ids,
            "text": [texts[t].format(i) for i, t in enumerate(tasks)],
            "messages": pa.nulls(n, pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            "task": tasks,
            "split": ["pool"] * POOL + ["holdout"] * HELD,
            "group": pa.array(range(n), pa.int64()),
            "near_group": pa.array(near, pa.int64()),
            "n_chars": pa.array([20] * n, pa.int32()),
            "source": ["made.jsonl"] * n,
            "line": pa.array(range(1, n + 1), pa.int64()),
            "meta": [json.dumps({"answer": a}) for a in answers],
        }
    )
    root.mkdir(parents=True)
    write_table(root / "pool.parquet", pool, provenance())
    if references:
        known = pa.table({"id": ids[unanswered:], "response": answers[unanswered:]})
        write_table(root / "references.parquet", known, provenance())
    study = Study.create(root, {})
    score(study, "default", model)
    return study


def score(study: Study, run: str, model: Path, seed: int = 0) -> None:
    """A finished score run with made-up scores."""
    rng = np.random.default_rng(seed)
    scores = {
        "id": study.pool(["id"])["id"],
        "mean_entropy": pa.array(rng.random(POOL), pa.float32()),
        "prompt_nll": pa.array([None, *rng.random(POOL - 1)], pa.float32()),
        "n_prompt_tokens": pa.array(rng.integers(20, 40, POOL), pa.int32()),
        "truncated_prompt": pa.array([False] * POOL),
        "hit_limit": pa.array([False] * POOL),
        "n_steps": pa.array([1] * POOL, pa.int32()),
        "response": ["draft"] * POOL,
        "token_ids": pa.array([[1]] * POOL, pa.list_(pa.int32())),
        "token_ends": pa.array([[5]] * POOL, pa.list_(pa.int32())),
        "token_entropies": pa.array([[1.0]] * POOL, pa.list_(pa.float32())),
        "token_margins": pa.array([[0.5]] * POOL, pa.list_(pa.float32())),
        "embedding_scale": pa.array([1.0] * POOL, pa.float32()),
    }
    directory = study.score_directory(run)
    np.save(directory_made(directory) / "embeddings.npy", rng.normal(size=(POOL, 6)).astype(np.float16))
    write_json(directory / "manifest.json", provenance(config={"model": str(model)}, run={"seconds": 7.0}))
    write_table(directory / "scores.parquet", pa.table(scores), provenance())


def directory_made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def settings(**given: object) -> BenchConfig:
    """A bench of seconds."""
    values = {
        "strategies": ["k_center"],
        "budgets": [6, 12],
        "seeds": 2,
        "subsample": 0.75,
        "items": 6,
        "finetune": FinetuneConfig.model_validate(FINETUNE),
        **given,
    }
    return BenchConfig.model_validate(values)


def results(study: Study, name: str = "bench") -> dict[tuple[Any, ...], float]:
    """Values of results.parquet by what they are of."""
    rows = read_table(study.bench_directory(name) / "results.parquet").to_pylist()
    return {tuple(r[c] for c in ("strategy", "budget", "seed", "item", "metric")): r["value"] for r in rows}
