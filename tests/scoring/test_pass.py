"""The pass against an independent computation, and its invariance to batching and padding, on a tiny model."""

import numpy as np
import oracle
import pytest

from thriftune.errors import ModelError
from thriftune.model import load
from thriftune.render import Renderer
from thriftune.scoring import plan
from thriftune.scoring.transformers import Pass
from thriftune.scoring.uncertainty import aggregate
from thriftune.types import Prompt

TEXTS = ["Hi", "What is twelve plus seven?", "Sort these words: " + "pear, apple, fig " * 6, "日本語 🧵", "a", " "]
TEXTS += [f"Question number {i}: what is {i} plus {i * 7}?" for i in range(27)]


@pytest.fixture(scope="module")
def lm(tiny_model):
    return load(str(tiny_model), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rendered(lm):
    return Renderer(lm.tokenizer, 400).render([Prompt(str(i), t) for i, t in enumerate(TEXTS)])


def columns(answer):
    return aggregate(np.array(answer.entropy), np.array(answer.nll), np.array(answer.margin)) | {
        "prompt_nll": answer.prompt_nll
    }


def test_scores_equal_an_independent_computation(lm, rendered):
    answers = Pass(lm, max_new_tokens=12).run(rendered[:12])
    assert {len(a.tokens) for a in answers} != {12}, "no answer ended by itself: the test would not see the EOS step"
    for prompt, answer in zip(rendered, answers, strict=False):
        assert answer.tokens == oracle.greedy(lm.model, prompt.ids, 12, lm.stop_ids)
        expected = oracle.scores(lm.model, prompt.ids, answer.tokens, prompt.user)
        for name, value in columns(answer).items():
            assert value == pytest.approx(expected[name], abs=1e-4), name


@pytest.mark.parametrize("pooling", ["mean", "last", "weighted"])
@pytest.mark.parametrize("layers", ["last", "1", "0", "2,1", "-1", "1,last", "60%", "0%,100%"])
def test_embeddings_are_the_pooled_hidden_states(lm, rendered, layers, pooling):
    answers = Pass(lm, max_new_tokens=1, layers=layers, pooling=pooling, prompt_nll=False).run(rendered[:6])
    meant = {"last": 2, "-1": 2, "100%": 2, "60%": 1, "0%": 0}
    numbers = [meant[part] if part in meant else int(part) for part in layers.split(",")]
    for prompt, answer in zip(rendered, answers, strict=False):
        expected = [oracle.embedding(lm.model, prompt.ids, prompt.user, n, pooling) for n in numbers]
        np.testing.assert_allclose(answer.embedding, np.concatenate(expected), atol=1e-4)


@pytest.mark.parametrize(("size", "group"), [(1, 512), (5, 20), (33, 1), (33, 60), (33, 100_000)])
def test_batch_size_groups_and_padding_do_not_matter_in_float32(lm, rendered, size, group, monkeypatch):
    reference = [Pass(lm, max_new_tokens=16).run([r])[0] for r in rendered]
    monkeypatch.setattr(plan, "_CPU_GROUP", group)
    scorer = Pass(lm, max_new_tokens=16)
    answers = [a for i in range(0, len(rendered), size) for a in scorer.run(rendered[i : i + size])]
    for ours, one in zip(answers, reference, strict=True):
        assert ours.tokens == one.tokens
        assert ours.finished == one.finished
        for name, value in columns(one).items():
            assert columns(ours)[name] == pytest.approx(value, abs=1e-3), name
        np.testing.assert_allclose(ours.embedding, one.embedding, atol=1e-3)


def test_no_prompt_nll_when_not_asked_for(lm, rendered):
    assert Pass(lm, max_new_tokens=1, prompt_nll=False).run(rendered[:1])[0].prompt_nll is None


def test_an_empty_user_turn_has_no_prompt_nll_but_an_embedding(lm):
    (prompt,) = Renderer(lm.tokenizer, 400).render([Prompt("a", "")])
    (answer,) = Pass(lm, max_new_tokens=2).run([prompt])
    assert answer.prompt_nll is None
    assert np.isfinite(answer.embedding).all()


@pytest.mark.parametrize("layers", ["3", "-4", "1,9"])
def test_a_layer_that_does_not_exist(lm, layers):
    with pytest.raises(ModelError, match="layers 0 to 2"):
        Pass(lm, max_new_tokens=1, layers=layers)


def test_a_head_that_changes_logits_unknown_to_us_is_refused(lm, rendered):
    class Doubling(type(lm.model.lm_head)):
        calls = 0

        def forward(self, x):
            Doubling.calls += 1
            return super().forward(x) * (2 if Doubling.calls > 1 else 1)

    original = lm.model.lm_head.__class__
    lm.model.lm_head.__class__ = Doubling
    try:
        with pytest.raises(ModelError, match="--no-prompt-nll"):
            Pass(lm, max_new_tokens=1).run(rendered[:2])
    finally:
        lm.model.lm_head.__class__ = original


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**SMALL, "num_key_value_heads": 1, "intermediate_size": 64}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8}
CONFIGS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "opt": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "gemma2": {**GROUPED, "head_dim": 16, "sliding_window": 8},
    "falcon_h1": {**GROUPED, **MAMBA},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_other_architectures(kind, lm, rendered, monkeypatch):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from thriftune.model import LanguageModel

    tokenizer = lm.tokenizer
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 1}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **special, **CONFIGS[kind])
    torch.manual_seed(0)
    other = LanguageModel(AutoModelForCausalLM.from_config(config).eval(), tokenizer, kind, "", "cpu", "float32")
    monkeypatch.setattr(plan, "_CPU_GROUP", 40)  # whose prompts can be read in groups, and whose cannot
    scorer = Pass(other, max_new_tokens=8)
    scorer.check()
    # Answers must end at different steps, so that rows leave the cache: stop at whatever one of them says third.
    stop = scorer.run(rendered[:1])[0].tokens[2]
    other.model.generation_config.eos_token_id = [int(stop), tokenizer.eos_token_id]
    answers = scorer.run(rendered[:8])
    for prompt, answer in zip(rendered, answers, strict=False):
        assert answer.tokens == oracle.greedy(other.model, prompt.ids, 8, other.stop_ids)
        expected = oracle.scores(other.model, prompt.ids, answer.tokens, prompt.user)
        for name, value in columns(answer).items():
            assert value == pytest.approx(expected[name], abs=1e-3), name


def test_a_model_that_is_no_decoder_is_refused_before_it_starts(lm):
    from transformers import AutoConfig, AutoModelForCausalLM

    from thriftune.model import LanguageModel

    config = AutoConfig.for_model(
        "roberta", vocab_size=len(lm.tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, is_decoder=True, pad_token_id=2, initializer_range=0.5,
    )  # fmt: skip
    other = LanguageModel(
        AutoModelForCausalLM.from_config(config).eval(), lm.tokenizer, "roberta", "", "cpu", "float32"
    )
    with pytest.raises(ModelError, match="roberta"):
        Pass(other, max_new_tokens=2, prompt_nll=False).check()
