"""A fine-tuned model as files that other programs load: PEFT adapter or plain model directory, with a model card."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from thriftune.artifacts import make_directory, sync_directory, sync_tree, writing
from thriftune.finetuning.prepare import quiet
from thriftune.finetuning.train import Trained
from thriftune.model import LanguageModel, locate

_ADAPTER_CARD = """---
base_model: {base}
library_name: peft
---
LoRA adapter trained by thriftune on {examples} examples; base model `{base}`, revision `{revision}`.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS DIRECTORY")
base = AutoModelForCausalLM.from_pretrained("{place}", dtype="{dtype}"{pin})
model = PeftModel.from_pretrained(base, "THIS DIRECTORY")
```
"""

_MODEL_CARD = """---
base_model: {base}
library_name: transformers
---
Fine-tuned by thriftune on {examples} examples; base model `{base}`, revision `{revision}`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS DIRECTORY")
model = AutoModelForCausalLM.from_pretrained("THIS DIRECTORY", dtype="{dtype}")
```
"""


def save_adapter(trained: Trained, directory: Path, examples: int) -> None:
    """Write the LoRA adapter, the tokenizer and a card with loading code.

    Args:
        trained: fine-tuned with LoRA.
        directory: where to; whatever stands there is replaced.
        examples: how many it was trained on, for the card.
    """
    lm = trained.model
    with _replacing(directory) as fresh:
        for settings in lm.model.peft_config.values():
            settings.base_model_name_or_path = _place(lm)
            settings.revision = _commit(lm)
        # Embeddings are never changed; "auto" would ask the hub whether they were.
        with quiet():
            lm.model.save_pretrained(fresh, safe_serialization=True, save_embedding_layers=False)
        lm.tokenizer.save_pretrained(fresh)
        (fresh / "README.md").write_text(_card(_ADAPTER_CARD, lm, examples), encoding="utf-8")


def save_model(lm: LanguageModel, directory: Path, examples: int) -> None:
    """Write a plain model directory with tokenizer and card.

    Args:
        lm: all weights its own, no adapter.
        directory: where to; whatever stands there is replaced.
        examples: how many it was trained on, for the card.
    """
    with _replacing(directory) as fresh:
        with quiet():
            lm.model.save_pretrained(fresh, safe_serialization=True)
        lm.tokenizer.save_pretrained(fresh)
        (fresh / "README.md").write_text(_card(_MODEL_CARD, lm, examples), encoding="utf-8")


def merge(base: LanguageModel, adapter: Path, directory: Path, examples: int) -> None:
    """Write base and adapter as one plain model directory.

    Args:
        base: what the adapter was trained on; used up.
        adapter: as `save_adapter` wrote it.
        directory: where to; whatever stands there is replaced.
        examples: how many it was trained on, for the card.
    """
    import peft
    import torch

    # Added up in float32 and rounded once; in main memory, since a GPU that trained it may not hold it in float32.
    with quiet():
        whole = peft.PeftModel.from_pretrained(base.model.to("cpu").float(), str(adapter)).merge_and_unload()
    save_model(replace(base, model=whole.to(getattr(torch, base.dtype))), directory, examples)


def _place(lm: LanguageModel) -> str:
    """Where transformers finds the base: a hub id, or the absolute path of a directory."""
    place = locate(lm.spec)
    return str(Path(place).resolve()) if Path(place).is_dir() else place


def _commit(lm: LanguageModel) -> str | None:
    return None if lm.revision.startswith("files-") else lm.revision


def _card(template: str, lm: LanguageModel, examples: int) -> str:
    commit = _commit(lm)
    return template.format(
        base=lm.spec,
        place=_place(lm),
        revision=lm.revision,
        examples=examples,
        dtype=lm.dtype,
        pin=f', revision="{commit}"' if commit else "",
    )


@contextlib.contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """A fresh directory beside ``directory`` that takes its place when the block ends well."""
    make_directory(directory.parent)
    fresh = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        with writing(directory):
            yield fresh
        sync_tree(fresh)
        umask = os.umask(0)
        os.umask(umask)
        fresh.chmod(0o777 & ~umask)  # mkdtemp makes it private
        if directory.exists():
            shutil.rmtree(directory)
        fresh.replace(directory)
        sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
