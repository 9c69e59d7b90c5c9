"""Which model is evaluated: a fine-tuned one of the study, the base model, or any other."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thriftune.adapter import is_tuned, load_tuned, tuned_revision
from thriftune.artifacts import read_json
from thriftune.config import EvaluateConfig
from thriftune.errors import EvaluationError, ModelError
from thriftune.model import LanguageModel, load, local_revision
from thriftune.study import Study

BASE = "base"


@dataclass(frozen=True)
class Subject:
    """A model to evaluate, not loaded yet.

    Args:
        name: what its evaluation is called.
        spec: what to load, see `thriftune.model.locate`; of a fine-tuned model its directory.
        revision: what it must be: a hub commit or a fingerprint; None where only loading tells.
        asked: hub branch, tag or commit to load.
        tuned: directory of a fine-tuned model, or None.
        base: ``model`` and ``revision`` that it was fine-tuned from, where known.
        trust_remote_code: let the model's repository run its own code.
    """

    name: str
    spec: str
    revision: str | None
    asked: str | None = None
    tuned: Path | None = None
    base: Mapping[str, str] | None = None
    trust_remote_code: bool = False


def choose(study: Study, config: EvaluateConfig) -> Subject:
    """The model that ``config.model`` means.

    Args:
        study: whose models may be named.
        config: ``model`` (None: the latest fine-tuned model, else the base model), ``revision`` and
            ``trust_remote_code`` count here.

    Raises:
        EvaluationError: there is no such model, or none at all.
        ModelError: the model's files are not there.
    """
    models = study.models()
    wanted = config.model or (models[-1] if models else BASE)
    if wanted == BASE:
        subject = _base(study, models)
    elif wanted in models:
        subject = _tuned(study.model_directory(wanted))
    elif Path(wanted).is_dir() and is_tuned(Path(wanted)):
        subject = _tuned(Path(wanted))
    else:
        near = difflib.get_close_matches(wanted, [*models, BASE], 1)
        if near and not Path(wanted).exists():  # before half a minute of asking the hub for it
            raise EvaluationError(f"no model {wanted!r}: did you mean {near[0]!r}?{_there(models)}")
        revision = None if config.revision else _local(wanted, models)
        subject = Subject(_file_name(wanted), wanted, revision, asked=config.revision)
    if config.revision and subject.spec != wanted:
        raise EvaluationError(
            f"--revision {config.revision} is for models of the hub, not for {wanted!r}: leave it out"
        )
    # Never because the study says so: it may come from somebody else.
    return replace(subject, trust_remote_code=config.trust_remote_code)


def open_model(subject: Subject, config: EvaluateConfig) -> LanguageModel:
    """Load the model.

    Raises:
        EvaluationError: it is no longer what it was when the study was scored or the adapter trained.
        ModelError: it cannot be loaded.
    """
    if subject.tuned is not None:
        return load_tuned(
            subject.tuned, dtype=config.dtype, device=config.device, trust_remote_code=subject.trust_remote_code
        )
    lm = load(
        subject.spec,
        revision=subject.asked,
        dtype=config.dtype,
        device=config.device,
        trust_remote_code=subject.trust_remote_code,
    )
    if subject.revision is not None and lm.revision != subject.revision:
        raise EvaluationError(
            f"{subject.spec} is {lm.revision} now, the study was made with {subject.revision}: restore that model, or "
            f"give --model {subject.spec} to evaluate it as it is"
        )
    return lm


def _base(study: Study, models: list[str]) -> Subject:
    """The model that the latest fine-tuning started from; before any, the one that scored the pool."""
    if models:
        manifest = _manifest(study.model_directory(models[-1]))
        base = manifest.get("base") or {}
        spec, revision = base.get("model"), base.get("revision")
    else:
        runs = study.score_runs()
        if not runs:
            raise EvaluationError(
                f"{study.path} has no model yet: give --model, or run: thriftune finetune {study.quoted}"
            )
        manifest = _manifest(study.score_directory(runs[-1]))
        config = manifest.get("config") or {}
        spec, revision = config.get("model"), (manifest.get("resolved") or {}).get("revision")
    if not spec or not revision:
        raise EvaluationError(f"{study.path} does not record which model it was made with: give --model")
    commit = None if revision.startswith("files-") else revision
    return Subject(BASE, spec, revision, asked=commit)


def _manifest(directory: Path) -> dict[str, Any]:
    file = directory / "manifest.json"
    found = read_json(file) if file.exists() else {}
    parts = {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
    # All that is read of them is text.
    return {k: {name: v for name, v in part.items() if isinstance(v, str)} for k, part in parts.items()}


def _tuned(directory: Path) -> Subject:
    manifest = _manifest(directory)
    base = manifest.get("base")
    return Subject(
        _file_name(str(directory)),
        str(directory),
        tuned_revision(directory),
        tuned=directory,
        base=base if isinstance(base, dict) else None,
    )


def _local(spec: str, models: list[str]) -> str | None:
    """The fingerprint of a local model, None for a hub id; what can only be a mistyped name is refused."""
    try:
        return local_revision(spec)
    except ModelError as error:
        raise EvaluationError(f"{error}{_there(models)}") from error


def _there(models: list[str]) -> str:
    return f" (models of this study: {', '.join([*models, BASE])})"


def _file_name(spec: str) -> str:
    """A name for the evaluation of ``spec``: its last part, as far as files can be called that."""
    last = spec.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", last).strip("-._+")[:80] or "model"
