"""What fine-tuning made, loaded again: the same logits, on the same base or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from thriftune.adapter import is_tuned, load_tuned, tuned_revision  # noqa: E402
from thriftune.errors import ModelError  # noqa: E402
from thriftune.model import load  # noqa: E402

IDS = torch.tensor([[5, 17, 33, 120, 42, 9]])


def _logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def tuned(tiny_model: Path, tmp_path: Path) -> tuple[Path, Any]:
    """A model's directory as fine-tuning leaves it, on a copy of the tiny model; and the logits before saving."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    lm = load(str(base), dtype="float32", device="cpu")
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(lm.model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:  # zero until training moves it
                weight.normal_(0, 0.1)
    directory = tmp_path / "models" / "tuned"
    wrapped.eval().save_pretrained(directory / "adapter")
    manifest = {"base": {"model": str(base), "revision": lm.revision}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory, _logits(wrapped)


def test_an_adapter_reloads_to_identical_logits(tuned: tuple[Path, Any]) -> None:
    directory, before = tuned
    lm = load_tuned(directory, dtype="float32", device="cpu")
    assert torch.equal(_logits(lm.model), before)
    base = json.loads((directory / "manifest.json").read_text())["base"]["model"]
    plain = load(base, dtype="float32", device="cpu")
    assert not torch.allclose(_logits(plain.model), before, atol=1e-2)
    assert not lm.model.training
    assert lm.revision == tuned_revision(directory) != plain.revision
    assert lm.spec == str(directory)
    assert lm.stop_ids == plain.stop_ids and lm.context == plain.context


def test_an_adapter_by_itself_finds_the_base_that_it_names(tuned: tuple[Path, Any], tmp_path: Path) -> None:
    directory, before = tuned
    elsewhere = shutil.copytree(directory / "adapter", tmp_path / "elsewhere")
    assert is_tuned(elsewhere)
    assert torch.equal(_logits(load_tuned(elsewhere, dtype="float32", device="cpu").model), before)


def test_another_base_is_refused(tuned: tuple[Path, Any]) -> None:
    directory, _ = tuned
    manifest = json.loads((directory / "manifest.json").read_text())
    base = load(manifest["base"]["model"], dtype="float32", device="cpu")
    with torch.no_grad():
        base.model.lm_head.weight[3] += 1
    base.model.save_pretrained(manifest["base"]["model"])
    with pytest.raises(ModelError, match=r"was trained on .* at files-.*, which is now files-.*: restore"):
        load_tuned(directory, dtype="float32", device="cpu")


def test_a_whole_model_needs_no_base(tuned: tuple[Path, Any]) -> None:
    directory, before = tuned
    lm = load_tuned(directory, dtype="float32", device="cpu")
    base = Path(json.loads((directory / "manifest.json").read_text())["base"]["model"])
    merged = peft.PeftModel.from_pretrained(load(str(base), dtype="float32").model, directory / "adapter")
    merged.merge_and_unload().save_pretrained(directory / "model")
    lm.tokenizer.save_pretrained(directory / "model")
    shutil.rmtree(directory / "adapter")
    shutil.rmtree(base)
    whole = load_tuned(directory, dtype="float32", device="cpu")
    assert torch.allclose(_logits(whole.model), before, atol=1e-4)
    assert whole.revision == tuned_revision(directory)


@pytest.mark.parametrize("damage", ["truncated", "fewer", "empty", "no base"])
def test_damage_is_said(tuned: tuple[Path, Any], damage: str) -> None:
    from safetensors.torch import load_file, save_file

    directory, _ = tuned
    weights = directory / "adapter" / "adapter_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "fewer":
        tensors = load_file(weights)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, weights)
    elif damage == "empty":
        shutil.rmtree(directory / "adapter")
    else:
        (directory / "manifest.json").write_text("{}")
    said = {
        "truncated": "cannot be loaded",
        "fewer": "missing adapter keys",
        "empty": "holds neither adapter/ nor model/",
        "no base": "does not say what base model",
    }
    with pytest.raises(ModelError, match=said[damage]):
        load_tuned(directory, dtype="float32", device="cpu")
