"""`thriftune finetune`: answers of a study to a model; the same command continues an interrupted run."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from thriftune.artifacts import make_directory, provenance, read_object, write_json, write_table
from thriftune.config import FinetuneConfig
from thriftune.errors import FinetuneError
from thriftune.examples import Example, tokenize
from thriftune.finetuning.save import merge, save_adapter, save_model
from thriftune.finetuning.train import Trained, train
from thriftune.memory import peak
from thriftune.model import LanguageModel, load
from thriftune.reserve import with_replacements
from thriftune.study import HOLDOUT, Study

Say = Callable[[str], None]


def finetune(study: Study, config: FinetuneConfig, *, say: Say = print) -> Path:
    """Fine-tune a model on the answers of a study.

    Args:
        study: with answers.
        config: on what, and how.
        say: receives the lines meant for people.

    Returns:
        The model's directory, complete.

    Raises:
        FinetuneError: there are no answers, or the model exists with other settings.
        ModelError: the base model cannot be loaded.
    """
    ids, responses = _answers(study, config, say)
    name = config.name or _default_name(config)
    directory = study.model_directory(name)
    with study.lock(f"finetune-{name}"):
        spec, revision = _base(study, config)
        answered = hashlib.sha256()
        for id_, response in zip(ids, responses, strict=True):
            answered.update(f"{len(id_)}:{id_}{len(response)}:{response}".encode())
        wanted = {
            "config": {**config.model_dump(), "model": spec, "revision": revision, "name": name, "merge": False},
            "answers": answered.hexdigest(),
        }
        done = directory / "manifest.json"
        _check_same(done if done.exists() else directory / "plan.json", wanted, directory)
        if done.exists() and not _lacks_merged(directory, config):
            _tidy(directory)
            examples = read_object(done, examples=int)["examples"]
            say(f"{name}: already fine-tuned on {examples:,} examples; nothing to do")
            return directory
        make_directory(directory)
        lm = load(
            spec,
            revision=revision,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
        )
        wanted["resolved"] = lm.resolved
        _check_same(done if done.exists() else directory / "plan.json", wanted, directory)
        if done.exists():
            merge(lm, directory / "adapter", directory / "model", read_object(done, examples=int)["examples"])
            say(f"{name}: base and adapter merged into {directory / 'model'}")
            return directory
        write_json(directory / "plan.json", wanted)
        examples = tokenize(lm, study.prompts(ids), responses, config.max_tokens)
        cut = sum(e.truncated for e in examples)
        if cut:
            say(f"{cut:,} of {len(examples):,} examples are cut to fit; --max-tokens says how long they may be")
        trained = train(lm, examples, config, directory=directory / "checkpoints", say=say, probe=True)
        _write(directory, lm, trained, examples, wanted, config, say)
    return directory


def _answers(study: Study, config: FinetuneConfig, say: Say) -> tuple[list[str], list[str]]:
    """Ids, sorted, and responses of what is to be learned."""
    if config.selection == HOLDOUT:
        raise FinetuneError("the hold-out is there for evaluation: choose another --selection")
    found = study.responses(config.annotations)
    pool = study.pool(["id"])["id"].to_pylist()
    chosen = pool if config.selection is None else with_replacements(study, config.selection)
    held = set(chosen) - set(pool)
    ids = sorted(i for i in chosen if i not in held and found.get(i, "").strip())
    if not ids:
        where = f" to selection {config.selection!r}" if config.selection else ""
        raise FinetuneError(
            f"{study.path} has no {config.annotations} answers{where}: "
            f"bring some in with: thriftune import {study.quoted} FILE, or give --annotations"
        )
    if config.selection is not None and len(ids) < len(chosen):
        say(f"{len(chosen) - len(ids):,} of the {len(chosen):,} selected prompts have no answer and are left out")
    return ids, [found[i] for i in ids]


def _default_name(config: FinetuneConfig) -> str:
    return "-".join([config.selection or "all", *([] if config.annotations == "human" else [config.annotations])])


def _base(study: Study, config: FinetuneConfig) -> tuple[str, str | None]:
    """The model to start from: the one given, else the one that scored the pool, at the same commit."""
    if config.model is not None:
        return config.model, config.revision
    runs = study.score_runs()
    if not runs:
        raise FinetuneError(f"{study.path} has no score run to take the model from: give --model")
    manifest = read_object(study.score_directory(runs[-1]) / "manifest.json", config=dict, resolved=dict)
    spec, commit = manifest["config"].get("model"), manifest["resolved"].get("revision")
    if not isinstance(spec, str) or not isinstance(commit, str):
        raise FinetuneError(f"score run {runs[-1]!r} does not say which model it ran: give --model")
    return spec, config.revision or (None if commit.startswith("files-") else commit)


def _check_same(file: Path, wanted: dict[str, Any], directory: Path) -> None:
    """Refuse to continue what was begun with other settings or answers."""
    if not file.exists():
        return
    before = read_object(file)
    changed = []
    for section, now in wanted.items():
        then = before.get(section)
        if isinstance(now, dict) and isinstance(then, dict):
            changed += [f"{k} was {then.get(k)!r}, now {v!r}" for k, v in now.items() if then.get(k) != v]
        elif then is not None and then != now:
            changed.append(f"the {section} are others")
    if changed:
        raise FinetuneError(
            f"model {directory.name!r} exists with other settings ({'; '.join(changed)}): "
            f"give this one another --name, or remove {directory} to start it anew"
        )


def _lacks_merged(directory: Path, config: FinetuneConfig) -> bool:
    return config.merge and not (directory / "model").exists()


def _tidy(directory: Path) -> None:
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    (directory / "plan.json").unlink(missing_ok=True)
    for left in directory.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _write(
    directory: Path,
    base: LanguageModel,
    trained: Trained,
    examples: Sequence[Example],
    wanted: dict[str, Any],
    config: FinetuneConfig,
    say: Say,
) -> None:
    import pyarrow as pa

    lm = trained.model
    highest = peak(lm.device)
    if config.method == "lora":
        save_adapter(trained, directory / "adapter", len(examples))
    columns = {
        "step": pa.int64(),
        "epoch": pa.float64(),
        "loss": pa.float64(),
        "learning_rate": pa.float64(),
        "seconds": pa.float64(),
    }
    log = pa.table({c: pa.array([line[c] for line in trained.log], kind) for c, kind in columns.items()})
    origin = provenance()
    origin["versions"] |= {package: metadata.version(package) for package in ("peft", "trl", "accelerate")}
    write_table(directory / "log.parquet", log, origin)
    last = trained.log[-max(1, len(trained.log) // 10) :]
    manifest = {
        **origin,
        "stage": "finetune",
        **wanted,
        "effective": {k: getattr(trained.config, k) for k in ("learning_rate", "epochs")},
        "base": {"model": lm.spec, "revision": lm.revision},
        "selection": config.selection,
        "annotations": config.annotations,
        "examples": len(examples),
        "truncated": sum(e.truncated for e in examples),
        "tokens": trained.tokens,
        "response_tokens": trained.response_tokens,
        "steps": trained.steps,
        "seconds": round(trained.seconds, 2),
        "peak_memory_bytes": None if math.isnan(highest) else int(highest * 2**30),
        "final_loss": sum(line["loss"] for line in last) / len(last),
    }
    if config.method == "full":
        save_model(lm, directory / "model", len(examples))
    elif config.merge:
        trained.detach()
        merge(base, directory / "adapter", directory / "model", len(examples))
    write_json(directory / "manifest.json", manifest)
    _tidy(directory)
    say(
        f"fine-tuned {lm.spec} on {len(examples):,} examples in {trained.seconds / 60:.1f} min "
        f"({trained.tokens / max(trained.seconds, 1e-9):,.0f} tokens/s, peak memory {highest:.2f} GiB): "
        f"loss {trained.log[0]['loss']:.3f} at first, {manifest['final_loss']:.3f} in the end; it is in {directory}"
    )
