"""How long an experiment takes: measured on one batch before it starts, and on its own cells as they finish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from thriftune.bench.design import Cell
from thriftune.config import FinetuneConfig


@dataclass(frozen=True)
class Rates:
    """What a cell costs.

    Args:
        tokens_per_example: mean over prompts with responses, template included.
        train: seconds a token that is trained on once.
        evaluate: seconds an evaluated cell.
        around: seconds a trained cell on top: attaching, setting up, detaching.
    """

    tokens_per_example: float
    train: float
    evaluate: float
    around: float = 0.0

    @classmethod
    def of_probe(cls, probe: Mapping[str, Any], items: float) -> Rates:
        """From `cells.Bencher.probe`, for ``items`` held-out prompts a cell."""
        return cls(
            probe["tokens_per_example"],
            probe["train_seconds_per_token"],
            probe["evaluate_seconds_per_item"] * items,
            probe["seconds_around"],
        )

    def refined(self, records: Iterable[Mapping[str, Any]]) -> Rates:
        """The same measured on cells that have finished."""
        run = [r for r in records if not r.get("reused")]
        trained = sum(r["finetune_seconds"] for r in run)
        tokens = sum(r["tokens"] for r in run)
        train = trained / tokens if tokens else self.train
        evaluate = sum(r["evaluate_seconds"] for r in run) / len(run) if run else self.evaluate
        apart = [r["seconds"] - r["finetune_seconds"] - r["evaluate_seconds"] for r in run if r["tokens"]]
        around = max(sum(apart) / len(apart), 0.0) if apart else self.around
        return Rates(self.tokens_per_example, train, evaluate, around)

    def seconds(self, cells: Iterable[Cell], config: FinetuneConfig, jobs: int) -> float:
        """Expected wall time of cells, ``jobs`` at a time."""
        total = 0.0
        for cell in cells:
            total += self.train * self.tokens_per_example * passes(config, cell.budget) + self.evaluate
            total += self.around * (cell.budget > 0)
        return total / jobs


def passes(config: FinetuneConfig, examples: int) -> float:
    """Examples that one training sees, each epoch counted."""
    if not examples:
        return 0.0
    from thriftune.finetuning.defaults import resolved

    return float(resolved(config, examples).epochs) * examples


def duration(seconds: float) -> str:
    """Seconds in words: ``0.4 s``, ``40 s``, ``12 min``, ``3.4 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
