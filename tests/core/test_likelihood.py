"""Response likelihoods against plain full-logits cross-entropy: values, gradients, and what goes through the head."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from thriftune import likelihood
from thriftune.errors import ModelError
from thriftune.examples import Example
from thriftune.likelihood import computed, response_nll

_VOCABULARY = 300
_COMMON = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


def llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_COMMON, **more))


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=_VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def gemma2() -> Any:
    """Logits are capped after the projection, embeddings tied and scaled, attention windowed."""
    config = transformers.Gemma2Config(
        **_COMMON, head_dim=8, final_logit_softcapping=5.0, sliding_window=8, query_pre_attn_scalar=8
    )
    return transformers.Gemma2ForCausalLM(config)


def granite() -> Any:
    """Logits are divided by a constant after the projection."""
    return transformers.GraniteForCausalLM(transformers.GraniteConfig(**_COMMON, logits_scaling=3.0))


def mixtral() -> Any:
    """A decoder whose output has more fields than hidden states."""
    config = transformers.MixtralConfig(**_COMMON, num_local_experts=4, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


MODELS = {
    "llama": llama,
    "tied": lambda: llama(tie_word_embeddings=True),
    "gpt2": gpt2,
    "gemma2": gemma2,
    "granite": granite,
    "mixtral": mixtral,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    return MODELS[request.param]().float().eval()


@pytest.fixture(params=[0, 2, 8, 24])
def batch(request: pytest.FixtureRequest) -> list[Example]:
    """Four of uneven length that begin alike; one response of a single token, one with a gap."""
    rng = np.random.default_rng(0)
    common = rng.integers(0, _VOCABULARY, 24)
    examples = []
    for row, (length, start) in enumerate([(24, 10), (9, 8), (17, 3), (24, 20)]):
        mask = np.arange(length) >= start
        ids = rng.integers(0, _VOCABULARY, length)
        ids[: request.param] = common[: min(request.param, length)]
        examples.append(Example(str(row), ids, mask, False))
    examples[2].response[7] = False
    return examples


def plain(model: Any, batch: list[Example]) -> torch.Tensor:
    """Transformers' own way: all logits, labels of -100 where nothing is learned, padding masked."""
    width = max(len(e.ids) for e in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, e in enumerate(batch):
        ids[row, : len(e.ids)] = torch.from_numpy(e.ids)
        mask[row, : len(e.ids)] = 1
        labels[row, : len(e.ids)] = torch.from_numpy(np.where(e.response, e.ids, -100))
    logits = model(input_ids=ids, attention_mask=mask).logits
    each = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="none"
    )
    return each.view(len(batch), -1).sum(dim=1)


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "_rows_at_once", lambda *_: 3)


@pytest.mark.parametrize("grad", [False, True])
def test_values_equal_plain_cross_entropy(
    model: Any, batch: list[Example], grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    with torch.set_grad_enabled(grad):
        nll, tokens = response_nll(model, batch)
    assert nll.dtype == torch.float32
    assert tokens.tolist() == [int(e.response.sum()) for e in batch]
    torch.testing.assert_close(nll.detach(), plain(model, batch).detach(), rtol=1e-5, atol=1e-5)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def compare_gradients(model: Any, batch: list[Example]) -> None:
    # Uneven weights: the loss may be any function of the examples' sums.
    weights = torch.tensor([0.1, 2.0, 0.7, 0.3])
    (response_nll(model, batch)[0] * weights).sum().backward()
    ours = gradients(model)
    (plain(model, batch) * weights).sum().backward()
    theirs = gradients(model)
    assert ours.keys() == theirs.keys() and ours
    for name, expected in theirs.items():
        largest = float(expected.abs().max())
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5 * max(largest, 1), msg=name)


def test_gradients_of_all_weights(model: Any, batch: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    compare_gradients(model.train(), batch)


def test_gradients_of_an_adapter(model: Any, batch: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    torch.manual_seed(2)
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    compare_gradients(peft.get_peft_model(model, config).train(), batch)


def test_gradients_of_an_adapter_on_the_projection(batch: list[Example]) -> None:
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    compare_gradients(peft.get_peft_model(llama(), config).train(), batch)


def test_gradients_with_activations_recomputed(batch: list[Example]) -> None:
    torch.manual_seed(3)
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.enable_input_require_grads()
    model.get_base_model().gradient_checkpointing_enable()
    compare_gradients(model.train(), batch)


@pytest.mark.parametrize("batch", [0, 2, 8], indirect=True)
def test_what_all_begin_with_is_computed_once_and_nothing_is_padded(
    batch: list[Example], request: pytest.FixtureRequest
) -> None:
    prefix = request.node.callspec.params["batch"]
    model = llama().eval()
    seen: list[tuple[int, ...]] = []
    response_nll(model, batch)
    model.model.layers[0].register_forward_hook(lambda _m, inputs, _o: seen.append(tuple(inputs[0].shape[:2])))
    response_nll(model, batch)
    prefix = min(prefix, min(len(e.ids) for e in batch) - 2)  # each keeps a token of its own
    assert seen == [(1, sum(len(e.ids) - 1 - prefix for e in batch) + prefix)]


@pytest.mark.parametrize("batch", [0, 8], indirect=True)
@pytest.mark.parametrize("way", ["packed", "padded"])
def test_the_tokens_counted_are_those_that_are_computed(batch: list[Example], way: str) -> None:
    model = llama().eval()
    if way == "padded":
        model.set_attn_implementation("eager")
    response_nll(model, batch)
    seen: list[int] = []
    model.model.layers[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[:2].numel()))
    response_nll(model, batch)
    # Of each sequence the last token is not read, and the longest one's is where padding ends.
    assert 0 <= computed(model, batch) - seen[0] <= len(batch)


def test_a_frozen_projection_is_not_copied(batch: list[Example]) -> None:
    # torch copies it for each row of a slice whose strides are not those of its shape.
    model = llama().eval().bfloat16().requires_grad_(False)
    response_nll(model, batch)
    with torch.inference_mode(), torch.profiler.profile(record_shapes=True) as profile:
        response_nll(model, batch)
    shapes = [shape for e in profile.events() if e.name == "aten::copy_" for shape in e.input_shapes]
    assert shapes and [1, 32, _VOCABULARY] not in shapes


@pytest.mark.parametrize("why", ["a window", "dropout", "eager", "recomputed"])
def test_models_that_cannot_be_given_one_row_are_given_rows(batch: list[Example], why: str) -> None:
    model = llama(attention_dropout=0.1 if why == "dropout" else 0.0).train()
    if why == "a window":
        model.config.sliding_window = 20
    elif why == "eager":
        model.set_attn_implementation("eager")
    elif why == "recomputed":
        model.gradient_checkpointing_enable()
    response_nll(model, batch)  # the first call also tries the model out
    seen: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _m, inputs: seen.append(len(inputs[0])))
    response_nll(model, batch)
    assert seen[0] == len(batch)  # at once, without a row tried in vain


def test_only_response_positions_are_projected(batch: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    model = llama().eval()
    response_nll(model, batch)  # the first call also tries the model out
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _m, _i, output: seen.append(output.shape[0] * output.shape[1]))
    with torch.no_grad():
        response_nll(model, batch)
    wanted = int(sum(e.response.sum() for e in batch))
    # One row more ends the model's own forward.
    assert sum(seen) == wanted + 1 and max(seen) <= 3


def test_the_model_is_left_as_it_was(batch: list[Example]) -> None:
    model = llama().train()
    before = dict(vars(model)), dict(vars(model.model))
    response_nll(model, batch)
    assert model.training
    assert vars(model).keys() == before[0].keys() and vars(model.model).keys() == before[1].keys()
    assert not model.lm_head._forward_pre_hooks and not model.model._forward_hooks


class Unusual(transformers.LlamaForCausalLM):
    """What follows the projection depends on more than its input: no chunk can be computed on its own."""

    def forward(self, input_ids: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids, **kwargs)
        output.logits = output.logits * (1 + input_ids.shape[1] / 10)
        return output


def test_a_model_that_cannot_be_taken_apart_is_run_whole(batch: list[Example]) -> None:
    torch.manual_seed(1)
    model = Unusual(transformers.LlamaConfig(**_COMMON)).eval()
    # The oracle must see the width that we feed, which has no last token.
    scale = (1 + (max(len(e.ids) for e in batch) - 1) / 10) / (1 + max(len(e.ids) for e in batch) / 10)
    nll, _ = response_nll(model, batch)
    width = max(len(e.ids) for e in batch)
    for row, e in enumerate(batch):
        ids = torch.zeros(1, width, dtype=torch.long)
        ids[0, : len(e.ids)] = torch.from_numpy(e.ids)
        logits = model(ids).logits[0, : len(e.ids) - 1] * scale
        each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(e.ids[1:]), reduction="none")
        expected = each[torch.from_numpy(e.response[1:])].sum()
        torch.testing.assert_close(nll[row], expected, rtol=1e-4, atol=1e-4)
    assert nll.requires_grad


def test_bfloat16_is_reduced_in_float32(batch: list[Example]) -> None:
    torch.manual_seed(1)
    model = llama().eval()
    half = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        exact, _ = response_nll(model, batch)
        rounded, tokens = response_nll(half, batch)
        # From the same bfloat16 logits, summed in float64.
        each = [half(torch.from_numpy(e.ids)[None]).logits[0, :-1].double().log_softmax(-1) for e in batch]
    for row, e in enumerate(batch):
        picked = each[row].gather(1, torch.from_numpy(e.ids[1:])[:, None])[torch.from_numpy(e.response[1:])]
        assert float(rounded[row]) == pytest.approx(-float(picked.sum()), rel=0.02)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded / tokens, exact / tokens, rtol=0.05, atol=0.3)


def test_a_model_without_a_projection_is_refused(batch: list[Example]) -> None:
    with pytest.raises(ModelError, match="no vocabulary projection"):
        response_nll(transformers.LlamaModel(transformers.LlamaConfig(**_COMMON)), batch)


def test_on_the_shared_tiny_model(tiny_model: Path, batch: list[Example]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    compare_gradients(model.train(), batch)
