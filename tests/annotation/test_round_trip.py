"""Out with export, back with import: what people wrote is what the study holds."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thriftune.annotation.export import export, rows
from thriftune.annotation.formats import FORMATS, Row, write_rows
from thriftune.annotation.ingest import ingest
from thriftune.annotation.parse import Answer, parse
from thriftune.spreadsheet import guard, unguard
from thriftune.study import Study
from thriftune.types import Annotation

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
AWKWARD_TEXT = TEXT | st.lists(
    st.sampled_from(
        [
            "=",
            "'",
            "-",
            "+",
            "@",
            "\t",
            "\r",
            "\n",
            "\r\n",
            '"',
            ",",
            ";",
            "1",
            ".",
            "a",
            " ",
            "ß",
            "\u2028",
            "🧵",
            "\0",
        ]
    )
).map("".join)
ROW = st.builds(
    Row,
    id=AWKWARD_TEXT.filter(str.strip),
    rank=st.integers(1, 9),
    text=AWKWARD_TEXT,
    turns=st.none(),
    task=st.none() | AWKWARD_TEXT,
    draft=AWKWARD_TEXT,
    response=AWKWARD_TEXT,
)


@pytest.mark.parametrize("to", FORMATS)
@settings(max_examples=150, deadline=None)
@given(written=st.lists(ROW, min_size=1, max_size=4), array=st.booleans(), drafts=st.booleans())
def test_every_text_survives_every_format(to: str, written: list[Row], array: bool, drafts: bool) -> None:
    written = [row if drafts else replace(row, draft=None) for row in written]
    handle = io.StringIO(newline="")
    write_rows(handle, written, to, array=array)  # type: ignore[arg-type]
    read = list(parse(Path("x"), handle.getvalue().encode()))
    assert all(isinstance(row, Answer) for row in read), read
    expected = [(row.id, row.response if row.response.strip() else "") for row in written]
    assert [(row.id, row.response) for row in read] == expected
    for row, back in zip(written, read, strict=True):
        told = back.prompt if not isinstance(back.prompt, tuple) else back.prompt[0][1]
        assert (told or "") == row.text


@given(AWKWARD_TEXT)
def test_guarded_cells_are_no_formulas_and_come_back(text: str) -> None:
    cell = guard(text)
    assert unguard(cell) == text
    if cell[:1] and cell[:1] in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20":
        float(cell)  # only numbers may begin so


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("- a list", "'- a list"),
        ("-5", "-5"),
        ("+3.25", "+3.25"),
        ("'=1", "''=1"),
        ("\n=1", "'\n=1"),
        ("\uff1dcmd|x", "'\uff1dcmd|x"),
        ("it's", "it's"),
        ("", ""),
    ],
)
def test_guard_by_example(text: str, cell: str) -> None:
    assert guard(text) == cell


NAMES = ["a.csv", "a.jsonl", "messages.jsonl", "alpaca.json", "messages.json"]
NAMES += ["prompt-completion.jsonl", "sharegpt.json", "label-studio.json", "argilla.json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("selection", ["first", "holdout"])
def test_answers_come_back_through_files(small_study: Study, tmp_path: Path, name: str, selection: str) -> None:
    to = next((f for f in FORMATS if name.startswith(f"{f}.")), None)
    file = tmp_path / name
    done = export(small_study, file, to=to, selection=selection)
    assert (done.rows, done.answered) == (10 if selection == "first" else 4, 0)
    assert ingest(small_study, file).unanswered == done.rows

    # Answered in store, exported, brought back: nothing is new, nothing is in conflict, no prompt looks edited.
    answers = {row.id: f'=ANSWER {row.id}\r\n"two", – lines\n' for row in rows(small_study, selection)[:3]}
    small_study.annotations.add(Annotation(i, text) for i, text in answers.items())
    export(small_study, file, to=to, selection=selection, force=True)
    back = ingest(small_study, file)
    assert (back.new, back.unchanged, back.unanswered, back.conflicts, back.edited) == (0, 3, done.rows - 3, [], [])
    read = {a.id: a.response for a in parse(file, file.read_bytes()) if isinstance(a, Answer) and a.response}
    assert read == answers


def test_csv_edited_by_another_program(small_study: Study, tmp_path: Path) -> None:
    # The spreadsheet of a country with decimal commas: no mark, semicolons, all cells quoted, rows sorted, blank rows.
    file = tmp_path / "a.csv"
    export(small_study, file)
    with file.open(encoding="utf-8-sig", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert [r["id"] for r in table] == ["p03", "p00", "p08", "p02", "p01", "p05", "p04", "p06", "p07", "p09"]
    assert [r["rank"] for r in table] == [str(i) for i in range(1, 11)]
    table.sort(key=lambda r: r["id"])
    table[0]["response"], table[1]["response"] = "'- one\r\n- two", 'Fünf; "six"'
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, table[0], delimiter=";", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(table)
        handle.write(";;;;;\r\n")
    done = ingest(small_study, file, annotator="ann")
    assert (done.new, done.unanswered, done.edited) == (2, 8, [])
    assert small_study.annotations.in_force() == [
        Annotation("p00", "- one\r\n- two", annotator="ann"),
        Annotation("p01", 'Fünf; "six"', annotator="ann"),
    ]


def test_jsonl_read_by_pandas_and_datasets_columns(small_study: Study, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    export(small_study, file)
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert list(records[0]) == ["id", "rank", "task", "prompt", "draft", "response"]
    assert records[0]["draft"] == "Draft 3\nsecond line"
    chat = next(r for r in records if r["id"] == "p08")
    assert list(chat) == ["id", "rank", "task", "messages", "draft", "response"]
    assert [turn["role"] for turn in chat["messages"]] == ["system", "user", "assistant", "user"]


def test_messages_load_as_trl_wants_them(small_study: Study, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    small_study.annotations.add([Annotation("p00", "one"), Annotation("p08", "two"), Annotation("p12", "held out")])
    file = tmp_path / "train.jsonl"
    done = export(small_study, file, to="messages", answered_only=True)
    assert (done.rows, done.answered) == (2, 2)
    loaded = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["id"][:] == ["p00", "p08"]
    for turns in loaded["messages"]:
        assert turns[-1]["role"] == "assistant"
        assert all(set(turn) == {"role", "content"} for turn in turns)
    assert loaded[1]["messages"][-1]["content"] == "two"
