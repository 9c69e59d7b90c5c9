"""Greedy answers against transformers' own generate, one prompt at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from thriftune.errors import EvaluationError, ModelError  # noqa: E402
from thriftune.evaluation.generate import batches, generate, text_of  # noqa: E402
from thriftune.model import LanguageModel, load  # noqa: E402
from thriftune.render import Rendered, Renderer  # noqa: E402
from thriftune.types import Prompt  # noqa: E402

NEW = 24


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> LanguageModel:
    return load(str(tiny_model), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def rendered(lm: LanguageModel) -> list[Rendered]:
    texts = [f"Question {i}: " + "word " * (i * 7 % 23) + f"what is {i}?" for i in range(14)]
    return Renderer(lm.tokenizer, lm.context - NEW).render([Prompt(str(i), t) for i, t in enumerate(texts)])


def _alone(lm: LanguageModel, prompt: Rendered) -> list[int]:
    ids = torch.from_numpy(prompt.ids)[None]
    made = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=sorted(lm.stop_ids),
        pad_token_id=0,
    )
    return made[0, ids.shape[1] :].tolist()


def test_answers_are_those_of_generate_in_any_batch(lm: LanguageModel, rendered: list[Rendered]) -> None:
    alone = [_alone(lm, p) for p in rendered]
    ended = [a[-1] in lm.stop_ids for a in alone]
    assert any(ended) and not all(ended)  # sequences leave batches early, and some run to the limit
    for size in (1, 5, "auto"):
        replies = generate(lm, rendered, max_new_tokens=NEW, batch_size=size)
        assert [r.tokens for r in replies] == alone
        assert [r.finished for r in replies] == ended


def test_the_models_own_generation_settings_do_not_apply(
    lm: LanguageModel, rendered: list[Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = generate(lm, rendered[:4], max_new_tokens=NEW)
    monkeypatch.setattr(lm.model.generation_config, "repetition_penalty", 5.0)
    monkeypatch.setattr(lm.model.generation_config, "do_sample", True)
    assert generate(lm, rendered[:4], max_new_tokens=NEW) == plain


def test_text_is_without_end_token(lm: LanguageModel, rendered: list[Rendered]) -> None:
    replies = generate(lm, rendered, max_new_tokens=NEW)
    done = next(r for r in replies if r.finished and len(r.tokens) > 1)
    assert text_of(lm, done) == lm.tokenizer.decode(done.tokens[:-1])


def test_a_limit_of_one_token(lm: LanguageModel, rendered: list[Rendered]) -> None:
    longer = generate(lm, rendered, max_new_tokens=NEW)
    assert [r.tokens for r in generate(lm, rendered, max_new_tokens=1)] == [r.tokens[:1] for r in longer]


class _Small:
    """The model on a machine where more than ``most`` rows of prompts do not fit."""

    def __init__(self, model: Any, most: int) -> None:
        self.model, self.most = model, most
        self.generation_config, self.config = model.generation_config, model.config

    def __call__(self, **inputs: Any) -> Any:
        if len(inputs["input_ids"]) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.model(**inputs)


def test_batches_that_do_not_fit_are_halved(lm: LanguageModel, rendered: list[Rendered]) -> None:
    small = dataclasses.replace(lm, model=_Small(lm.model, 3))
    assert generate(small, rendered, max_new_tokens=NEW, batch_size=16) == generate(lm, rendered, max_new_tokens=NEW)


def test_a_prompt_that_never_fits_says_what_to_lower(lm: LanguageModel, rendered: list[Rendered]) -> None:
    none = dataclasses.replace(lm, model=_Small(lm.model, 0))
    with pytest.raises(EvaluationError, match=r"single prompt of \d+ tokens.*--max-prompt-tokens"):
        generate(none, rendered[:2], max_new_tokens=NEW)


def test_numbers_that_are_not_finite_are_refused(lm: LanguageModel, rendered: list[Rendered], tiny_model: Path) -> None:
    broken = load(str(tiny_model), dtype="float32", device="cpu")
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite in float32"):
        generate(broken, rendered[:2], max_new_tokens=NEW)


def test_batches_hold_similar_lengths_longest_first(lm: LanguageModel) -> None:
    lengths = np.random.default_rng(0).integers(1, 3000, 500).tolist()
    found = batches(lengths, lm, "auto", 8192)
    assert sorted(i for b in found for i in b) == list(range(500))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 8192 for b in found)
    flat = [lengths[i] for b in found for i in b]
    assert flat == sorted(flat, reverse=True)
    assert [len(b) for b in batches(lengths, lm, 64, None)] == [64] * 7 + [52]
    assert batches([], lm, "auto", 8192) == []
