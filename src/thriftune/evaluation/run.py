"""`thriftune evaluate`: task by task, each kept when it is done; the same command continues an interrupted one."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.artifacts import file_digest, provenance
from thriftune.config import EvaluateConfig
from thriftune.errors import ConfigError, EvaluationError, require
from thriftune.evaluation.heldout import HELDOUT, heldout
from thriftune.evaluation.parts import Kept, Part, Settings
from thriftune.evaluation.scorers import load_scorer
from thriftune.evaluation.subject import Subject, choose, open_model
from thriftune.model import LanguageModel, choose_device, choose_dtype
from thriftune.study import HOLDOUT, Study
from thriftune.types import Prompt

if TYPE_CHECKING:
    import pyarrow as pa

Say = Callable[[str], None]

_HARNESS_SETTINGS = ("data", "num_fewshot", "apply_chat_template", "limit")
_HELDOUT_SETTINGS = ("generate", "max_new_tokens", "max_prompt_tokens", "scorer", "limit")


@dataclass(frozen=True)
class Questions:
    """Held-out prompts with their known responses, or None."""

    prompts: Sequence[Prompt]
    responses: Sequence[str | None]


def evaluate(study: Study, config: EvaluateConfig, *, replace: bool = False, say: Say = print) -> Path:
    """Measure a model on held-out prompts and public benchmarks, one row for each item and metric.

    Args:
        study: whose held-out prompts, answers and models are meant.
        config: which model, tasks (separated by commas) and settings.
        replace: make an evaluation of that name anew where it is of another model or has other settings.
        say: receives the lines meant for people.

    Returns:
        ``evaluations/NAME.parquet``, complete; answers to held-out prompts are in ``NAME.answers.parquet``. Tasks that
        it already had, with the same model and settings, are kept.

    Raises:
        ConfigError: no task is named.
        EvaluationError: nothing is held out or answered, the model or a task is unknown, or the name is taken.
        ModelError: the model cannot be loaded.
    """
    names = list(dict.fromkeys(name.strip() for name in config.tasks.split(",") if name.strip()))
    if not names:
        raise ConfigError("tasks is empty: give --tasks heldout,mmlu or leave it out")
    subject = choose(study, config)
    name = config.name or subject.name
    file = study.evaluation_file(name)
    if name.endswith((".answers", ".judgements")):
        raise EvaluationError(f"the name {name!r} is kept for the answers of an evaluation: give another --name")
    questions = _questions(study, config, say) if HELDOUT in names else Questions((), ())
    parts = _parts(names, questions, config)
    with study.lock(f"evaluate-{name}"):
        kept = Kept(file, _identity(subject, config))
        if replace:
            kept.forget()
        kept.check(parts)
        if all(part.task in kept.published for part in parts):
            kept.tidy()
            say(f"{name}: already evaluated on {', '.join(names)}")
            return file
        lm = open_model(subject, config)
        kept.settle(lm)
        missing = [part for part in parts if not kept.has(part)]
        if len(missing) < len(parts):
            say(f"{name}: {len(parts) - len(missing)} of {len(parts)} tasks are already done")
        for part in [p for p in missing if p.suite == HELDOUT]:
            say(f"{name}: {len(questions.prompts):,} held-out prompts with {lm.spec} on {lm.device} in {lm.dtype}")
            rows, answers = heldout(lm, questions.prompts, questions.responses, config, say=say)
            kept.add(part, rows, answers if config.generate else None)
        _benchmarks(lm, [p for p in missing if p.suite != HELDOUT], config, kept, say)
        kept.publish(_record(subject, lm, config), parts)
    return file


# --- what is to be done ---------------------------------------------------------------------------------------------


def _questions(study: Study, config: EvaluateConfig, say: Say) -> Questions:
    """The held-out prompts that can be used, in pool order."""
    if config.generate:  # said before an hour of answering, not after
        require("rouge_score", command="thriftune evaluate", install="'thriftune[evaluate]'")
    ids = study.pool(["id"], split=HOLDOUT)["id"].to_pylist()
    if not ids:
        raise EvaluationError(
            f"{study.path} has no held-out prompts: make the study anew with some: "
            f"thriftune init NEW_STUDY --pool FILE --holdout 200"
        )
    known = study.responses(config.annotations)
    usable = ids if config.scorer else [i for i in ids if i in known]
    if not usable:
        other = study.references() if "reference" not in config.annotations else {}
        hint = (
            "its pool has known responses: add --annotations reference"
            if any(i in other for i in ids)
            else f"write them out with: thriftune export {study.quoted} holdout.csv --selection holdout, fill in the "
            f"responses, then: thriftune import {study.quoted} holdout.csv"
        )
        raise EvaluationError(
            f"none of the {len(ids)} held-out prompts of {study.path} has an answer ({config.annotations}): {hint}"
        )
    if len(usable) < len(ids):
        say(f"{len(usable)} of {len(ids)} held-out prompts have an answer; the others are left out")
    if config.limit is not None and config.limit < len(usable):
        # The head of one permutation: a larger limit contains a smaller one's prompts.
        order = np.random.default_rng(config.seed).permutation(len(usable))[: config.limit]
        usable = [usable[i] for i in sorted(order)]
    return Questions(study.prompts(usable), [known.get(i) for i in usable])


def _parts(names: Sequence[str], questions: Questions, config: EvaluateConfig) -> list[Part]:
    parts: dict[str, Part] = {}
    for name in names:
        if name == HELDOUT:
            settings = {key: getattr(config, key) for key in _HELDOUT_SETTINGS}
            settings["prompts"] = _digest([p.id, p.turns, r] for p, r in zip(*_columns(questions), strict=True))
            if config.scorer:
                settings["scorer_code"] = _code(config.scorer)
            if config.limit:
                settings["seed"] = config.seed
            parts[name] = Part(name, name, settings)
            continue
        from thriftune.evaluation.harness import task_names

        settings = {key: getattr(config, key) for key in _HARNESS_SETTINGS}
        settings["data"] = None if config.data is None else str(Path(config.data).resolve())
        for task in task_names([name], config):
            parts.setdefault(task, Part(name, task, settings))
    return list(parts.values())


def _columns(questions: Questions) -> tuple[Sequence[Prompt], Sequence[str | None]]:
    return questions.prompts, questions.responses


def _digest(values: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(list(values), ensure_ascii=False).encode()).hexdigest()[:16]


def _code(spec: str) -> str | None:
    """A digest of the file that the scorer is in: with another scorer the answers count for something else."""
    source = inspect.getsourcefile(inspect.unwrap(load_scorer(spec)[1]))
    return file_digest(Path(source))[:16] if source else None


def _benchmarks(lm: LanguageModel, parts: Sequence[Part], config: EvaluateConfig, kept: Kept, say: Say) -> None:
    if not parts:
        return
    from thriftune.evaluation.harness import harness, workload

    say(str(workload(lm, [p.task for p in parts], config)))
    for number, part in enumerate(parts, 1):
        rows = harness(lm, [part.task], config, say=say, announce=False)
        kept.add(part, rows, None)
        say(f"[{number}/{len(parts)}] {part.task}: {_in_short(rows)}")


def _in_short(rows: pa.Table) -> str:
    values: dict[str, list[float]] = {}
    for metric, value in zip(rows["metric"].to_pylist(), rows["value"].to_pylist(), strict=True):
        values.setdefault(metric, []).append(value)
    return ", ".join(f"{metric} {np.mean(v):.3f} ({len(v):,} questions)" for metric, v in values.items())


def _identity(subject: Subject, config: EvaluateConfig) -> Settings:
    """What every part of an evaluation shares; None where only loading tells."""
    require("torch", command="thriftune evaluate", install="'thriftune[evaluate]'")
    return {
        "model": subject.spec if subject.tuned is None else subject.name,
        "revision": subject.revision,
        "dtype": choose_dtype(config.dtype, choose_device(config.device)),
    }


def _record(subject: Subject, lm: LanguageModel, config: EvaluateConfig) -> dict[str, Any]:
    tokenizer = getattr(lm.tokenizer, "backend_tokenizer", None)
    return provenance(
        stage="evaluate",
        adapter=None if subject.tuned is None else str(subject.tuned),
        base=None if subject.base is None else dict(subject.base),
        tokenizer=_digest([tokenizer.to_str()]) if tokenizer is not None else None,
        device=lm.device.partition(":")[0],
        config=config.model_dump(),
    )
