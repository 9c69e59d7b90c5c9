from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from thriftune.report.cards import FIRST, cards, shorten, tokens, water_level
from thriftune.report.material import load
from thriftune.study import Study


def draft(pieces: list[str], entropies: list[float]) -> dict[str, object]:
    ends = [len("".join(pieces[: i + 1])) for i in range(len(pieces))]
    return {
        "response": "".join(pieces),
        "token_ends": ends,
        "token_entropies": entropies,
        "token_margins": [0.5] * len(pieces),
    }


def test_tokens_are_marked_by_the_number_of_even_choices() -> None:
    levels = [t.level for t in tokens(draft(list("abcde"), [math.log(k) + 1e-9 for k in (2, 3, 10, 30, 100)]), 99)]
    assert levels == [0, 1, 2, 3, 4]


def test_steps_that_make_up_one_character_share_its_mark() -> None:
    found = tokens(draft(["ok ", "", "", "🎉", "!"], [0.1, 5.0, 0.2, 0.3, 0.1]), 99)
    assert [t.text for t in found] == ["ok ", "🎉", "!"]
    assert [t.entropy for t in found] == [0.1, 5.0, 0.1]
    assert [t.level for t in found] == [0, 4, 0]


def test_the_step_that_ended_the_answer_comes_last() -> None:
    found = tokens(draft(["Yes", ""], [0.1, 2.5]), 99)
    assert found[-1].stop
    assert found[-1].text == ""
    assert found[-1].entropy == 2.5


def test_an_empty_answer_is_its_end() -> None:
    assert [t.stop for t in tokens(draft([""], [1.0]), 99)] == [True]
    assert tokens({}, 99) == []


def test_tokens_beyond_the_limit_stay_unmarked() -> None:
    found = tokens(draft(list("abcd"), [3.0] * 4), 2)
    assert [t.text for t in found] == ["a", "b", "cd"]
    assert found[-1].entropy is None


@given(st.lists(st.text(max_size=4), max_size=12), st.integers(1, 20))
def test_pieces_join_to_the_answer(pieces: list[str], most: int) -> None:
    found = tokens(draft(pieces, [1.0] * len(pieces)), most)
    assert "".join(t.text for t in found) == "".join(pieces)


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(0, 5000))
def test_water_level_is_the_largest_cap_that_fits(sizes: list[int], budget: int) -> None:
    level = water_level(sizes, budget)
    assert sum(min(size, level) for size in sizes) <= budget
    if any(size > level for size in sizes):
        assert sum(min(size, level + 1) for size in sizes) > budget


@given(st.text(max_size=3000), st.integers(1, 5000))
def test_shortened_texts_lose_nothing_but_what_they_say(text: str, most: int) -> None:
    head, rest, cut = shorten(text, most)
    assert text.startswith(head + rest)
    assert len(head) + len(rest) + cut == len(text)


def test_a_long_prompt_is_shown_by_its_beginning_and_kept_whole() -> None:
    text = "\n".join(f"line {i}" for i in range(5000))
    head, rest, cut = shorten(text, 10**6)
    assert head.count("\n") < 20
    assert head + rest == text
    assert cut == 0


def test_cards_hold_the_first_picks_in_order(full_study: Study) -> None:
    material = load(full_study)
    found = cards(material)
    assert [c["rank"] for c in found["uncertain"]] == list(range(1, FIRST + 1))
    assert [c["id"] for c in found["k_center"]] == [material.ids[r] for r in [3, 8, 13, 18, 23, 28, 1, 60, 70]]
    chat = found["k_center"][6]
    assert [(t.role, t.head) for t in chat["turns"]] == [("system", "Be <i>brief</i>."), ("user", "Hello & welcome")]
    column = material.scores["mean_entropy"]
    best = found["uncertain"][0]["scores"][0]
    assert best["bar"] == round(100 * (column < column.max()).mean())


def test_a_chat_of_many_turns_is_folded(make_study: Callable[..., Study]) -> None:
    from thriftune.report.cards import _turns

    chat = [{"role": "user" if i % 2 else "assistant", "content": f"turn {i}"} for i in range(60)]
    folded = _turns(chat, 1000)  # type: ignore[arg-type]
    assert folded["left_out"] == 20
    assert len(folded["earlier"]) == 37
    assert [t.head for t in folded["turns"]] == ["turn 57", "turn 58", "turn 59"]
