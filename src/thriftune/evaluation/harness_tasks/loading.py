"""The harness' task objects, set as its own entry point sets them, and what to say when one cannot be had."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from thriftune.config import EvaluateConfig
from thriftune.errors import EvaluationError
from thriftune.evaluation.harness_tasks.catalogue import Leaf, index, manager

# The harness' own: which few-shot examples are drawn must not differ from everyone else's numbers.
SEED, OTHER_SEED = 0, 1234


def load_task(leaf: Leaf, config: EvaluateConfig) -> Any:
    """The harness' task object with its few-shot examples set.

    Args:
        leaf: which task.
        config: ``data`` is read.

    Raises:
        EvaluationError: its data cannot be had, or it cannot be measured question by question.
    """
    stamp = 0
    if config.data is not None:
        file = Path(config.data) / f"{leaf.name.partition('_')[0]}.parquet"
        stamp = file.stat().st_mtime_ns if file.exists() else 0
    task = _built(leaf.name, config.data, stamp)
    default = (index(config.data, leaf.name)[leaf.name].cfg or {}).get("num_fewshot")
    shots = (default or 0) if leaf.shots is None else leaf.shots
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=OTHER_SEED)
    there = len(task.sampler.df) if shots and hasattr(task, "sampler") else shots
    if there < shots:
        raise EvaluationError(f"{leaf.name} has {there} few-shot examples, {shots} were asked for: lower --num-fewshot")
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise EvaluationError(f"{leaf.name} measures whole texts, not single answers: choose another task")
    if getattr(task, "UNSAFE_CODE", False):
        raise EvaluationError(f"{leaf.name} runs code that the model writes: use lm_eval itself, in a sandbox")
    if getattr(task, "MULTIMODAL", False):
        raise EvaluationError(f"{leaf.name} shows images or plays sound: only text is measured here")
    if leaf.name.startswith("bbh_fewshot_"):
        from lm_eval.filters import build_filter_ensemble

        # The harness compares " No" with "No": whatever they answer, models score 0 whose words begin with a space.
        steps: Any = [("custom", {"filter_fn": _stripped}), ("take_first", None)]
        task._filters = [build_filter_ensemble("none", steps)]
    return task


def _stripped(answers: list[list[str]], _questions: list[Any]) -> list[list[str]]:
    return [[answer.strip() for answer in of_question] for of_question in answers]


@functools.lru_cache(maxsize=256)
def _built(name: str, data: str | None, stamp: int) -> Any:
    found = manager(data)
    if name not in found.task_index:
        found = manager(None, True)
    try:
        return found.load([name])["tasks"][name]
    except ImportError as error:
        raise EvaluationError(f"{name} needs a package that is not installed: {_one_line(error)}") from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        source = (found.task_index[name].cfg or {}).get("dataset_path", name)
        raise EvaluationError(_explain(name, source, error)) from error


def _explain(name: str, source: str, error: Exception) -> str:
    text = _one_line(error)
    signs = (
        "connect",
        "offline",
        "resolve host",
        "name resolution",
        "timed out",
        "timeout",
        "reach the",
        "max retries",
    )
    unreachable = isinstance(error, (ConnectionError, TimeoutError)) or any(sign in text.lower() for sign in signs)
    if unreachable:
        local = name.startswith(("mmlu_", "bbh_"))
        way = ", or give local files with --data DIR (mmlu.parquet, bbh.parquet)" if local else ""
        return f"cannot reach the hub for the questions of {name} ({source}): check the network{way}"
    return f"the questions of {name} ({source}) cannot be loaded: {text}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def size(task: Any, config: EvaluateConfig) -> int:
    """How many questions of a task are asked."""
    return min(len(task.eval_docs), config.limit or 1 << 62)
