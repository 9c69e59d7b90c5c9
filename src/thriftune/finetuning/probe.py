"""Before a training: how long it will take, how much memory, and how much can go through the model at once."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thriftune.config import FinetuneConfig
from thriftune.examples import Example
from thriftune.finetuning.defaults import Course, pieces
from thriftune.likelihood import computed, projection_bytes, response_nll
from thriftune.model import LanguageModel

_MOST_TOKENS = {"cpu": 1024, "cuda": 16384}
_SHORT, _LONG = 64, 512  # tokens of the two sequences whose activations are compared
_SPARE = 0.85  # share of the free memory that a step may take
_TEMPORARY = 1.25  # gradients of activations while the backward pass runs
_LIBRARIES_BYTES = int(0.6 * 2**30)  # torch, transformers and the tokenizer in a CPU process

Computing = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Fit:
    """How a training fits this machine.

    Args:
        most: tokens that go through the model at once, padding included.
        recompute: activations are recomputed in the backward pass instead of kept.
        step_bytes: memory of the largest step above weights, gradients and optimiser.
        fixed_bytes: weights, gradients, optimiser and libraries.
        token_seconds: seconds a token that is computed.
        steps: tokens that are computed in each step.
        free_bytes: memory free before the training, or None where unknown.
    """

    most: int
    recompute: bool
    step_bytes: int
    fixed_bytes: int
    token_seconds: float
    steps: list[int]
    free_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether the largest step fits, as far as can be told."""
        return self.free_bytes is None or self.step_bytes <= self.free_bytes


def probe(model: Any, examples: Sequence[Example], plan: Course, computing: Computing, device: str) -> Fit:
    """Measure a step.

    Args:
        model: ready to train; its gradients are cleared afterwards.
        examples: n examples.
        plan: the batches.
        computing: see `trainer.ResponseTrainer`.
        device: where it runs.

    Returns:
        What fits.
    """
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    optimiser = trainable * 12  # a gradient and two moments in float32
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    layers = int(model.config.get_text_config().num_hidden_layers)
    width = int(model.config.get_text_config().hidden_size)
    sample = max(examples, key=lambda e: len(e.ids))
    model.train()
    with torch.random.fork_rng(enabled=True):  # dropout here must not change the training's
        short, long = _shortened(sample, _SHORT), _shortened(sample, _LONG)
        few, many = (_measure(model, [e], computing)[1] for e in (short, long))
        slope = (many - few) / max(len(long.ids) - len(short.ids), 1) or many / len(long.ids)
        constant = max(many - slope * len(long.ids), 0)
        free = available(device)
        room = float("inf") if free is None else free * _SPARE - optimiser - constant - projection_bytes(device)
        longest = len(sample.ids)
        recompute = slope * _TEMPORARY * longest > room
        if recompute:
            # What stays is each layer's input, and everything of one layer at a time.
            slope = 4 * width * layers + slope / layers
        most = int(max(min(room / (slope * _TEMPORARY), most_tokens(device)), longest))
        size = functools.partial(computed, model)
        if recompute:  # as the training will: without it the batch may not fit
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        try:
            batches = [pieces([examples[i] for i in batch], most, size) for batch in plan.batches]
            sizes = [[size(part) for part in parts] for parts in batches]
            typical = sorted(range(len(batches)), key=lambda step: sum(sizes[step]))[len(batches) // 2]
            seconds, _ = _measure(model, batches[typical][0], computing)
        finally:
            if recompute:
                model.gradient_checkpointing_disable()
    model.zero_grad(set_to_none=True)
    largest = max(map(max, sizes))
    return Fit(
        most,
        recompute,
        int(constant + slope * _TEMPORARY * largest + projection_bytes(device)),
        weights + optimiser + (_LIBRARIES_BYTES if device == "cpu" else 0),
        seconds / sizes[typical][0],
        [sum(step) for step in sizes],
        None if free is None else free - optimiser,
    )


def estimate(
    lm: LanguageModel, examples: Sequence[Example], plan: Course, config: FinetuneConfig, fit: Fit, done: int
) -> str:
    """What is ahead, in a line.

    Args:
        lm: the base.
        examples: n examples.
        plan: the batches.
        config: as `defaults.resolved` gives it.
        fit: as `probe` found it.
        done: steps that an interrupted run has behind it.

    Returns:
        The line.
    """
    seen = [[examples[i] for i in batch] for batch in plan.batches[done:]]
    tokens = sum(len(e.ids) for b in seen for e in b)
    learned = sum(int(e.response.sum()) for b in seen for e in b)
    how = "; activations are recomputed to save memory" if fit.recompute else ""
    return (
        f"to do: {len(examples):,} examples, {plan.epochs:g} epochs, {len(plan.batches) - done:,} steps, "
        f"{tokens:,} tokens ({learned:,} of responses) at a learning rate of {config.learning_rate:g}; about "
        f"{sum(fit.steps[done:]) * fit.token_seconds / 60:.1f} min and "
        f"{(fit.fixed_bytes + fit.step_bytes) / 2**30:.1f} GiB with {lm.spec} on {lm.device} in {lm.dtype}{how}"
    )


def _shortened(example: Example, tokens: int) -> Example:
    ids = example.ids[:tokens]
    return Example(example.id, ids, np.arange(len(ids)) >= len(ids) // 2, True)


def _measure(model: Any, batch: Sequence[Example], computing: Computing) -> tuple[float, int]:
    """Seconds of a forward and backward pass, and bytes that the first keeps for the second."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    began = time.monotonic()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), computing():
        nll, tokens = response_nll(model, batch)
    (nll.sum() / tokens.sum()).backward()
    if nll.device.type == "cuda":
        torch.cuda.synchronize(nll.device)
    return time.monotonic() - began, sum(kept.values())


def most_tokens(device: str) -> int:
    """Tokens worth computing at once, padding included: more only take memory."""
    return _MOST_TOKENS.get(device.partition(":")[0], _MOST_TOKENS["cuda"])


def available(device: str) -> int | None:
    """Bytes that can still be claimed; None where the system does not say."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError, StopIteration):  # a container's own limit
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        cached = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        files = int(next(line for line in cached if line.startswith("inactive_file")).split()[1])
        found.append(most - used + files)
    return min(found) if found else None
