"""How long a run through lm-evaluation-harness will take: prompts counted, speed measured on one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.config import EvaluateConfig
from thriftune.evaluation.harness_tasks.catalogue import Leaf
from thriftune.evaluation.harness_tasks.loading import size

if TYPE_CHECKING:
    from thriftune.evaluation.harness_model import HarnessModel

_PATIENCE_S = 600.0  # a longer run is told of --limit
_PROBED = 6  # documents of a task whose prompts are counted
_NEW_TOKENS = 8  # generated to measure the speed
_CPU_PROBE = 512  # tokens read to measure it
_REPEATS = 3
_PROBE_S = 3.0
_STOP_TOKENS = 3  # written behind an answer before it is seen to be over


@dataclass(frozen=True)
class Workload:
    """What a run has to do.

    Args:
        tasks: single tasks.
        items: questions.
        prompt_tokens: tokens to read, estimated from some prompts of each task; few-shot examples that all prompts
            of a task share count once.
        new_tokens: tokens to write if answers are as long as the tasks' own examples.
        most_new_tokens: tokens to write if every answer runs to its limit.
        seconds: estimated from the speed measured on one batch.
        longest_seconds: the same with ``most_new_tokens``.
    """

    tasks: int
    items: int
    prompt_tokens: int
    new_tokens: int
    most_new_tokens: int
    seconds: float
    longest_seconds: float

    def __str__(self) -> str:
        writing = f" and {self.new_tokens:,} to write" if self.new_tokens else ""
        longer = f" (up to {_duration(self.longest_seconds)} if answers ramble)" if self.new_tokens else ""
        text = (
            f"lm-evaluation-harness: {self.items:,} question{'s' * (self.items != 1)} of "
            f"{self.tasks} task{'s' * (self.tasks != 1)}, "
            f"{self.prompt_tokens:,} tokens to read{writing}: about {_duration(self.seconds)}{longer}"
        )
        per_task = int(self.items / self.tasks * _PATIENCE_S / max(self.seconds, 1e-9))
        if self.seconds > _PATIENCE_S and per_task:
            text += f"; --limit {per_task} (questions a task) would take about {_duration(_PATIENCE_S)}"
        return text


def measure(lm: HarnessModel, built: Sequence[tuple[Leaf, Any]], config: EvaluateConfig) -> Workload:
    """Count the tokens of some prompts of each task and time one batch.

    Args:
        lm: the model.
        built: tasks with their settings.
        config: ``limit`` and ``apply_chat_template`` are read.
    """
    counted = [_task(lm, task, config) for _, task in built]
    items = sum(n for n, *_ in counted)
    read, write, most = (sum(part) for part in zip(*(c[1:4] for c in counted), strict=True))
    typical = sum(n * length for n, *_, length in counted) / items
    reading, writing = _speed(lm, max(1, min(int(typical), lm.max_length - _NEW_TOKENS - 1)), generating=bool(write))
    seconds, longest = read / reading + write / writing, read / reading + most / writing
    return Workload(len(built), items, round(read), round(write), round(most), seconds, longest)


def _task(lm: HarnessModel, task: Any, config: EvaluateConfig) -> tuple[int, float, float, float, float]:
    """Questions, tokens to read, tokens to write as examples have them and at most, tokens that a question adds."""
    n = size(task, config)
    docs = [task.eval_docs[int(i)] for i in np.linspace(0, n - 1, min(_PROBED, n))]
    requests = [_requests(lm, task, doc, config) for doc in docs]
    if task.OUTPUT_TYPE == "generate_until":
        examples = list(task.sampler.df)[: task.config.num_fewshot] if task.config.num_fewshot else docs
        answer = float(np.mean([len(lm.tok_encode(str(task.doc_to_target(e)))) for e in examples]))
        limit = lm.new_tokens(task.config.generation_kwargs or {})
        length = float(np.mean([len(lm.tok_encode(r.args[0])) for found in requests for r in found]))
        return n, n * length, n * min(answer + _STOP_TOKENS, limit), n * limit, length
    from thriftune.evaluation.harness_model import common_beginning

    pairs = [[lm._encode_pair(*r.args[:2]) for r in found] for found in requests]
    # One-token answers to the same prompt share a pass; what all prompts begin with is read once.
    passes = [{(*context, *answer[:-1]) for context, answer in found} for found in pairs]
    shared = len(common_beginning([context for found in pairs for context, _ in found]))
    added = float(np.mean([sum(min(len(p), lm.max_length) - shared for p in found) for found in passes]))
    return n, shared + n * added, 0.0, 0.0, added


def _requests(lm: HarnessModel, task: Any, doc: Any, config: EvaluateConfig) -> list[Any]:
    chat = lm.apply_chat_template if config.apply_chat_template else None
    how = {"apply_chat_template": config.apply_chat_template, "chat_template": chat}
    context = task.fewshot_context(
        doc,
        num_fewshot=task.config.num_fewshot,
        fewshot_as_multiturn=config.apply_chat_template,
        gen_prefix=task.doc_to_prefix(doc),
        **how,
    )
    made = task.construct_requests(doc=doc, ctx=context, metadata=(task.config.task, 0, 1), **how)
    return made if isinstance(made, list) else [made]


def _speed(lm: HarnessModel, length: int, *, generating: bool) -> tuple[float, float]:
    """Tokens a second that the model reads and writes, from a small batch after a warm-up."""
    import torch

    rows = lm.rows(length) if lm.device.type == "cuda" else max(1, min(lm.rows(length), _CPU_PROBE // length))
    batch = torch.ones((rows, length), dtype=torch.long, device=lm.device)
    reading = rows * length / _timed(lm, lambda: lm.read(batch))
    if not generating:
        return reading, float("inf")
    rows = lm.generating_rows(length)
    prompt = batch[:1, : min(length, _CPU_PROBE // 8)].expand(rows, -1)

    def write(n: int) -> None:
        mask = torch.ones_like(prompt)
        lm._model_generate(prompt, prompt.shape[1] + n, [], min_new_tokens=n, attention_mask=mask, do_sample=False)

    one, many = _timed(lm, lambda: write(1)), _timed(lm, lambda: write(_NEW_TOKENS + 1))
    return reading, rows * _NEW_TOKENS / max(many - one, 1e-6)


def _timed(lm: HarnessModel, work: Callable[[], Any]) -> float:
    """Seconds of ``work``, after a warm-up: the mean of several where it is short, since machines stutter."""
    import torch

    work()
    began, times = time.perf_counter(), 0
    while times < _REPEATS and (times == 0 or time.perf_counter() - began < _PROBE_S):
        work()
        if lm.device.type == "cuda":
            torch.cuda.synchronize(lm.device)
        times += 1
    return (time.perf_counter() - began) / times


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
