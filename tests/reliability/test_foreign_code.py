"""A study or a model may come from anybody: opening one never runs code that it brought along, unless asked to."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thriftune.artifacts import read_json, write_json
from thriftune.errors import ThriftuneError
from thriftune.study import Study
from thriftune.types import Prompt

pytest.importorskip("torch")
pytest.importorskip("transformers")


class _Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return exec, (_mark(self.marker),)


def _mark(marker: Path) -> str:
    return f"open({str(marker)!r}, 'a').write('ran ')\n"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def change(file: Path, **values: Any) -> None:
    held = json.loads(file.read_text())
    file.write_text(json.dumps({**held, **values}))


def with_code(model: Path, marker: Path) -> None:
    """Python beside the weights, which config and tokenizer point to."""
    (model / "evil.py").write_text(
        _mark(marker)
        + "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        + "class EvilConfig(LlamaConfig):\n    model_type = 'evil'\n"
        + "class EvilModel(LlamaForCausalLM):\n    config_class = EvilConfig\n"
        + "class EvilTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel", "AutoModel": "evil.EvilModel"}
    change(model / "config.json", auto_map=code, architectures=["EvilModel"])
    change(
        model / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]},
        tokenizer_class="EvilTokenizer",
    )


def unknown_kind(model: Path, marker: Path) -> None:
    with_code(model, marker)
    change(model / "config.json", model_type="evil")


def only_pickles(model: Path, marker: Path) -> None:
    for file in model.glob("*.safetensors"):
        file.unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(marker)))


def pickles_beside(model: Path, marker: Path) -> None:
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        (model / name).write_bytes(pickle.dumps(_Bomb(marker)))


def index_of_pickles(model: Path, marker: Path) -> None:
    """An index that names a pickle as a part of the safetensors."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
    (model / "model.safetensors").rename(model / "part.safetensors")
    (model / "evil.bin").write_bytes(pickle.dumps(_Bomb(marker)))
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "evil.bin")})
    )


def pickle_called_safetensors(model: Path, marker: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(_Bomb(marker)))


def template(model: Path, marker: Path) -> None:
    """A chat template that climbs out of the template."""
    climb = (
        "{{ cycler.__init__.__globals__.__builtins__.exec(" + json.dumps(_mark(marker)) + ") }}"
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{{ c.__init__.__globals__ }}{% endfor %}"
    )
    change(model / "tokenizer_config.json", chat_template=climb)
    for file in model.glob("chat_template*"):
        file.write_text(climb)


POISONS = [
    with_code, unknown_kind, only_pickles, pickles_beside, index_of_pickles, pickle_called_safetensors, template
]  # fmt: skip


def attempt(what: Callable[[], Any]) -> str:
    """What it says: an error of ours in one sentence is as good as doing it."""
    try:
        what()
    except ThriftuneError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("poison", POISONS, ids=lambda p: p.__name__)
def test_a_models_code_does_not_run(
    poison: Callable[[Path, Path], None], tiny_model: Path, tmp_path: Path, marker: Path
) -> None:
    from thriftune.model import load
    from thriftune.render import Renderer

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    poison(model, marker)

    def use() -> None:
        lm = load(str(model), dtype="float32", device="cpu")
        Renderer(lm.tokenizer, 100).render([Prompt("p", "Hello")])

    said = attempt(use)
    assert not marker.exists()
    if poison in (only_pickles, pickle_called_safetensors, index_of_pickles, unknown_kind):
        assert said


def test_the_poison_works_where_it_is_asked_for(tiny_model: Path, tmp_path: Path, marker: Path) -> None:
    from thriftune.model import load

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    unknown_kind(model, marker)
    assert "--trust-remote-code" in attempt(lambda: load(str(model), device="cpu"))
    assert not marker.exists()
    attempt(lambda: load(str(model), device="cpu", trust_remote_code=True))
    assert marker.exists()


def test_a_study_that_says_to_trust_is_not_believed(
    small_study: Study, tiny_model: Path, tmp_path: Path, marker: Path
) -> None:
    from thriftune.bench.plan import model_of
    from thriftune.config import BenchConfig, EvaluateConfig
    from thriftune.evaluation.subject import choose, open_model

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    unknown_kind(model, marker)
    recorded = {"config": {"model": str(model), "trust_remote_code": True}, "resolved": {"revision": "files-0"}}
    write_json(small_study.score_directory("default") / "manifest.json", recorded)
    subject = choose(small_study, EvaluateConfig())
    assert subject.spec == str(model) and not subject.trust_remote_code
    assert "--trust-remote-code" in attempt(lambda: open_model(subject, EvaluateConfig(device="cpu")))
    # The same of a fine-tuned model's record, and of what an experiment would train.
    tuned = small_study.model_directory("evil")
    tuned.mkdir(parents=True)
    shutil.copytree(model, tuned / "model")
    write_json(tuned / "manifest.json", {"base": {"model": str(model), "revision": "files-0"}, **recorded})
    subject = choose(small_study, EvaluateConfig(model="evil"))
    assert not subject.trust_remote_code
    attempt(lambda: open_model(subject, EvaluateConfig(device="cpu")))
    assert model_of(small_study, BenchConfig())["trust_remote_code"] is False
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["pickle", "auto_mapping", "megatron", "base"])
def test_an_adapters_code_does_not_run(
    kind: str, tiny_model: Path, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    import transformers

    from thriftune.adapter import load_tuned

    adapter, home = tmp_path / "adapter", tmp_path / "home"
    home.mkdir()
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(adapter)
    (adapter / "evil_module.py").write_text(_mark(marker))
    change(adapter / "adapter_config.json", base_model_name_or_path=str(tiny_model))
    if kind == "pickle":
        (adapter / "adapter_model.safetensors").unlink()
        (adapter / "adapter_model.bin").write_bytes(pickle.dumps(_Bomb(marker)))
    elif kind == "auto_mapping":
        mapping = {"base_model_class": "Evil", "parent_library": "evil_module"}
        change(adapter / "adapter_config.json", auto_mapping=mapping)
    elif kind == "megatron":
        change(adapter / "adapter_config.json", megatron_config={"tensor": 1}, megatron_core="evil_module")
    else:
        model = tmp_path / "base"
        shutil.copytree(tiny_model, model)
        unknown_kind(model, marker)
        change(adapter / "adapter_config.json", base_model_name_or_path=str(model))
    monkeypatch.chdir(adapter)
    # As installed commands have it: the directory they are run in is no place for modules.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    said = attempt(lambda: load_tuned(adapter, dtype="float32", device="cpu"))
    assert "safetensors" in said if kind == "pickle" else True
    assert not marker.exists()


def test_pickled_arrays_of_a_study_are_refused(small_study: Study, marker: Path) -> None:
    file = small_study.score_directory("default") / "embeddings.npy"
    bombs = np.empty(12, object)
    bombs[:] = [_Bomb(marker)] * 12
    for content in (bombs, None):
        if content is None:
            file.write_bytes(pickle.dumps(_Bomb(marker)))
        else:
            np.save(file, content, allow_pickle=True)
        with pytest.raises((ThriftuneError, ValueError, OSError)):
            small_study.embeddings()
    assert not marker.exists()


def test_modules_of_a_study_do_not_shadow_ours(small_study: Study, marker: Path) -> None:
    command = Path(sys.executable).parent / "thriftune"
    if not command.exists():
        pytest.skip("the command is not installed")
    for name in ("numpy", "torch", "pyarrow", "typer", "pydantic", "json", "sitecustomize", "thriftune"):
        (small_study.path / f"{name}.py").write_text(_mark(marker))
    done = subprocess.run(
        [command, "status", "."], cwd=small_study.path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    assert read_json(small_study.path / "study.json")
