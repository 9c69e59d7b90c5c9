"""Training in memory: what the steps learn, precision, memory, and that the base comes back."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from thriftune.config import FinetuneConfig
from thriftune.errors import FinetuneError
from thriftune.examples import Example
from thriftune.finetuning import probe as probing
from thriftune.finetuning.defaults import course, pieces, resolved
from thriftune.finetuning.train import train
from thriftune.likelihood import response_nll
from thriftune.model import LanguageModel, load
from thriftune.packing import packable

FAST = FinetuneConfig(epochs=3, learning_rate=2e-3, batch_size=8, rank=4, alpha=8)


def silent(_: str) -> None:
    pass


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_it_learns_and_says_what_it_did(lm: LanguageModel, questions: list[Example]) -> None:
    with torch.no_grad():
        before = response_nll(lm.model, questions)[0].sum()
    trained = train(lm, questions, FAST.model_copy(update={"learning_rate": 2e-2}), say=silent)
    with torch.no_grad():
        after = response_nll(trained.model.model, questions)[0].sum()
    assert after < before / 2
    assert trained.steps == len(trained.log) == 9
    assert trained.tokens == 3 * sum(len(e.ids) for e in questions)
    assert trained.response_tokens == 3 * sum(int(e.response.sum()) for e in questions)
    assert [line["step"] for line in trained.log] == list(range(1, 10))
    assert trained.log[-1]["epoch"] == pytest.approx(3)
    assert trained.seconds == trained.log[-1]["seconds"] >= trained.log[0]["seconds"] > 0
    assert not trained.model.model.training


def test_detach_gives_the_base_back(lm: LanguageModel, questions: list[Example]) -> None:
    before = state(lm.model)
    flags = {name: p.requires_grad for name, p in lm.model.named_parameters()}
    own = set(vars(lm.model))
    for method in ("lora", "full"):
        trained = train(lm, questions, FAST.model_copy(update={"method": method}), say=silent)
        trained.detach()
        assert same(state(lm.model), before), method
        assert {name: p.requires_grad for name, p in lm.model.named_parameters()} == flags
        assert all(p.grad is None for p in lm.model.parameters())
        assert set(vars(lm.model)) <= own | {"model_tags", "warnings_issued"} and not lm.model.training


def test_equal_seeds_train_equal_models_and_others_do_not(lm: LanguageModel, questions: list[Example]) -> None:
    losses = []
    for seed in (5, 5, 6):
        trained = train(lm, questions, FAST.model_copy(update={"seed": seed, "dropout": 0.1}), say=silent)
        losses.append([line["loss"] for line in trained.log])
        trained.detach()
    assert losses[0] == losses[1] != losses[2]


def by_hand(lm: LanguageModel, examples: list[Example], config: FinetuneConfig) -> list[float]:
    """Losses of a plain loop: full logits, labels, AdamW, linear decay, gradients clipped to 1."""
    torch.manual_seed(config.seed)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=int(config.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(copy.deepcopy(lm.model), settings).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=float(config.learning_rate), weight_decay=config.weight_decay)
    batches = course(examples, config).batches
    warm = round(config.warmup * len(batches))
    losses = []
    for step, batch in enumerate(batches):
        share = step / warm if step < warm else (len(batches) - step) / (len(batches) - warm)
        optimiser.param_groups[0]["lr"] = float(config.learning_rate) * share
        total, count = torch.zeros(()), 0
        for e in (examples[i] for i in batch):
            ids = torch.from_numpy(e.ids)[None]
            labels = torch.where(torch.from_numpy(e.response)[None], ids, -100)
            logits = model(ids).logits
            total = total + torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
            count += int(e.response.sum())
        loss = total / count
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("batch_size", [8, 7])
def test_steps_equal_a_plain_loop(lm: LanguageModel, questions: list[Example], batch_size: int) -> None:
    config = FAST.model_copy(update={"batch_size": batch_size, "warmup": 0.3, "weight_decay": 0.1})
    expected = by_hand(lm, questions, config)
    trained = train(lm, questions, config, say=silent)
    assert [line["loss"] for line in trained.log] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scarce", ["pieces", "recompute"])
def test_less_memory_gives_the_same_steps(
    lm: LanguageModel, questions: list[Example], scarce: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(lm, questions, FAST, say=silent)
    plain.detach()
    fitted = {
        "pieces": probing.Fit(150, False, 0, 0, 0.0, [], None),
        "recompute": probing.Fit(50, True, 0, 0, 0.0, [], None),
    }
    monkeypatch.setattr(probing, "probe", lambda *_: fitted[scarce])
    said: list[str] = []
    tight = train(lm, questions, FAST, say=said.append, probe=True)
    assert [x["loss"] for x in tight.log] == pytest.approx([x["loss"] for x in plain.log], rel=1e-4)
    assert tight.steps == plain.steps
    assert ("recomputed" in said[0]) == (scarce == "recompute")
    tight.detach()
    assert not any(getattr(m, "gradient_checkpointing", False) for m in lm.model.modules())


def test_the_probe_changes_nothing_and_says_what_is_ahead(lm: LanguageModel, questions: list[Example]) -> None:
    config = FAST.model_copy(update={"dropout": 0.1})
    plain = train(lm, questions, config, say=silent)
    plain.detach()
    said: list[str] = []
    probed = train(lm, questions, config, say=said.append, probe=True)
    assert [x["loss"] for x in probed.log] == [x["loss"] for x in plain.log]
    assert len(said) == 1
    assert said[0].startswith(f"to do: 24 examples, 3 epochs, 9 steps, {probed.tokens:,} tokens (")
    assert f"({probed.response_tokens:,} of responses) at a learning rate of 0.002; about" in said[0]
    assert "min and" in said[0] and "GiB" in said[0]


def test_the_probe_splits_batches_where_memory_is_short(
    lm: LanguageModel, questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = course(questions, FAST)
    longest = max(len(e.ids) for e in questions)
    found = []
    for free in (1 << 40, 118 << 20, 117 << 20, 90 << 20):
        monkeypatch.setattr(probing, "available", lambda _device, free=free: free)
        found.append(probing.probe(lm.model, questions, plan, warnings.catch_warnings, "cpu"))
    roomy, tight, tighter, none = found
    assert (roomy.most, roomy.recompute, roomy.fits) == (1024, False, True)
    assert longest <= tighter.most < tight.most < 1024 and tighter.step_bytes < tight.step_bytes < roomy.step_bytes
    assert tight.fits and not tight.recompute
    assert none.recompute and not none.fits
    assert not any(getattr(m, "gradient_checkpointing", False) for m in lm.model.modules())
    assert all(p.grad is None for p in lm.model.parameters())


def test_the_probe_recomputes_where_the_training_will(
    lm: LanguageModel, questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, seen = probing._measure, []

    def spy(model: Any, part: Any, computing: Any) -> Any:
        seen.append(any(getattr(m, "gradient_checkpointing", False) for m in model.modules()))
        return measured(model, part, computing)

    monkeypatch.setattr(probing, "_measure", spy)
    monkeypatch.setattr(probing, "available", lambda _device: 90 << 20)
    probing.probe(lm.model, questions, course(questions, FAST), warnings.catch_warnings, "cpu")
    assert seen == [False, False, True]


@pytest.mark.parametrize("given", [{"method": "full"}, {"merge": True}])
def test_weights_in_few_bits_are_refused_before_the_training(
    lm: LanguageModel, questions: list[Example], monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    monkeypatch.setattr(lm.model, "is_quantized", True, raising=False)
    with pytest.raises(FinetuneError, match="stored in few bits"):
        train(lm, questions, FAST.model_copy(update=given), say=silent)


def test_a_step_that_cannot_fit_is_refused(
    lm: LanguageModel, questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "available", lambda _device: 1 << 20)
    before = state(lm.model)
    with pytest.raises(FinetuneError, match="out of memory with batches of 8.*lower --batch-size or --max-tokens"):
        train(lm, questions, FAST, say=silent, probe=True)
    assert same(state(lm.model), before)


def test_running_out_of_memory_says_what_to_lower(
    lm: LanguageModel, questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from thriftune.finetuning import trainer

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(trainer, "response_nll", exhausted)
    before = state(lm.model)
    with pytest.raises(FinetuneError, match="lower --batch-size or --max-tokens or --rank"):
        train(lm, questions, FAST, say=silent)
    assert same(state(lm.model), before)
    with pytest.raises(FinetuneError, match="or use --method lora"):
        train(lm, questions, FAST.model_copy(update={"method": "full"}), say=silent)
    assert same(state(lm.model), before)


def test_a_loss_that_is_not_finite_stops_it(lm: LanguageModel, questions: list[Example]) -> None:
    with torch.no_grad():
        lm.model.lm_head.weight[5] = math.inf
    with pytest.raises(FinetuneError, match="loss is (nan|inf) at step 1: lower --learning-rate"):
        train(lm, questions, FAST, say=silent)


def test_bfloat16_keeps_adapters_in_float32(lm: LanguageModel, questions: list[Example]) -> None:
    exact = train(lm, questions, FAST, say=silent)
    exact.detach()
    half = replace(lm, model=lm.model.to(torch.bfloat16), dtype="bfloat16")
    trained = train(half, questions, FAST, say=silent)
    learned = {p.dtype for n, p in trained.model.model.named_parameters() if "lora" in n}
    assert learned == {torch.float32}
    assert [x["loss"] for x in trained.log] == pytest.approx([x["loss"] for x in exact.log], rel=0.1, abs=0.05)
    trained.detach()
    full = train(half, questions, FAST.model_copy(update={"method": "full", "learning_rate": 5e-3}), say=silent)
    assert full.log[-1]["loss"] < full.log[0]["loss"] / 2
    assert {p.dtype for p in full.model.model.parameters()} == {torch.bfloat16}


def test_one_example_is_enough(lm: LanguageModel, questions: list[Example]) -> None:
    trained = train(lm, questions[:1], FinetuneConfig(learning_rate=1e-3, batch_size=4, rank=2), say=silent)
    assert trained.steps >= 1 and trained.log[-1]["loss"] < trained.log[0]["loss"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": "no_such"}, "--target-modules no_such does not fit"),
        ({"method": "full", "dtype": "float16"}, "float16 gradients underflow"),
    ],
)
def test_settings_that_do_not_fit(
    lm: LanguageModel, questions: list[Example], change: dict[str, Any], message: str
) -> None:
    before = state(lm.model)
    model = replace(lm, dtype=change.get("dtype", lm.dtype))
    with pytest.raises(FinetuneError, match=message):
        train(model, questions, FAST.model_copy(update=change), say=silent)
    assert same(state(lm.model), before)


def test_another_gpu_than_the_first_is_refused(lm: LanguageModel, questions: list[Example]) -> None:
    with pytest.raises(FinetuneError, match="set CUDA_VISIBLE_DEVICES=1, --device cuda"):
        train(replace(lm, device="cuda:1"), questions, FAST, say=silent)


def test_nothing_to_learn_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(FinetuneError, match="no examples"):
        train(lm, [], FAST, say=silent)


def test_it_is_quiet(
    lm: LanguageModel,
    questions: list[Example],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with caplog.at_level(logging.WARNING):
            trained = train(lm, questions, FAST, say=silent)
            trained.detach()
    out, err = capfd.readouterr()
    assert (out, err, caught, caplog.records) == ("", "", [], [])


def test_plans_are_balanced_and_complete(questions: list[Example]) -> None:
    plan = course(questions, FinetuneConfig(epochs=2.5, batch_size=7, seed=1))
    assert len(plan.batches) == 10 and {len(b) for b in plan.batches} == {6}
    for epoch in (plan.batches[:4], plan.batches[4:8]):
        assert sorted(i for b in epoch for i in b) == list(range(24))
    assert plan.batches[:4] != plan.batches[4:8]


def test_examples_are_packed_with_adapters_that_need_autocast(tiny_model: Path, questions: list[Example]) -> None:
    lm = load(str(tiny_model), dtype="bfloat16", device="cpu")
    train(lm, questions, FAST.model_copy(update={"dropout": 0.1, "epochs": 1.0}), say=silent).detach()
    assert packable(lm.model, 50)  # found out in training, once for all


def test_pieces_hold_a_batch_in_order_and_bounded(questions: list[Example]) -> None:
    batch = sorted(questions, key=lambda e: -len(e.ids))
    longest = len(batch[0].ids)

    def padded(part: Sequence[Example]) -> int:
        return len(part) * max(len(e.ids) for e in part)

    for most in (1, longest, 3 * longest, 10_000):
        parts = pieces(batch, most, padded)
        assert [e.id for part in parts for e in part] == [e.id for e in batch]
        assert all(padded(p) <= most or len(p) == 1 for p in parts)
    assert len(pieces(batch, 1, padded)) == 24 and len(pieces(batch, 10_000, padded)) == 1
    assert len(pieces(batch, 3 * longest, padded)[0]) == 3


def test_a_step_that_does_not_fit_is_done_in_smaller_pieces(
    lm: LanguageModel, questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from thriftune.finetuning import trainer

    plain = train(lm, questions, FAST, say=silent)
    plain.detach()
    sizes: list[int] = []

    def scarce(model: Any, batch: list[Example]) -> Any:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return response_nll(model, batch)

    monkeypatch.setattr(trainer, "response_nll", scarce)
    tight = train(lm, questions, FAST, say=silent)
    assert [x["loss"] for x in tight.log] == pytest.approx([x["loss"] for x in plain.log], rel=1e-4)
    assert max(sizes[5:]) <= 3 and tight.steps == plain.steps


@pytest.mark.parametrize("examples", [1, 50, 200, 400, 5_000, 50_000])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_defaults_are_numbers_that_fall_with_size(examples: int, method: str) -> None:
    settings = resolved(FinetuneConfig(method=method), examples)
    larger = resolved(FinetuneConfig(method=method), examples * 2)
    assert isinstance(settings.learning_rate, float) and isinstance(settings.epochs, float)
    assert 1 <= larger.epochs <= settings.epochs
    wider = resolved(FinetuneConfig(method=method), examples, 4096)
    assert wider.learning_rate < settings.learning_rate and wider.epochs == settings.epochs
    kept = resolved(FinetuneConfig(learning_rate=0.1, epochs=7), examples)
    assert (kept.learning_rate, kept.epochs) == (0.1, 7)


def test_the_rate_warms_up_and_decays(lm: LanguageModel, questions: list[Example]) -> None:
    trained = train(lm, questions, FAST.model_copy(update={"warmup": 0.34}), say=silent)
    rates = np.array([line["learning_rate"] for line in trained.log]) / 2e-3
    assert rates == pytest.approx([0, 1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_an_architecture_with_other_layers_trains_all_the_same(lm: LanguageModel, questions: list[Example]) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3
    )
    gpt2 = transformers.GPT2LMHeadModel(config).to(torch.bfloat16)
    other = replace(lm, model=gpt2, dtype="bfloat16")
    settings = FinetuneConfig(epochs=12, learning_rate=2e-2, batch_size=8, rank=4, alpha=8)
    trained = train(other, questions, settings, say=lambda _: None)
    assert trained.log[-1]["loss"] < trained.log[0]["loss"] * 0.8
