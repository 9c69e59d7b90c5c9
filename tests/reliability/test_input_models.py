"""Bad model directories: refused in a sentence, never executed, or loaded and able to read a prompt."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import spoiled
from verdict import Verdict

from thriftune.adapter import load_tuned
from thriftune.model import LanguageModel, load
from thriftune.render import Renderer
from thriftune.types import Prompt

PROMPTS = [
    Prompt("a", "What is 3 plus 4?"),
    Prompt("b", "x", messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})),
]


class Trap:
    """Whatever unpickles this leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


class Loader:
    """Loads copies of a model that were harmed, and renders prompts with what loads."""

    def __init__(self, model: Path, place: Path) -> None:
        self.pristine, self.root, self.place = model, place / "model", place
        self.verdict = Verdict([self.root])
        self.heal()

    def heal(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root)

    def check(self, lm: LanguageModel) -> None:
        for rendered in Renderer(lm.tokenizer, 256).render(PROMPTS):
            assert len(rendered.ids) and rendered.user.dtype == bool
        assert lm.context > 0 and lm.stop_ids is not None and lm.revision

    def __call__(self, category: str, label: Any) -> bool:
        accepted = self.verdict(category, label, self.load_and_render)
        assert not (self.place / "trap").exists(), f"{category} {label} executed code"
        self.heal()
        return accepted

    def load_and_render(self) -> None:
        # Rendering may refuse, too: it is part of what scoring does first.
        self.check(load(str(self.root), dtype="float32", device="cpu"))

    def change(self, name: str, change: Any) -> None:
        file = self.root / name
        file.write_text(json.dumps(change(json.loads(file.read_text()))))


@pytest.fixture
def loader(tiny_model: Path, tmp_path: Path) -> Loader:
    return Loader(tiny_model, tmp_path)


def test_missing_and_mismatched_files(loader, times, campaign):
    names = sorted(p.name for p in loader.pristine.iterdir())
    for seed in range(times(15, 400)):
        rng = random.Random(f"model{seed}")
        name = rng.choice(names)
        file = loader.root / name
        kind = rng.randrange(6)
        if kind == 0:
            for other in rng.sample(names, rng.randrange(1, 3)):
                (loader.root / other).unlink()
        elif kind == 1:
            data = file.read_bytes()
            file.write_bytes(
                spoiled.BYTES[rng.choice(("truncated", "mutated", "NUL bytes", "UTF-16 and others"))](rng, data)
            )
        elif kind == 2 and name.endswith(".json"):
            loader.change(name, lambda value, rng=rng: spoiled.other_tree(rng, value))
        elif kind == 3:
            key = rng.choice(("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "model_type"))
            loader.change(
                "config.json", lambda c, key=key, rng=rng: {**c, key: rng.choice((0, -1, 7, 128, "bert", None))}
            )
        elif kind == 4:
            (loader.root / "model.safetensors").write_bytes(
                (2 ** rng.choice((3, 40, 63))).to_bytes(8, "little") + b"{}"
            )
        else:
            file.unlink()
            file.mkdir()
        loader("model directories with missing or mismatched files", f"{seed} {name} {kind}")
    loader.verdict.report(campaign)


def test_pickled_weights(loader, times, campaign):
    """Whatever stands beside or instead of the weights, nothing is unpickled."""
    for seed in range(times(6, 300)):
        rng = random.Random(f"pickle{seed}")
        trap = pickle.dumps(Trap(loader.place / "trap"), protocol=rng.choice((0, 2, 4)))
        for name in rng.sample(("pytorch_model.bin", "model.pt", "model.bin", "training_args.bin", "optimizer.pt"), 3):
            (loader.root / name).write_bytes(trap)
        kind = rng.randrange(3)
        if kind == 0:
            (loader.root / "model.safetensors").unlink()
        elif kind == 1:
            (loader.root / "model.safetensors").write_bytes(trap)
        (loader.root / "modeling_x.py").write_text(f"import os\nos.mkdir({str(loader.place / 'trap')!r})\n")
        if rng.random() < 0.5:
            auto = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "modeling_x.Y"}}
            own = {**auto, "model_type": rng.choice(("llama", "own"))}
            loader.change("config.json", lambda c, own=own: {**c, **own})
        accepted = loader("pickled weights and code beside a model", seed)
        assert kind == 2 or not accepted
    loader.verdict.report(campaign)


def test_tokenizers_without_pad_or_template(loader, times, campaign):
    for seed in range(times(6, 300)):
        rng = random.Random(f"pad{seed}")
        special = ("pad_token", "bos_token", "eos_token", "unk_token")
        gone = {"pad_token", *rng.sample(special, rng.randrange(4))}
        loader.change("tokenizer_config.json", lambda c, gone=gone: {k: v for k, v in c.items() if k not in gone})
        keep = rng.choice((None, 0, 10**9))
        for name in ("config.json", "generation_config.json"):
            loader.change(
                name, lambda c, keep=keep: {**{k: v for k, v in c.items() if k != "pad_token_id"}, "pad_token_id": keep}
            )
        loader("tokenizers without pad token", f"{seed} {sorted(gone)}")
    templates = (
        *(
            None,
            "",
            "{{",
            "{% for m in messages %}",
            "{{ 1 / 0 }}",
            "{{ raise_exception('no') }}",
            "{{ messages }}",
            "x",
        ),
        *("{{ messages[5].content }}", "{{ ''.__class__.__mro__ }}", "{% for i in range(10**9) %}{% endfor %}"),
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[-1].content }}",
        *(5, [], {"default": "x"}, [{"name": "default", "template": "{{ messages[0].content }}"}]),
    )
    for seed in range(times(len(templates), 300)):
        rng = random.Random(f"template{seed}")
        template = templates[seed] if seed < len(templates) else None
        (loader.root / "chat_template.jinja").unlink(missing_ok=True)
        if seed >= len(templates):
            data = (loader.pristine / "chat_template.jinja").read_bytes()
            (loader.root / "chat_template.jinja").write_bytes(spoiled.mutated(rng, data))
        loader.change(
            "tokenizer_config.json",
            lambda c, t=template: {
                **{k: v for k, v in c.items() if k != "chat_template"},
                **({} if t is None else {"chat_template": t}),
            },
        )
        loader("chat templates: none or broken", f"{seed} {template}")
    loader.verdict.report(campaign)


def test_adapters(loader, times, campaign):
    """An adapter's directory whose files are missing, changed or of another base."""
    peft = pytest.importorskip("peft")
    base = load(str(loader.pristine), dtype="float32", device="cpu")
    wrapped = peft.get_peft_model(base.model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    good = loader.place / "adapter"
    wrapped.save_pretrained(good)
    description = json.loads((good / "adapter_config.json").read_text())
    (good / "adapter_config.json").write_text(
        json.dumps({**description, "base_model_name_or_path": str(loader.pristine)})
    )
    loader.pristine = good
    loader.heal()
    names = sorted(p.name for p in good.iterdir())
    for seed in range(times(6, 200)):
        rng = random.Random(f"adapter{seed}")
        name = rng.choice(names)
        kind = rng.randrange(4)
        if kind == 0:
            (loader.root / name).unlink()
        elif kind == 1:
            (loader.root / name).write_bytes(spoiled.mutated(rng, (loader.root / name).read_bytes()))
        elif kind == 2:
            (loader.root / "adapter_model.safetensors").unlink()
            (loader.root / "adapter_model.bin").write_bytes(pickle.dumps(Trap(loader.place / "trap")))
        else:
            loader.change("adapter_config.json", lambda value, rng=rng: spoiled.other_tree(rng, value))
        loader.verdict(
            "adapters", f"{seed} {name} {kind}", lambda: load_tuned(loader.root, dtype="float32", device="cpu")
        )
        assert not (loader.place / "trap").exists()
        loader.heal()
    loader.verdict.report(campaign)
