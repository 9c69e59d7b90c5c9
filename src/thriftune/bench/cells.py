"""One cell: train on what an arm chose, evaluate on the seed's items, put the base model back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.artifacts import provenance, read_record, read_table, write_table
from thriftune.bench.design import Cell, digest, tasks_of
from thriftune.config import BenchConfig, EvaluateConfig
from thriftune.errors import BenchError, StudyError
from thriftune.examples import Example, tokenize
from thriftune.memory import release
from thriftune.model import LanguageModel, load
from thriftune.study import Study
from thriftune.types import Prompt

if TYPE_CHECKING:
    import pyarrow as pa

    from thriftune.evaluation.heldout import Items

_PROBED = 8  # held-out prompts that the probe evaluates on


def _silent(line: str) -> None:
    """Cells are reported one line each by the run, not by their stages."""


class Bencher:
    """Runs cells in one process: the model is loaded and each prompt tokenised once.

    Args:
        study: where pool, responses and the bench are.
        config: of the bench.
        model: ``spec``, ``revision`` and ``trust_remote_code`` of the model to fine-tune.
    """

    def __init__(self, study: Study, config: BenchConfig, model: dict[str, Any]) -> None:
        self.study, self.config, self.spec = study, config, model
        self.directory = study.bench_directory(config.name)
        self._loaded: LanguageModel | None = None
        self.able = False  # the model could be loaded at least once
        self._responses: dict[str, str] = {}
        self._prompts: dict[str, Prompt] = {}
        self._examples: dict[str, Example] = {}
        self._items: dict[tuple[str, ...], Items] = {}  # of the seed at hand

    def model(self) -> LanguageModel:
        """The untouched base model.

        Raises:
            BenchError: it is not the one of the plan.
        """
        if self._loaded is None:
            lm = load(
                self.spec["spec"],
                revision=None if self.spec.get("local") else self.spec.get("revision"),
                dtype=self.config.finetune.dtype,
                device=self.config.finetune.device,
                trust_remote_code=self.spec.get("trust_remote_code", False),
            )
            for key, value in lm.resolved.items():
                planned = self.spec.get(key)
                if planned is not None and planned != value:
                    raise BenchError(
                        f"bench {self.config.name!r} was begun with {key} {planned!r} and would go on with {value!r}: "
                        "finish it where it was begun, or begin another with --name"
                    )
            self._loaded, self.able = lm, True
        return self._loaded

    def probe(self, ids: Sequence[str], items: Sequence[str]) -> dict[str, Any]:
        """Time one batch of training and a few items of evaluation.

        Args:
            ids: prompts with a response, drawn at random.
            items: held-out prompts of a seed.

        Returns:
            ``loaded`` (see `model.LanguageModel.resolved`), ``tokens_per_example``, ``train_seconds_per_token``,
            ``evaluate_seconds_per_item`` and ``seconds_around`` (of a training, besides its steps).
        """
        lm = self.model()
        tokens = [len(e.ids) for e in self.examples(ids)]
        some = list(ids[: self.config.finetune.batch_size])
        few = list(items[:_PROBED])
        # The first time is slower: kernels are chosen, memory is claimed.
        self._measured(lm, some[:2], few[:1])
        began = time.monotonic()
        train_s, evaluate_s = self._measured(lm, some, few)
        whole = time.monotonic() - began
        trained_on = sum(tokens[: len(some)])
        return {
            "loaded": lm.resolved,
            "tokens_per_example": float(np.mean(tokens)),
            "train_seconds_per_token": train_s / max(trained_on, 1),
            "evaluate_seconds_per_item": evaluate_s / max(len(few), 1),
            "seconds_around": max(whole - train_s - evaluate_s, 0.0),
        }

    def _measured(self, lm: LanguageModel, ids: list[str], items: list[str]) -> tuple[float, float]:
        from thriftune.finetuning.train import train

        once = self.config.finetune.model_copy(update={"epochs": 1.0})
        trained = train(lm, self.examples(ids), once, directory=None, say=_silent)
        try:
            began = time.monotonic()
            if items:
                self.evaluate(trained.model, items, benchmarks=False)
            return trained.seconds, time.monotonic() - began
        finally:
            trained.detach()

    def run(self, cell: Cell, ids: Sequence[str], items: Sequence[str], details: dict[str, Any]) -> dict[str, Any]:
        """Train and evaluate one cell and write its file.

        Args:
            cell: which.
            ids: the prompts it trains on; empty for the untouched model.
            items: held-out prompts it is evaluated on.
            details: further record of the cell (JSON values).

        Returns:
            The record written.

        Raises:
            BenchError: training diverged.
            ThriftuneError: whatever fine-tuning or evaluation refuse.
        """
        try:
            record = self._run(cell, ids, items, details)
            release(self.model().device)  # or a process that runs many cells grows with each
            return record
        except BaseException:
            self._loaded = None  # a training that broke off may have left its adapter behind
            raise

    def _run(self, cell: Cell, ids: Sequence[str], items: Sequence[str], details: dict[str, Any]) -> dict[str, Any]:
        lm = self.model()
        began = time.monotonic()
        record: dict[str, Any] = {"finetune_seconds": 0.0, "tokens": 0, "steps": 0, "final_loss": None}
        if not ids:
            rows, answers, seconds = self._timed(lm, items)
        else:
            from thriftune.finetuning.train import train

            # In the order of ids: the result depends on what was chosen, not on the order of choosing.
            examples = self.examples(sorted(ids))
            record["truncated"] = sum(e.truncated for e in examples)
            settings = self.config.finetune.model_copy(update={"seed": cell.seed})
            trained = train(lm, examples, settings, directory=None, say=_silent)
            try:
                record.update(finetune_seconds=trained.seconds, tokens=trained.tokens, steps=trained.steps)
                record["final_loss"] = _finite(trained.log[-1]["loss"] if trained.log else None)
                rows, answers, seconds = self._timed(trained.model, items)
                if self.config.keep_adapters:
                    trained.model.model.save_pretrained(self.directory / "adapters" / cell.id)
            finally:
                trained.detach()
        bad = [row for row in rows if not np.isfinite(row["value"])]
        if bad:
            raise BenchError(
                f"{bad[0]['metric']} of {bad[0]['item']!r} is {bad[0]['value']}: training diverged; lower "
                "learning_rate in [bench.finetune]"
            )
        record = provenance(
            **{
                "cell": cell.id,
                "n_annotations": len(ids),
                "selection": digest(sorted(ids)),
                "evaluate_seconds": seconds,
                "seconds": time.monotonic() - began,
                **details,
                **record,
            }
        )
        if answers is not None and answers.num_rows:
            write_table(self.directory / "answers" / f"{cell.id}.parquet", answers, {"cell": cell.id})
        write_table(cell_file(self.directory, cell), result_table(cell, rows), record)
        return record

    def _timed(self, lm: LanguageModel, items: Sequence[str]) -> tuple[list[dict[str, Any]], pa.Table | None, float]:
        began = time.monotonic()
        rows, answers = self.evaluate(lm, items)
        return rows, answers, time.monotonic() - began

    def evaluate(
        self, lm: LanguageModel, items: Sequence[str], *, benchmarks: bool = True
    ) -> tuple[list[dict[str, Any]], pa.Table | None]:
        """Per-item results of a model on all tasks of the bench, and its answers to the held-out prompts."""
        asked = self.config
        settings = EvaluateConfig(
            tasks=asked.tasks,
            generate=asked.generate or asked.scorer is not None,
            max_new_tokens=asked.max_new_tokens,
            scorer=asked.scorer,
            data=asked.data,
            num_fewshot=asked.num_fewshot,
            limit=asked.limit,
            dtype=asked.finetune.dtype,
            device=asked.finetune.device,
        )
        rows: list[dict[str, Any]] = []
        answers = None
        own, others = tasks_of(asked)
        if own:
            from thriftune.evaluation import heldout

            key = tuple(items)
            if key not in self._items:
                known = [self.responses()[i] for i in items]
                self._items = {key: heldout.prepare(lm, self.prompts(items), known, settings)}
            table, answers = heldout.measure(lm, self._items[key], settings, say=_silent)
            rows += table.to_pylist()
        if others and benchmarks:
            from thriftune.evaluation.harness import harness

            rows += harness(lm, others, settings, say=_silent, announce=False).to_pylist()
        return rows, answers

    # --- prompts ----------------------------------------------------------------------------------------------------

    def responses(self) -> dict[str, str]:
        if not self._responses:
            self._responses = self.study.responses(self.config.annotations)
        return self._responses

    def prompts(self, ids: Sequence[str]) -> list[Prompt]:
        missing = [i for i in ids if i not in self._prompts]
        if missing:
            self._prompts.update({p.id: p for p in self.study.prompts(missing)})
        return [self._prompts[i] for i in ids]

    def examples(self, ids: Sequence[str]) -> list[Example]:
        missing = [i for i in ids if i not in self._examples]
        if missing:
            answers = [self.responses()[i] for i in missing]
            limit = self.config.finetune.max_tokens
            made = tokenize(self.model(), self.prompts(missing), answers, limit)
            self._examples.update(zip(missing, made, strict=True))
        return [self._examples[i] for i in ids]


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def result_table(cell: Cell, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of an evaluation as rows of results.parquet."""
    import pyarrow as pa

    n = len(rows)
    return pa.table(
        {
            "strategy": pa.array([cell.strategy] * n, pa.string()),
            "budget": pa.array([cell.budget] * n, pa.int64()),
            "seed": pa.array([cell.seed] * n, pa.int64()),
            "task": pa.array([row["task"] for row in rows], pa.string()),
            "item": pa.array([row["item"] for row in rows], pa.string()),
            "metric": pa.array([row["metric"] for row in rows], pa.string()),
            "value": pa.array([row["value"] for row in rows], pa.float64()),
        }
    )


def cell_file(directory: Path, cell: Cell) -> Path:
    return directory / "cells" / f"{cell.id}.parquet"


def finished(directory: Path, cell: Cell) -> dict[str, Any] | None:
    """The record of a cell that is finished; None where it is not, or its file is damaged."""
    file = cell_file(directory, cell)
    if not file.exists():
        return None
    try:
        record = read_record(file)
        read_table(file)
    except StudyError:
        return None
    return record


def copy(directory: Path, source: Cell, cell: Cell, details: dict[str, Any]) -> dict[str, Any]:
    """Write a cell whose training and evaluation are those of another."""
    rows = read_table(cell_file(directory, source)).to_pylist()
    made = {k: v for k, v in read_record(cell_file(directory, source)).items() if k not in ("created", "versions")}
    record = provenance(**{**made, **details, "cell": cell.id, "reused": source.id})
    write_table(cell_file(directory, cell), result_table(cell, rows), record)
    return record
