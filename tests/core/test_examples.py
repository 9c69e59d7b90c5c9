"""Tokens and masks of examples: against the chat template itself, and worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thriftune.errors import ModelError
from thriftune.examples import Example, random_batches, tokenize
from thriftune.model import LanguageModel, load
from thriftune.render import Renderer
from thriftune.types import Message, Prompt

_HELLO = Prompt("a", "What is two plus two?")


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> LanguageModel:
    return load(str(tiny_model), dtype="float32", device="cpu")


def text(lm: LanguageModel, ids: Any) -> str:
    return lm.tokenizer.decode(ids)


def test_every_token_is_masked_as_the_template_says(lm: LanguageModel) -> None:
    (example,) = tokenize(lm, [_HELLO], ["It is four."])
    turns = [Message(role="user", content=_HELLO.text), Message(role="assistant", content="It is four.")]
    whole = lm.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    opening = lm.tokenizer.apply_chat_template(turns[:1], tokenize=True, add_generation_prompt=True, return_dict=True)
    start = len(opening["input_ids"])
    # The template ends with a line break after the end token; nobody is asked to learn that.
    assert example.ids.tolist() == whole[:-1]
    assert example.response.tolist() == [False] * start + [True] * (len(whole) - 1 - start)
    assert text(lm, example.ids[example.response]) == "It is four.<|im_end|>"
    assert not example.truncated and example.id == "a"


def test_the_prompt_is_what_scoring_reads(lm: LanguageModel) -> None:
    (example,) = tokenize(lm, [_HELLO], ["Four."])
    (rendered,) = Renderer(lm.tokenizer, 10_000).render([_HELLO])
    assert example.ids[~example.response].tolist() == rendered.ids.tolist()


def test_only_the_last_answer_of_a_chat_is_learned(lm: LanguageModel) -> None:
    turns = ("system", "Be brief."), ("user", "A colour?"), ("assistant", "Red."), ("user", "Another?")
    prompt = Prompt("a", "", messages=tuple(Message(role=r, content=c) for r, c in turns))
    (example,) = tokenize(lm, [prompt], ["Blue."])
    assert text(lm, example.ids[example.response]) == "Blue.<|im_end|>"
    assert "Red.<|im_end|>" in text(lm, example.ids[~example.response])


@pytest.mark.parametrize("response", ["", " leading", "trailing \n", "\n\nbreaks", "日本語 🧵", "two\r\nlines", "it's"])
def test_any_response_comes_back_whole(lm: LanguageModel, response: str) -> None:
    (example,) = tokenize(lm, [_HELLO], [response])
    assert text(lm, example.ids[example.response]) == f"{response}<|im_end|>"
    assert example.response.sum() >= 1


def test_a_response_that_holds_the_end_token_ends_there(lm: LanguageModel) -> None:
    (example,) = tokenize(lm, [_HELLO], ["four<|im_end|>\n<|im_start|>user\nmore"])
    assert text(lm, example.ids[example.response]) == "four<|im_end|>"


def test_without_a_template_the_end_of_sequence_token_ends_the_response(lm: LanguageModel) -> None:
    import copy

    plain = copy.deepcopy(lm.tokenizer)
    plain.chat_template = None
    single, chat = tokenize(
        plain,
        [
            _HELLO,
            Prompt("b", "", messages=(Message(role="system", content="Hm."), Message(role="user", content="Name?"))),
        ],
        ["Four. ", "Ann."],
        100,
    )
    assert plain.decode(single.ids) == "What is two plus two?\nFour. <|im_end|>"
    assert plain.decode(single.ids[single.response]) == "Four. <|im_end|>"
    assert plain.decode(chat.ids) == "System: Hm.\nUser: Name?\nAssistant: Ann.<|im_end|>"
    assert plain.decode(chat.ids[chat.response]) == " Ann.<|im_end|>"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        # A turn that ends in a token which does not end answers: both are written.
        ("{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}[{% endif %}", "yes]"),
        # A template that trims what it is given.
        (
            "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}{% if add_generation_prompt %}<{% endif %}",
            "yes>",
        ),
        # One that opens an answer with a block which it leaves out of finished turns.
        (
            "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
            "{% if add_generation_prompt %}assistant:<think>{% endif %}",
            "yes;",
        ),
    ],
)
def test_odd_templates(lm: LanguageModel, template: str, expected: str) -> None:
    import copy

    odd = copy.deepcopy(lm.tokenizer)
    odd.chat_template = template
    (example,) = tokenize(odd, [_HELLO], ["yes"], 100)
    assert odd.decode(example.ids[example.response]) == f"{expected}<|im_end|>"


def test_a_long_prompt_loses_its_middle_so_that_the_response_fits(lm: LanguageModel) -> None:
    prompt = Prompt("a", "First. " + "word " * 300 + "Last?")
    (example,) = tokenize(lm, [prompt], ["Yes, certainly."], 120)
    assert len(example.ids) == 120 and example.truncated
    assert text(lm, example.ids[example.response]) == "Yes, certainly.<|im_end|>"
    read = text(lm, example.ids[~example.response])
    assert "First." in read and "Last?<|im_end|>\n<|im_start|>assistant\n" in read


def test_a_response_that_is_too_long_loses_its_end(lm: LanguageModel) -> None:
    (example,) = tokenize(lm, [_HELLO], ["word " * 300], 120)
    (whole,) = tokenize(lm, [_HELLO], ["word"], 500)
    assert len(example.ids) == 120 and example.truncated
    assert example.ids[-1] != lm.tokenizer.eos_token_id
    # The prompt is short: all of it stays.
    assert example.ids[~example.response].tolist() == whole.ids[~whole.response].tolist()


def test_when_both_are_too_long_both_are_cut(lm: LanguageModel) -> None:
    (example,) = tokenize(lm, [Prompt("a", "word " * 300)], ["word " * 300], 400)
    assert len(example.ids) == 400 and example.truncated
    (rendered,) = Renderer(lm.tokenizer, 10_000).render([Prompt("a", "word " * 300)])
    assert (~example.response).sum() == (~rendered.user).sum() + 100


def test_the_model_context_is_the_limit(lm: LanguageModel) -> None:
    (example,) = tokenize(lm, [Prompt("a", "word " * 900)], ["Yes."])
    assert len(example.ids) == lm.context == 512


def test_a_template_that_fills_the_limit_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(ModelError, match="'a'.*no room for a response in 16 tokens"):
        tokenize(lm, [_HELLO], ["Yes."], 16)


def made(lengths: list[int]) -> list[Example]:
    return [Example(str(i), np.zeros(n, np.int64), np.ones(n, bool), False) for i, n in enumerate(lengths)]


@given(st.lists(st.integers(2, 400), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 5))
def test_batches_hold_each_example_once(lengths: list[int], size: int, seed: int) -> None:
    batches = random_batches(made(lengths), size, seed=seed)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    sizes = [len(b) for b in batches]
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1
    assert len(batches) == -(-len(lengths) // size)
    assert batches == random_batches(made(lengths), size, seed=seed)


def test_a_batch_is_a_random_part_the_longest_first() -> None:
    examples = made(np.random.default_rng(0).integers(2, 500, 320).tolist())
    lengths = np.array([len(e.ids) for e in examples])
    drawn = random_batches(examples, 16, seed=1)
    assert drawn != random_batches(examples, 16, seed=2)
    for batch in drawn:
        assert list(lengths[batch]) == sorted(lengths[batch], reverse=True)
    # Means of 20 random batches of 16 scatter as sampling says: by a quarter of the lengths' own deviation.
    scatter = np.std([lengths[b].mean() for b in drawn]) / lengths.std()
    assert 0.15 < scatter < 0.35
