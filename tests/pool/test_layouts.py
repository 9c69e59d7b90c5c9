"""Shapes of instruction data sets, understood without being told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thriftune.config import InitConfig
from thriftune.errors import PoolError
from thriftune.pool.layouts import Draft, Layout, as_json
from thriftune.pool.turns import Unusable, readable

USER = {"role": "user", "content": "Hi"}
CHAT = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Bye."},
]


def understand(rows: list[dict[str, Any]], **config: Any) -> tuple[list[Draft], str]:
    layout = Layout(rows, InitConfig(**config), "pool.jsonl")
    return [layout.draft(row) for row in rows], layout.described()


def one(row: dict[str, Any], **config: Any) -> tuple[Draft, str]:
    drafts, described = understand([row], **config)
    return drafts[0], described


def pairs(draft: Draft) -> list[tuple[str, str]]:
    return [(t["role"], t["content"]) for t in draft.turns]


@pytest.mark.parametrize("column", ["prompt", "question", "instruction", "query", "inputs", "input", "text"])
def test_plain_columns(column: str) -> None:
    draft, described = one({column: " Why? ", "extra": 1})
    assert pairs(draft) == [("user", " Why? ")]
    assert draft.meta == '{"extra": 1}'
    assert column in described


def test_alpaca() -> None:
    rows = [
        {"instruction": "Sort.", "input": "b a", "output": "a b", "text": "### Instruction: Sort. ..."},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
    ]
    drafts, described = understand(rows)
    assert [d.turns[0]["content"] for d in drafts] == ["Sort.\n\nb a", "Greet."]
    assert [d.response for d in drafts] == ["a b", "Hi"]
    assert described == "alpaca (instruction + input); response: output"


def test_dolly() -> None:
    row = {"instruction": "Who?", "context": "Ann came.", "response": "Ann", "category": "closed_qa"}
    draft, described = one(row)
    assert draft.turns[0]["content"] == "Who?\n\nAnn came."
    assert (draft.response, draft.task, draft.meta) == ("Ann", "closed_qa", None)
    assert described == "dolly (instruction + context); response: response; task: category"


def test_sharegpt() -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    draft, described = one({"id": "x1", "conversations": turns})
    assert (draft.id, pairs(draft), draft.response) == ("x1", [("user", "Hi")], "Hello.")
    assert described.startswith("ShareGPT turns (conversations: from/value")


def test_chat_messages_keep_earlier_assistant_turns() -> None:
    draft, described = one({"messages": CHAT})
    assert pairs(draft) == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "And now?")]
    assert draft.response == "Bye."
    assert readable(draft.turns) == "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: And now?"
    assert described.startswith("chat messages (messages: role/content")


def test_a_named_response_column_wins_over_the_final_turn() -> None:
    row = {"messages": CHAT, "answer": "other"}
    assert one(row)[0].response == "Bye."
    assert one(row, response_column="answer")[0].response == "other"
    assert one({"messages": CHAT[:4], "answer": "other"})[0].response == "other"


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_final_turn_is_no_response(empty: str) -> None:
    chat = [*CHAT[:4], {"role": "assistant", "content": empty}]
    assert one({"messages": chat})[0].response is None
    assert one({"messages": chat, "response": "there"})[0].response == "there"


def test_messages_win_over_a_copy_of_the_first_turn_and_fall_back_to_it() -> None:
    rows = [{"prompt": "Hi", "messages": CHAT[:3]}, {"prompt": "Only text", "messages": None}]
    drafts, described = understand(rows)
    assert pairs(drafts[0])[0] == ("system", "Be brief.")
    assert pairs(drafts[1]) == [("user", "Only text")]
    assert "or plain text (prompt)" in described


def test_prompt_as_list_of_messages() -> None:
    draft, described = one({"prompt": [USER], "completion": [{"role": "assistant", "content": "Hello."}]})
    assert (pairs(draft), draft.response) == ([("user", "Hi")], "Hello.")
    assert "chat messages (prompt" in described


@pytest.mark.parametrize(
    "shape", [json.dumps(CHAT), {"role": [t["role"] for t in CHAT], "content": [t["content"] for t in CHAT]}]
)
def test_turns_as_json_text_and_as_columns(shape: Any) -> None:
    draft, _ = one({"messages": shape})
    assert (len(draft.turns), draft.response) == (4, "Bye.")


def test_content_in_parts() -> None:
    parts = [{"type": "text", "text": "Look"}, {"type": "text", "text": " here"}]
    assert pairs(one({"messages": [{"role": "user", "content": parts}]})[0]) == [("user", "Look here")]


def test_system_prompts() -> None:
    draft, described = one({"system_prompt": "Be kind.", "question": "Why?", "response": "So."})
    assert pairs(draft) == [("system", "Be kind."), ("user", "Why?")]
    assert "system: system_prompt" in described
    assert pairs(one({"messages": [{"role": "system", "content": " "}, USER]})[0]) == [("user", "Hi")]


def test_columns_named_by_the_user() -> None:
    row = {"prompt": "no", "frage": "Warum?", "gold": 7, "kind": "why", "nr": 12, "response": "kept"}
    draft, _ = one(row, prompt_column="frage", response_column="gold", task_column="kind", id_column="nr")
    assert (pairs(draft), draft.response, draft.task, draft.id) == ([("user", "Warum?")], "7", "why", "12")
    assert json.loads(draft.meta or "") == {"prompt": "no", "response": "kept"}


def test_none_turns_a_column_off() -> None:
    row = {"prompt": "Why?", "id": "a", "task": "t", "response": "r"}
    draft, _ = one(row, id_column="none", task_column="none", response_column="none")
    assert (draft.id, draft.task, draft.response) == (None, None, None)
    assert json.loads(draft.meta or "") == {"id": "a", "task": "t", "response": "r"}


def test_a_response_deep_in_the_file_is_found_and_kept_out_of_meta() -> None:
    layout = Layout([{"prompt": "a"}], InitConfig(), "x")
    assert layout.draft({"prompt": "a"}).response is None
    late = layout.draft({"prompt": "b", "answer": "yes"})
    assert (late.response, late.meta) == ("yes", None)


@pytest.mark.parametrize("empty", [None, "", "  \n", []])
def test_an_empty_response_is_no_response(empty: Any) -> None:
    assert one({"prompt": "Why?", "response": empty}, response_column="response")[0].response is None


def test_no_prompt_column() -> None:
    with pytest.raises(
        PoolError, match=r"pool.jsonl: no column that can be the prompt \(columns: a, b\): name it with"
    ):
        Layout([{"a": 1, "b": "text"}], InitConfig(), "pool.jsonl")
    with pytest.raises(PoolError, match="'prompt' is empty in the first 2 rows: mend it, or name it with"):
        Layout([{"prompt": "", "b": "text"}, {"prompt": None}], InitConfig(), "pool.jsonl")
    for value in (5, ["a", "b"], [{"speaker": "x", "say": "y"}]):
        with pytest.raises(PoolError, match="'prompt' is neither text nor a list of turns with role and content in"):
            Layout([{"prompt": value}], InitConfig(), "pool.jsonl")
    with pytest.raises(PoolError, match="delete the line sep=, which only Excel reads"):
        Layout([{"sep=": "prompt", "": "task"}], InitConfig(), "pool.csv")
    with pytest.raises(PoolError, match=r"no column 'frage' \(columns: prompt\)"):
        Layout([{"prompt": "x"}], InitConfig(prompt_column="frage"), "pool.jsonl")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": ""}, "empty prompt"),
        ({"prompt": " \n"}, "empty prompt"),
        ({"prompt": None}, "empty prompt"),
        ({"other": "x"}, "empty prompt"),
        ({"prompt": 7}, "wrong type"),
        ({"prompt": "a\x00b"}, "unusable characters"),
        ({"prompt": "a\ud800b"}, "unusable characters"),
        ({"prompt": "fine", "response": "\x00"}, "unusable characters"),
        ({"prompt": "fine", "response": {"a": 1}}, "wrong type"),
        ({"prompt": "fine", "id": ["a"]}, "wrong type"),
        ({"prompt": [{"role": "narrator", "content": "x"}]}, "unusable turns"),
        ({"prompt": [{"role": "user", "content": None}]}, "unusable turns"),
        ({"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "unusable turns"),
        ({"prompt": ["hi"]}, "unusable turns"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "empty prompt"),
        ({"prompt": [USER, {"role": "tool", "content": "x"}]}, "unusable turns"),
        ({"prompt": [{"role": "user", "content": " "}]}, "empty prompt"),
        ({"prompt": [USER, {"role": "user", "content": ""}]}, "empty prompt"),
    ],
)
def test_unusable_rows(row: dict[str, Any], reason: str) -> None:
    layout = Layout([{"prompt": "x", "response": "y", "id": "z"}], InitConfig(), "x")
    layout.draft({"prompt": "x", "response": "y", "id": "z"})
    with pytest.raises(Unusable) as caught:
        layout.draft(row)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("value", "expected"), [(3, "3"), (3.0, "3"), (None, None), (float("nan"), None), ("", None)])
def test_ids_as_text(value: Any, expected: str | None) -> None:
    assert one({"prompt": "x", "id": value}, id_column="id")[0].id == expected


def test_meta_is_json_for_any_reader() -> None:
    text = as_json({"nan": float("nan"), "lone": "\ud800", "raw": b"\x00\x01", "nested": [{"x": float("inf")}]})
    text.encode()
    assert "NaN" not in text
    assert json.loads(text) == {"nan": None, "lone": "\ud800", "raw": "2 bytes", "nested": [{"x": None}]}


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "text", "prompt", "messages", "x"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
_names = [
    "prompt",
    "messages",
    "conversations",
    "instruction",
    "input",
    "response",
    "completion",
    "task",
    "id",
    "system",
]
_rows = st.lists(st.dictionaries(st.sampled_from(_names), _json_values, max_size=5), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(rows=_rows)
def test_any_rows_are_understood_or_refused(rows: list[dict[str, Any]]) -> None:
    try:
        layout = Layout(rows, InitConfig(), "pool")
    except PoolError:
        return
    for row in rows:
        try:
            draft = layout.draft(row)
        except Unusable:
            continue
        assert draft.turns[-1]["role"] == "user"
        assert draft.turns[-1]["content"].strip()
        readable(draft.turns).encode()
        json.loads(draft.meta or "{}")
    layout.described()
