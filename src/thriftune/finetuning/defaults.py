"""What `auto` means: learning rate and epochs by method and number of examples, and the batches they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from thriftune.config import FinetuneConfig
from thriftune.examples import Example, random_batches

# Measured with SmolLM2-135M (benchmarks/finetune_defaults.py). That wider models want less, as a power of the width,
# and full fine-tuning a tenth, is from Schulman et al., "LoRA Without Regret", 2025.
_RATE, _WIDTH, _POWER = 1e-3, 576, 0.78
_FULL = 0.1
# Small sets overfit soon: 50 examples at that rate lost in held-out likelihood from 4 epochs to 6 and far more to 12,
# 200 gained from 1 to 3. Large ones need no repetition; where that begins was not measured.
_STEPS = 150
_EPOCHS = (1.0, 3.0)


def resolved(config: FinetuneConfig, examples: int, width: int = _WIDTH) -> FinetuneConfig:
    """``config`` with numbers in place of ``auto``.

    Args:
        config: what was asked for.
        examples: how many examples there are to learn from.
        width: the model's hidden size.

    Returns:
        The same with numeric learning_rate and epochs.
    """
    update: dict[str, float] = {}
    if config.learning_rate == "auto":
        rate = _RATE * min(1.0, _WIDTH / width) ** _POWER * (_FULL if config.method == "full" else 1)
        update["learning_rate"] = float(f"{rate:.1e}")
    if config.epochs == "auto":
        steps = math.ceil(examples / config.batch_size)
        update["epochs"] = float(min(max(_STEPS / max(steps, 1), _EPOCHS[0]), _EPOCHS[1]))
    return config.model_copy(update=update)


@dataclass(frozen=True)
class Course:
    """The batches of a training, in order.

    Args:
        batches: rows of the examples of each optimiser step.
        epochs: how often each example is seen, the last time maybe in part.
    """

    batches: list[list[int]]
    epochs: float


def pieces(
    batch: Sequence[Example], most: int, computed: Callable[[Sequence[Example]], int]
) -> list[Sequence[Example]]:
    """A batch in runs of which at most ``most`` tokens are computed each; a longer example stands alone.

    Gradients add up over the pieces, so that memory depends on ``most`` and not on the batch.

    Args:
        batch: examples, by falling length.
        most: tokens a piece.
        computed: tokens that are computed for such a run, padding included.

    Returns:
        The pieces, in order.
    """
    found: list[Sequence[Example]] = []
    start = 0
    for i in range(1, len(batch)):
        if computed(batch[start : i + 1]) > most:
            found.append(batch[start:i])
            start = i
    return [*found, batch[start:]]


def course(examples: Sequence[Example], config: FinetuneConfig) -> Course:
    """Which examples each step learns from.

    Args:
        examples: n examples.
        config: as `resolved` gives it.

    Returns:
        The batches; they depend on lengths, batch size, epochs and seed only.
    """
    epochs = float(config.epochs)
    steps = max(1, math.ceil(epochs * math.ceil(len(examples) / config.batch_size) - 1e-9))
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < steps:
        seed = int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0])
        batches += random_batches(examples, config.batch_size, seed=seed)
        epoch += 1
    return Course(batches[:steps], epochs)
