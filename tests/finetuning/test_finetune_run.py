"""From a study's answers to a saved model: reloading, merging, resuming after a kill, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pyarrow as pa
import pytest
import torch
import transformers

from thriftune.artifacts import read_json, read_table, write_json, write_table
from thriftune.config import FinetuneConfig
from thriftune.errors import FinetuneError, StudyError
from thriftune.examples import tokenize
from thriftune.finetuning.run import finetune
from thriftune.model import load
from thriftune.study import Study
from thriftune.types import Annotation

FAST = FinetuneConfig(
    model="filled in by the tests", epochs=3, learning_rate=5e-3, batch_size=4, rank=4, alpha=8, dtype="float32",
    device="cpu",
)  # fmt: skip


@pytest.fixture
def answered(small_study: Study) -> Study:
    """The small study with a person's answer to each prompt, hold-out included, but for two of the selection."""
    ids = small_study.pool(["id"], split=None)["id"].to_pylist()
    given = [Annotation(i, f"Answer to {i}.", "ann") for i in ids if i not in {"p03", "p00"}]
    small_study.annotations.add(given)
    return small_study


def settings(tiny_model: Path, **change: Any) -> FinetuneConfig:
    return FAST.model_copy(update={"model": str(tiny_model), **change})


def silent(_: str) -> None:
    pass


IDS = torch.tensor([[1, 50, 60, 70, 80, 90, 100, 110]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def reloaded(directory: Path, tiny_model: Path) -> Any:
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    return peft.PeftModel.from_pretrained(base, directory / "adapter")


def test_the_adapter_reloads_to_identical_logits(
    answered: Study, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thriftune.finetuning import run

    kept: list[torch.Tensor] = []
    train = run.train

    def watched(*arguments: Any, **named: Any) -> Any:
        trained = train(*arguments, **named)
        kept.append(logits(trained.model.model))
        return trained

    monkeypatch.setattr(run, "train", watched)
    directory = finetune(answered, settings(tiny_model), say=silent)
    model = reloaded(directory, tiny_model)
    assert torch.equal(logits(model), kept[0])
    assert not torch.equal(logits(model), logits(transformers.AutoModelForCausalLM.from_pretrained(tiny_model)))
    # Everything needed elsewhere lies there, and nothing that runs code when loaded.
    files = {p.name for p in (directory / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= files
    assert not [p for p in directory.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    described = json.loads((directory / "adapter" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(tiny_model.resolve())
    assert described["r"] == 4 and described["task_type"] == "CAUSAL_LM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "adapter")
    assert tokenizer.chat_template


def test_the_card_holds_code_that_works(answered: Study, tiny_model: Path) -> None:
    directory = finetune(answered, settings(tiny_model, merge=True), say=silent)
    for made in ("adapter", "model"):
        card = (directory / made / "README.md").read_text()
        assert str(tiny_model) in card and "12 examples" not in card and "10 examples" in card
        names: dict[str, Any] = {}
        exec(card.split("```python")[1].split("```")[0].replace("THIS DIRECTORY", str(directory / made)), names)
        torch.testing.assert_close(
            logits(names["model"]), logits(reloaded(directory, tiny_model)), rtol=1e-4, atol=1e-4
        )
        assert names["tokenizer"].chat_template


def test_merged_later_equals_merged_at_once(answered: Study, tiny_model: Path) -> None:
    later = finetune(answered, settings(tiny_model, name="later"), say=silent)
    assert not (later / "model").exists()
    finetune(answered, settings(tiny_model, name="later", merge=True), say=silent)
    at_once = finetune(answered, settings(tiny_model, name="once", merge=True), say=silent)
    models = [transformers.AutoModelForCausalLM.from_pretrained(d / "model") for d in (later, at_once)]
    assert torch.equal(logits(models[0]), logits(models[1]))
    torch.testing.assert_close(logits(models[0]), logits(reloaded(later, tiny_model)), rtol=1e-4, atol=1e-4)
    # A plain directory: thriftune itself and transformers load it with nothing else.
    assert load(str(later / "model"), device="cpu").context == 512


def test_merging_is_quiet(answered: Study, tiny_model: Path, recwarn: pytest.WarningsRecorder) -> None:
    finetune(answered, settings(tiny_model, merge=True, epochs=1.0), say=silent)
    assert [str(w.message) for w in recwarn] == []


def test_full_fine_tuning_writes_a_model(answered: Study, tiny_model: Path) -> None:
    directory = finetune(answered, settings(tiny_model, method="full", learning_rate=1e-3), say=silent)
    assert not (directory / "adapter").exists()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory / "model")
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, base.get_parameter(n))]
    assert len(moved) == len(list(base.named_parameters()))


def test_what_is_recorded(answered: Study, tiny_model: Path) -> None:
    said: list[str] = []
    directory = finetune(answered, settings(tiny_model, selection="first"), say=said.append)
    assert directory == answered.model_directory("first") and answered.models() == ["first"]
    assert "2 of the 10 selected prompts have no answer and are left out" in said[0]
    manifest = read_json(directory / "manifest.json")
    log = read_table(directory / "log.parquet")
    lm = load(str(tiny_model), device="cpu")
    ids = [i for i in answered.selection("first")[0] if i not in {"p03", "p00"}]
    examples = tokenize(lm, answered.prompts(ids), [f"Answer to {i}." for i in ids])
    assert manifest["stage"] == "finetune" and manifest["examples"] == 8 and manifest["steps"] == 6
    assert manifest["base"] == {"model": str(tiny_model), "revision": lm.revision}
    assert manifest["selection"] == "first" and manifest["annotations"] == "human"
    assert manifest["tokens"] == 3 * sum(len(e.ids) for e in examples)
    assert manifest["response_tokens"] == 3 * sum(int(e.response.sum()) for e in examples)
    assert manifest["seconds"] > 0 and manifest["peak_memory_bytes"] > 1 << 20
    assert manifest["versions"].keys() >= {"torch", "transformers", "peft", "trl"}
    assert log.schema.names == ["step", "epoch", "loss", "learning_rate", "seconds"]
    assert log.schema.types == [pa.int64(), *[pa.float64()] * 4]
    assert log["step"].to_pylist() == list(range(1, 7))
    assert manifest["final_loss"] == pytest.approx(log["loss"][-1].as_py())
    assert sorted(p.name for p in directory.iterdir()) == ["adapter", "log.parquet", "manifest.json"]


def test_the_hold_out_is_never_learned(answered: Study, tiny_model: Path) -> None:
    directory = finetune(answered, settings(tiny_model), say=silent)
    # 12 prompts in the pool, two of them unanswered; the four of the hold-out have answers too.
    assert read_json(directory / "manifest.json")["examples"] == 10
    with pytest.raises(FinetuneError, match="hold-out is there for evaluation"):
        finetune(answered, settings(tiny_model, selection="holdout"), say=silent)


def test_references_stand_in_for_people(small_study: Study, tiny_model: Path) -> None:
    table = pa.table({"id": ["p01", "p02", "p15"], "response": ["One.", " ", "Held."]})
    write_table(small_study.references_file, table, {})
    directory = finetune(small_study, settings(tiny_model, annotations="reference"), say=silent)
    assert directory.name == "all-reference"
    assert read_json(directory / "manifest.json")["examples"] == 1
    with pytest.raises(FinetuneError, match="has no human answers: bring some in with: thriftune import"):
        finetune(small_study, settings(tiny_model), say=silent)


def test_the_model_that_scored_is_the_default(answered: Study, tiny_model: Path) -> None:
    write_json(answered.score_directory("default") / "manifest.json", {"config": {}, "resolved": {}})
    with pytest.raises(FinetuneError, match="does not say which model it ran: give --model"):
        finetune(answered, settings(tiny_model, model=None), say=silent)
    revision = load(str(tiny_model), device="cpu").revision
    manifest = {"config": {"model": str(tiny_model)}, "resolved": {"revision": revision}}
    write_json(answered.score_directory("default") / "manifest.json", manifest)
    directory = finetune(answered, settings(tiny_model, model=None), say=silent)
    assert read_json(directory / "manifest.json")["base"] == {"model": str(tiny_model), "revision": revision}


def test_a_finished_model_is_not_trained_again(answered: Study, tiny_model: Path) -> None:
    directory = finetune(answered, settings(tiny_model), say=silent)
    before = (directory / "manifest.json").read_bytes()
    said: list[str] = []
    finetune(answered, settings(tiny_model), say=said.append)
    assert said == ["all: already fine-tuned on 10 examples; nothing to do"]
    assert (directory / "manifest.json").read_bytes() == before
    with pytest.raises(FinetuneError, match="'all' exists with other settings \\(rank was 4, now 8\\)"):
        finetune(answered, settings(tiny_model, rank=8), say=silent)
    answered.annotations.add([Annotation("p03", "Late.", "ann")])
    with pytest.raises(FinetuneError, match="the answers are others"):
        finetune(answered, settings(tiny_model), say=silent)


def test_names_that_are_no_file_names(answered: Study, tiny_model: Path) -> None:
    with pytest.raises(StudyError, match="not usable as a file name"):
        finetune(answered, settings(tiny_model, name="../x"), say=silent)


_CHILD = """
import sys
from thriftune.config import FinetuneConfig
from thriftune.finetuning import train, trainer
from thriftune.finetuning.run import finetune
from thriftune.study import Study

train._CHECKPOINT_EVERY_S = 0.0
slow = trainer.Journal.on_step_end

def step(self, *arguments, **named):
    slow(self, *arguments, **named)
    import time
    time.sleep(0.1)
    print("step", flush=True)

trainer.Journal.on_step_end = step
finetune(Study(sys.argv[1]), FinetuneConfig.model_validate_json(sys.argv[2]))
"""


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("steps", [2, 7])
def test_killed_and_run_again_equals_uninterrupted(answered: Study, tiny_model: Path, method: str, steps: int) -> None:
    rate = 5e-3 if method == "lora" else 1e-3
    # Dropout draws random numbers in every step: their state must survive too.
    config = settings(tiny_model, method=method, dropout=0.1, epochs=4, learning_rate=rate, name="killed")
    command = [sys.executable, "-c", _CHILD, str(answered.path), config.model_dump_json()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert child.stdout is not None
    seen = 0
    for line in child.stdout:
        seen += line == "step\n"
        if seen == steps:
            break
    # Somewhere between two steps, or within the writing of a checkpoint.
    time.sleep(0.03)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    directory = answered.model_directory("killed")
    assert not (directory / "manifest.json").exists()
    assert (directory / "checkpoints").exists()
    with pytest.raises(FinetuneError, match="seed was 0, now 1"):
        finetune(answered, config.model_copy(update={"seed": 1}), say=silent)
    said: list[str] = []
    finetune(answered, config, say=said.append)
    left = int(said[0].split(" steps")[0].rpartition(" ")[2])
    assert 12 - steps <= left < 12 - steps + 3, said[0]
    whole = finetune(answered, config.model_copy(update={"name": "whole"}), say=silent)
    logs = [read_table(d / "log.parquet") for d in (directory, whole)]
    assert logs[0]["step"].to_pylist() == logs[1]["step"].to_pylist() == list(range(1, 13))
    for column in ("loss", "learning_rate", "epoch"):
        np.testing.assert_allclose(logs[0][column].to_numpy(), logs[1][column].to_numpy(), rtol=1e-6)
    if method == "lora":
        models = [reloaded(d, tiny_model) for d in (directory, whole)]
    else:
        models = [transformers.AutoModelForCausalLM.from_pretrained(d / "model") for d in (directory, whole)]
    torch.testing.assert_close(logits(models[0]), logits(models[1]), rtol=1e-6, atol=1e-6)
    seconds = logs[0]["seconds"].to_numpy()
    assert (np.diff(seconds) > 0).all()


def test_a_checkpoint_that_was_cut_short_is_not_continued(tmp_path: Path) -> None:
    from thriftune.finetuning.trainer import last_checkpoint

    for step, whole in ((3, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        if whole:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-10"]
    assert last_checkpoint(tmp_path / "none") is None


def test_two_at_once_are_refused(answered: Study, tiny_model: Path) -> None:
    with answered.lock("finetune-all"), pytest.raises(StudyError, match="another process is at work"):
        finetune(answered, settings(tiny_model), say=silent)
