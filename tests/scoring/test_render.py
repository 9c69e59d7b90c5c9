"""Prompt to tokens: the model must see what transformers' own template makes, and we must know which part is whose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from thriftune.errors import ModelError
from thriftune.render import Renderer
from thriftune.types import Message, Prompt


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def plain_tokenizer(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    return tokenizer


def chat(*turns: str) -> tuple[Message, ...]:
    roles = ["user", "assistant"] * len(turns)
    return tuple(Message(role=r, content=c) for r, c in zip(roles, turns, strict=False))


@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_tokens_are_those_of_the_chat_template(tokenizer, text):
    (ours,) = Renderer(tokenizer, 500).render([Prompt("a", text)])
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    assert ours.ids.tolist() == theirs
    assert not ours.truncated


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=60))
def test_user_tokens_are_the_users_text(tokenizer, text):
    (ours,) = Renderer(tokenizer, 500).render([Prompt("a", text)])
    seen = tokenizer.decode(ours.ids[ours.user])
    # A token that joins the template's newline to the text belongs to the template, so a lead may be missing.
    assert text.endswith(seen) and len(text) - len(seen) <= 2


def test_a_prompt_that_repeats_words_of_the_template(tokenizer):
    # "user" stands in the template too; searching for the text would mark the wrong place.
    (ours,) = Renderer(tokenizer, 500).render([Prompt("a", "user")])
    assert tokenizer.decode(ours.ids[ours.user]) == "user"
    assert ours.user.nonzero()[0].min() > tokenizer.decode(ours.ids).count("system")


def test_only_user_turns_are_user_text(tokenizer):
    prompt = Prompt("a", "x", messages=chat("First question", "an answer", "Second question"))
    (ours,) = Renderer(tokenizer, 500).render([prompt])
    assert tokenizer.decode(ours.ids[ours.user]) == "First questionSecond question"


def test_templates_that_strip_or_rewrite(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer, "chat_template", "{% for m in messages %}<|im_start|>{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    )
    (ours,) = Renderer(tokenizer, 500).render([Prompt("a", "  padded text \n")])
    assert tokenizer.decode(ours.ids[ours.user]) == "padded text"
    rewriting = "{% for m in messages %}[{{ m['content'] | replace('b', 'c') }}]{{ m['content'] }}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", rewriting)
    (ours,) = Renderer(tokenizer, 500).render([Prompt("a", "abba")])
    assert tokenizer.decode(ours.ids) == "[acca]abba"
    assert tokenizer.decode(ours.ids[ours.user]) == "abba"


def test_a_template_that_refuses_names_the_prompt(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ModelError, match="refuses prompt 'p7'.*alternate"):
        Renderer(tokenizer, 500).render([Prompt("p7", "hello")])


def test_without_a_template_text_stands_alone(plain_tokenizer):
    (one,) = Renderer(plain_tokenizer, 500).render([Prompt("a", "Say hi")])
    assert plain_tokenizer.decode(one.ids) == "Say hi\n"
    assert plain_tokenizer.decode(one.ids[one.user]) == "Say hi"
    (many,) = Renderer(plain_tokenizer, 500).render([Prompt("a", "x", messages=chat("Hi", "Hello", "Bye"))])
    assert plain_tokenizer.decode(many.ids) == "User: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"
    assert plain_tokenizer.decode(many.ids[many.user]) == "HiBye"


def test_long_prompts_are_cut_in_the_middle_of_the_users_text_never_in_the_template(tokenizer):
    words = " ".join(str(i) for i in range(400))
    short, long = Renderer(tokenizer, 120).render([Prompt("a", "hi"), Prompt("b", words)])
    assert (short.truncated, long.truncated) == (False, True)
    assert len(long.ids) == 120
    template = [t for r in (short, long) for t in [r.ids[~r.user].tolist()]]
    assert template[0] == template[1]
    kept = tokenizer.decode(long.ids[long.user])
    assert words.startswith(kept[:30]) and words.endswith(kept[-30:])


def test_the_longest_user_turn_is_cut_first_then_others(tokenizer):
    prompt = Prompt("a", "x", messages=chat("a b " * 200, "answer " * 20, "c d " * 20))
    (cut,) = Renderer(tokenizer, 250).render([prompt])
    text = tokenizer.decode(cut.ids)
    assert text.count("answer ") == 20
    assert text.count("c d ") == 20
    assert len(cut.ids) == 250


def test_a_template_beyond_the_context_is_an_error(tokenizer):
    with pytest.raises(ModelError, match="cannot be cut to 10 tokens"):
        Renderer(tokenizer, 10).render([Prompt("a", "hello there")])


def test_order_is_kept_beyond_one_block(tokenizer):
    prompts = [Prompt(str(i), f"number {i}") for i in range(2100)]
    rendered = Renderer(tokenizer, 500).render(prompts)
    for i in (0, 1023, 1024, 2099):
        assert tokenizer.decode(rendered[i].ids[rendered[i].user]) == f"number {i}"
    assert all(isinstance(r.ids, np.ndarray) for r in rendered)


def test_a_first_word_that_shares_a_token_with_the_templates_space_is_the_users(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer, "chat_template", "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
    )
    (ours,) = Renderer(tokenizer, 500).render([Prompt("a", "the sum")])
    assert tokenizer.decode(ours.ids[ours.user]).strip() == "the sum"


def test_a_template_that_prints_the_time(tokenizer, monkeypatch):
    text = "{% for m in messages %}Date: DAY|{{ m['content'] }}|{% endfor %}"
    renderer = Renderer(tokenizer, 500)
    for day in ("1 May", "2 May"):
        monkeypatch.setattr(tokenizer, "chat_template", text.replace("DAY", day))
        (ours,) = renderer.render([Prompt("a", "Date")])
        assert ours.user.nonzero()[0].min() > 3, "the word in the template was taken for the user's"
        assert tokenizer.decode(ours.ids[ours.user]) == "Date"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m['content'] }}>{% endfor %}",
        "{% for m in messages %}{% if m['role'] != 'system' %}<{{ m['content'] }}>{% endif %}{% endfor %}",
    ],
    ids=["refused", "dropped"],
)
def test_a_template_without_system_turns_gets_it_in_the_users_turn(tokenizer, monkeypatch, template):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    turns = (Message(role="system", content="Be brief."), Message(role="user", content="Hello"))
    (ours,) = Renderer(tokenizer, 500).render([Prompt("a", "x", messages=turns)])
    assert tokenizer.decode(ours.ids) == "<Be brief.\n\nHello>"
    assert tokenizer.decode(ours.ids[ours.user]) == "Hello"


def test_a_template_that_moves_the_system_turn_behind_earlier_turns(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer,
        "chat_template",
        (  # as Mistral's: the system text leads the last user turn
            "{% set system = messages[0]['content'] %}{% for m in messages[1:] %}"
            "{% if loop.last %}[{{ system }}]{% endif %}<{{ m['content'] | trim }}>{% endfor %}"
        ),
    )
    turns = (Message(role="system", content="Be brief."), *chat("First", "Yes", "Second"))
    (ours,) = Renderer(tokenizer, 500).render([Prompt("a", "x", messages=turns)])
    assert tokenizer.decode(ours.ids) == "<First><Yes>[Be brief.]<Second>"
    assert tokenizer.decode(ours.ids[ours.user]) == "FirstSecond"


def test_a_template_that_lets_models_think_is_asked_not_to(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer,
        "chat_template",
        (  # as Qwen3's: an empty block of thoughts opens a plain answer
            "{% set empty = '<think>\n\n</think>\n\n' %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
            "{% if m['role'] == 'assistant' %}{{ empty }}{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n"
            "{% if enable_thinking is defined and enable_thinking is false %}{{ empty }}{% endif %}{% endif %}"
        ),
    )
    text, rest = Renderer(tokenizer, 500).complete(Prompt("a", "Capital?"), "Paris")
    assert text.endswith("</think>\n\n") and rest == "Paris<|im_end|>\n"
