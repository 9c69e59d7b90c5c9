"""TRL's SFTTrainer with the loss of `likelihood` and batches that were planned beforehand."""

from __future__ import annotations

import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import trl
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from thriftune.artifacts import sync_directory, sync_tree, writing
from thriftune.errors import FinetuneError
from thriftune.examples import Example
from thriftune.finetuning.defaults import pieces
from thriftune.likelihood import computed, response_nll
from thriftune.memory import exhausted, release

_WHOLE = "complete"  # a checkpoint without this file was cut short


class ResponseTrainer(trl.SFTTrainer):
    """Learns responses only, from given batches.

    Args:
        examples: n examples.
        batches: rows of ``examples`` of each step.
        most: tokens that go through the model at once, padding included; halved where even they do not fit.
        computing: entered around the forward pass, for its precision.
        others: as for `trl.SFTTrainer`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batches: Sequence[list[int]],
        most: int,
        computing: Callable[[], AbstractContextManager[Any]],
        **others: Any,
    ) -> None:
        self._examples = examples
        self.batches = batches
        self.most = most
        self._computing = computing
        self.loss = 0.0  # of the last step
        super().__init__(
            train_dataset=Dataset.from_dict({"row": range(len(examples))}), data_collator=self._collate, **others
        )

    def _collate(self, rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        return {"examples": [self._examples[r["row"]] for r in rows]}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """All batches of the training as one epoch, in the planned order."""
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self._collate)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Nats a response token; the divisor counts the whole step's tokens."""
        with self._computing():
            nll, tokens = response_nll(model, inputs["examples"])
        loss = nll.sum() / (tokens.sum() if num_items_in_batch is None else num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Gradients of a step, piece by piece.

        Raises:
            RuntimeError: not even single examples fit into memory.
        """
        model.train()
        batch = inputs["examples"]
        tokens = sum(int(e.response.sum()) for e in batch)
        size = functools.partial(computed, model)
        while True:
            with self._computing():  # may try the model out
                parts = pieces(batch, self.most, size)
            try:
                # A double, so that the sum does not depend on how many pieces there are.
                total = 0.0
                for part in parts:
                    loss = self.compute_loss(model, {"examples": part}, num_items_in_batch=tokens)
                    self.accelerator.backward(loss)
                    total += float(loss.detach())
            except (RuntimeError, MemoryError) as error:
                if not exhausted(error) or len(parts) == len(batch):
                    raise
            else:
                self.loss = total
                return loss.new_tensor(total)
            # Outside the handler: the exception's traceback would keep the tensors alive.
            model.zero_grad(set_to_none=True)
            release(str(self.args.device))
            self.most = max(map(size, parts)) // 2

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the finished model gets its own."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        directory = Path(self.args.output_dir)
        with writing(directory):
            super()._save_checkpoint(model, trial)
        written = directory / f"checkpoint-{self.state.global_step}"
        sync_tree(written)  # before it says that it is complete, and before the one before it goes
        (written / _WHOLE).touch()
        sync_directory(written)
        sync_directory(directory)
        for other in directory.glob("checkpoint-*"):
            if other != written:
                shutil.rmtree(other)


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the others are removed."""
    found = sorted(directory.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    whole = [p for p in found if (p / _WHOLE).exists()]
    for p in found:
        if p not in whole[-1:]:
            shutil.rmtree(p)
    return whole[-1] if whole else None


def steps_done(checkpoint: Path) -> int:
    """Optimiser steps that a checkpoint holds."""
    return int(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])


class Journal(TrainerCallback):
    """Writes a line for each step, moves the bar, asks for checkpoints now and then.

    Args:
        advance: receives the tokens of each finished step.
        per_step: (steps,) tokens of each step.
        per_epoch: steps of an epoch.
        every: seconds between checkpoints, or None for none.
    """

    def __init__(
        self, advance: Callable[[float], None], per_step: Sequence[int], per_epoch: float, every: float | None
    ) -> None:
        self.advance = advance
        self.per_step = per_step
        self.per_epoch = per_epoch
        self.every = every
        self.trainer: ResponseTrainer | None = None
        self.before = 0.0  # seconds of the interrupted run that this one continues
        self.rate = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        records = lines(state)
        self.before = records[-1]["seconds"] if records else 0.0
        self.began = self.saved = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the rate this step is taken with, before the schedule moves it."""
        self.rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the step's line."""
        assert self.trainer is not None
        loss = self.trainer.loss
        now = time.monotonic()
        if not math.isfinite(loss):
            raise FinetuneError(
                f"the loss is {loss} at step {state.global_step}: lower --learning-rate, or use --dtype float32"
            )
        state.log_history.append(
            {
                "step": state.global_step,
                "epoch": state.global_step / self.per_epoch,
                "loss": loss,
                "learning_rate": self.rate,
                "seconds": self.before + now - self.began,
            }
        )
        self.advance(self.per_step[state.global_step - 1])
        if self.every is not None and now - self.saved >= self.every and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait anew."""
        self.saved = time.monotonic()


def lines(state: Any) -> list[dict[str, Any]]:
    """The journal's lines in a trainer's state, which holds the trainer's own too."""
    return [r for r in state.log_history if "seconds" in r]
