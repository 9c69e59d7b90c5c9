"""Public benchmarks through lm-evaluation-harness: its prompts, its scoring, one row per question."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.config import EvaluateConfig
from thriftune.errors import EvaluationError
from thriftune.evaluation.harness_tasks.aggregate import aggregate, metric_name
from thriftune.evaluation.harness_tasks.catalogue import Leaf, Wanted, harness_root, quiet, resolve, write_tasks
from thriftune.evaluation.harness_tasks.loading import OTHER_SEED, SEED, load_task, size
from thriftune.evaluation.harness_workload import Workload, measure
from thriftune.model import LanguageModel
from thriftune.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from thriftune.evaluation.harness_model import HarnessModel

__all__ = ["Workload", "aggregated", "harness", "task_names", "workload", "write_tasks"]

Say = Callable[[str], None]


def task_names(tasks: Sequence[str], config: EvaluateConfig) -> list[str]:
    """The single tasks that ``tasks`` stand for, named as in the rows; each may be given to `harness` alone.

    Args:
        tasks: see `harness`.
        config: ``data`` and ``num_fewshot`` are read.

    Raises:
        EvaluationError: an unknown name.
    """
    return [leaf.label for leaf in _leaves(_resolve(tasks, config))]


def aggregated(rows: pa.Table, tasks: Sequence[str], config: EvaluateConfig) -> pa.Table:
    """Numbers by group and task as the harness reports them: MMLU and BBH are means over all questions.

    Args:
        rows: what `harness` returned, for one or several calls.
        tasks: what was asked for.
        config: as given to `harness`.

    Returns:
        task, metric, value, stderr (null where the harness gives none), items.
    """
    return aggregate(rows, _resolve(tasks, config), data=config.data)


def workload(language_model: LanguageModel, tasks: Sequence[str], config: EvaluateConfig) -> Workload:
    """How much there is to do and roughly how long it takes, from some prompts of each task and one timed batch.

    Args:
        language_model: the model to be measured.
        tasks: see `harness`.
        config: as given to `harness`.

    Raises:
        EvaluationError: an unknown task, data that cannot be had, or a task that this model or version cannot do.
    """
    with quiet():
        lm = _wrapped(language_model, config)
        built = [(leaf, load_task(leaf, config)) for leaf in _leaves(_resolve(tasks, config))]
        return measure(lm, built, config)


def harness(
    language_model: LanguageModel,
    tasks: Sequence[str],
    config: EvaluateConfig,
    *,
    say: Say = print,
    announce: bool = True,
) -> pa.Table:
    """Measure a model on tasks of lm-evaluation-harness.

    Args:
        language_model: in eval mode; an adapter may be attached.
        tasks: ``mmlu``, ``mmlu_5shot``, ``mmlu_anatomy``; ``bbh`` (few-shot, direct answers), ``bbh_cot`` (few-shot,
            chain of thought), ``bbh_snarks``, ``bbh_cot_snarks``; or any task, group or tag of the harness.
        config: ``data`` is a directory with ``mmlu.parquet`` and ``bbh.parquet`` (no network is used then);
            ``limit`` takes the first questions of each task; ``num_fewshot``, ``batch_size``,
            ``apply_chat_template``.
        say: where messages go.
        announce: first measure and say how long it will take (see `workload`).

    Returns:
        task string (the harness' name, with ``_Nshot`` where N is not the task's own number of examples), item string
        (task/row in the test split, from 0), metric string (``acc``, ``exact_match``, ...; ``metric,filter`` for tasks
        that filter answers in several ways), value float64.

    Raises:
        EvaluationError: an unknown task, data that cannot be had, a model that cannot do it.
        MissingDependency: lm-evaluation-harness is not installed.

    Source:
        Gao et al., "A framework for few-shot language model evaluation", https://zenodo.org/records/12608602.
    """
    import pyarrow as pa

    wanted = _resolve(tasks, config)
    for typed, one in zip(tasks, wanted, strict=True):
        if announce and one.name == "bbh_fewshot" and not typed.startswith(one.name):
            say("bbh: few-shot examples, direct answers (the harness itself gives the name bbh to bbh_cot)")
    leaves = _leaves(wanted)
    rows: list[dict[str, Any]] = []
    with quiet(), _seeded():
        lm = _wrapped(language_model, config)
        built = [(leaf, load_task(leaf, config)) for leaf in leaves]
        items = [size(task, config) for _, task in built]
        if announce:
            say(str(measure(lm, built, config)))
        with progress("benchmarks", sum(items), "questions") as advance:
            for (leaf, task), n in zip(built, items, strict=True):
                rows += _run(lm, leaf, task, config, _questions(advance, n, task), say)
    if lm.cut:
        say(f"{lm.cut:,} prompts were longer than the model's {lm.max_length:,} tokens and lost their beginning")
    columns = {"task": pa.string(), "item": pa.string(), "metric": pa.string(), "value": pa.float64()}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))


def _resolve(tasks: Sequence[str], config: EvaluateConfig) -> list[Wanted]:
    harness_root()
    return resolve(tasks, data=config.data, shots=config.num_fewshot)


def _leaves(wanted: Sequence[Wanted]) -> list[Leaf]:
    return list({leaf.label: leaf for one in wanted for leaf in one.leaves}.values())


def _wrapped(language_model: LanguageModel, config: EvaluateConfig) -> HarnessModel:
    from thriftune.evaluation.harness_model import HarnessModel

    if config.apply_chat_template and not language_model.tokenizer.chat_template:
        raise EvaluationError(f"{language_model.spec} has no chat template: leave --apply-chat-template out")
    return HarnessModel(language_model, config.batch_size)


# --- running --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """The harness' seeds inside, the caller's random state again afterwards."""
    import torch

    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(SEED)
        np.random.seed(OTHER_SEED)
        torch.manual_seed(OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


def _questions(advance: Callable[[float], None], n: int, task: Any) -> Callable[[float], None]:
    """Advance by questions where the harness counts requests, of which a question may have several."""

    def step(requests: float) -> None:
        advance(requests * n / max(len(task.instances or ()), 1))

    return step


def _run(
    lm: HarnessModel, leaf: Leaf, task: Any, config: EvaluateConfig, advance: Callable[[float], None], say: Say
) -> list[dict[str, Any]]:
    import torch
    from lm_eval.evaluator import evaluate

    if task.OUTPUT_TYPE == "generate_until":
        new = lm.new_tokens(task.config.generation_kwargs or {})
        if new >= lm.max_length:
            raise EvaluationError(
                f"{leaf.label} lets answers have {new:,} tokens, the model's context has {lm.max_length:,}: "
                "choose a model with a longer context or another task"
            )
    lm.advance_with(advance)
    cut = lm.cut
    while True:
        try:
            found = evaluate(
                lm=lm,
                task_dict={"tasks": {leaf.name: task}, "groups": {}, "group_map": {}},
                limit=config.limit,
                bootstrap_iters=0,
                apply_chat_template=config.apply_chat_template,
                fewshot_as_multiturn=config.apply_chat_template,
            )
            break
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            lm.shrink, lm.cut = lm.shrink / 2, cut
            if config.batch_size != "auto" or lm.shrink < 1 / 64:
                size = f"--batch-size {config.batch_size}" if config.batch_size != "auto" else "one question at a time"
                raise EvaluationError(
                    f"{leaf.label} does not fit into the memory of {lm.device} with {size}: lower --batch-size, use "
                    "--dtype bfloat16 or fewer few-shot examples"
                ) from None
    task._instances = None  # the task stays in memory for the next model, its prompts need not
    return _rows(leaf, found["samples"][leaf.name], say)


def _rows(leaf: Leaf, samples: list[dict[str, Any]], say: Say) -> list[dict[str, Any]]:
    filters = sorted({sample["filter"] for sample in samples})
    rows, other = [], set()
    for sample in samples:
        for metric in sample["metrics"]:
            value = sample[metric]
            if isinstance(value, (bool, int, float, np.number)):
                name = metric_name(metric, sample["filter"], filters)
                item = f"{leaf.name}/{sample['doc_id']}"
                rows.append({"task": leaf.label, "item": item, "metric": name, "value": float(value)})
            else:
                other.add(metric)
    if not rows:
        raise EvaluationError(f"{leaf.label} has no metric that is a number for each question: choose another task")
    if other:
        say(f"{leaf.label}: {', '.join(sorted(other))} cannot be told question by question and is left out")
    return rows
