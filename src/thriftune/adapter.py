"""Loading what fine-tuning made: an adapter on its base model, or a model of its own."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from thriftune.artifacts import read_json, read_object
from thriftune.errors import ModelError, require
from thriftune.model import LanguageModel, fingerprint, load

_LOCAL = "files-"  # how revisions begin that are fingerprints of local files


def is_tuned(directory: Path) -> bool:
    """Whether ``directory`` is a model's of a study, or an adapter in PEFT's format."""
    return _adapter(directory) is not None or (
        (directory / "manifest.json").is_file() and (directory / "model" / "config.json").is_file()
    )


def _adapter(directory: Path) -> Path | None:
    return next((d for d in (directory / "adapter", directory) if (d / "adapter_config.json").is_file()), None)


def tuned_revision(directory: Path) -> str:
    """The revision that `load_tuned` gives: a fingerprint of what was trained.

    Raises:
        ModelError: nothing is there.
    """
    trained = _adapter(directory) or directory / "model"
    if not is_tuned(directory):
        raise ModelError(f"{directory} holds neither adapter/ nor model/: fine-tune again")
    return fingerprint(trained)


def load_tuned(
    directory: Path, *, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> LanguageModel:
    """Load a fine-tuned model for inference.

    Args:
        directory: a study's ``models/NAME`` (``adapter/`` counts before ``model/``), or an adapter's directory in
            PEFT's format.
        dtype: as for `thriftune.model.load`.
        device: as for `thriftune.model.load`.
        trust_remote_code: let the base model's repository run its own code.

    Returns:
        The model in eval mode, the adapter's layers inside it; ``spec`` is the directory, ``revision`` a fingerprint
        of what was trained.

    Raises:
        ModelError: nothing is there, the base model cannot be loaded or is no longer what the adapter was trained on.
        MissingDependency: peft is not installed.
    """
    adapter, revision = _adapter(directory), tuned_revision(directory)
    options = {"dtype": dtype, "device": device}
    if adapter is None:
        lm = load(str(directory / "model"), trust_remote_code=trust_remote_code, **options)
        return replace(lm, spec=str(directory))
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{adapter} has no adapter_model.safetensors (pickled weights can run code when loaded): save it again"
        )
    peft = require("peft", command=f"loading {adapter}", install="'thriftune[finetune]'")
    spec, trained_on = _base(directory, adapter)
    commit = None if trained_on is None or trained_on.startswith(_LOCAL) else trained_on
    lm = load(spec, revision=commit, trust_remote_code=trust_remote_code, **options)
    if directory != adapter and lm.revision != trained_on:
        raise ModelError(
            f"{directory} was trained on {spec} at {trained_on}, which is now {lm.revision}: restore that model, or "
            "fine-tune again"
        )
    import torch

    from thriftune.lora import lean

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what peft still calls transformers by
            warnings.filterwarnings("error", message="Found missing adapter keys")  # they would be as before training
            wrapped = peft.PeftModel.from_pretrained(lm.model, str(adapter), is_trainable=False)
    except Exception as error:  # peft, torch and safetensors raise dozens of types
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"the adapter {adapter} cannot be loaded ({said}): restore it, or fine-tune again") from error
    # The base model now has the adapter's layers in it: everything that runs a plain model runs this one.
    model = wrapped.get_base_model().eval()
    lean(model, getattr(torch, lm.dtype))
    return replace(lm, model=model, spec=str(directory), revision=revision)


def _base(directory: Path, adapter: Path) -> tuple[str, str | None]:
    """What the adapter was trained on: model and, where known, revision."""
    manifest = directory / "manifest.json"
    if manifest.is_file():
        try:
            base = read_json(manifest)["base"]
            return str(base["model"]), str(base["revision"])
        except (KeyError, TypeError):
            raise ModelError(f"{manifest} does not say what base model the adapter is for: fine-tune again") from None
    described = read_object(adapter / "adapter_config.json")
    name = described.get("base_model_name_or_path")
    if not name:
        raise ModelError(f"{adapter} does not name its base model: set base_model_name_or_path in adapter_config.json")
    return str(name), described.get("revision")
