from __future__ import annotations

import csv
import gzip
import json
import multiprocessing
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from thriftune.annotation.conflicts import drop_conflicts, keep_conflicts
from thriftune.annotation.export import export
from thriftune.annotation.ingest import ingest, store
from thriftune.annotation.parse import Answer
from thriftune.annotations import put
from thriftune.errors import AnnotationError, StudyError
from thriftune.pool.build import init
from thriftune.study import Study
from thriftune.types import Annotation


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def test_one_broken_row_refuses_the_file(small_study: Study, file: Path) -> None:
    jsonl(file, {"id": "p00", "response": "fine"}, {"id": "nobody", "response": "x"})
    with pytest.raises(AnnotationError) as caught:
        ingest(small_study, file)
    assert str(caught.value) == (
        f"nothing was imported, 1 row is broken: {file}:2: id 'nobody' is not in {small_study.path}. "
        "Mend the file, or add --skip-bad to import the rest"
    )
    assert small_study.annotations.in_force() == []
    done = ingest(small_study, file, skip_bad=True)
    assert (done.new, [row.line for row in done.skipped]) == (1, [2])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not a JSON object"),
        ("[1]", "a JSON list where an object was expected"),
        ('{"response": "x"}', "no id"),
        ('{"id": "", "response": "x"}', "no id"),
        ('{"id": null, "response": "x"}', "no id"),
        ('{"id": "p01"}', "none of response, messages, completion, conversations and output"),
        ('{"id": "p01", "response": 42}', "the answer is a JSON int, not text"),
        ('{"id": "p01", "messages": [{"role": "user"}]}', "messages is not a list"),
        ('{"id": "p01", "response": "\\ud800"}', "half a Unicode character"),
        ('{"id": "\\ud800", "response": "x"}', "half a Unicode character"),
        ('{"id": "p00", "response": "again"}', r"id 'p00' again \(first on line 1\)"),
        ('{"id": "p01", "response": "\\q"}', "not a JSON object"),
        ("\udcff{}", "not a JSON object"),
    ],
)
def test_broken_lines_are_named(small_study: Study, file: Path, line: str, reason: str) -> None:
    good = json.dumps({"id": "p00", "response": "fine"})
    file.write_bytes(f"{good}\r\n\r\n{line}\r\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(AnnotationError, match=f"answers.jsonl:3: {reason}"):
        ingest(small_study, file)
    assert small_study.annotations.in_force() == []
    assert ingest(small_study, file, skip_bad=True).new == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        (b"id,answer\np00,x\n", r"answers.jsonl:1 has no column response \(there: id, answer\)"),
        (b'id,response\np00,"x\np01,y\n', r"answers.jsonl:2 is not valid CSV"),
        (b'id,response\n"p00"x,y\n', r"answers.jsonl:2 is not valid CSV"),
        ("id,response\np00,ü\n".encode("latin-1"), r"answers.jsonl:2 is not UTF-8"),
        (b'[{"id": "p00", "response": "x"}\n\n{"id": "p01"}]', r"answers.jsonl:3 is not valid JSON"),
        (b'[\n{"id": "p00", "response": "x"},\n{"id"', r"answers.jsonl:3 is not valid JSON"),
        (b"[]", "has no rows"),
    ],
)
def test_unreadable_files_are_refused_whole(small_study: Study, file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        ingest(small_study, file, skip_bad=True)
    assert small_study.annotations.in_force() == []


def test_missing_file_and_directory(small_study: Study, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="cannot be read .No such file"):
        ingest(small_study, tmp_path / "none.csv")
    with pytest.raises(AnnotationError, match="is not a file"):
        ingest(small_study, tmp_path)


def test_csv_rows_know_their_first_line(small_study: Study, file: Path) -> None:
    file.write_bytes(b'id,prompt,response\r\np00,"a\r\nb","x\r\ny"\r\np01,only two\r\np02,,z\r\n,,lost\r\n')
    done = ingest(small_study, file, skip_bad=True)
    assert [(row.line, row.reason) for row in done.skipped] == [(5, "2 cells under 3 columns"), (7, "no id")]
    assert small_study.annotations.final()["p00"].response == "x\r\ny"


def test_array_rows_know_their_line(small_study: Study, file: Path) -> None:
    file.write_text(
        '[\n  {"id": "p00",\n   "output": "x"},\n\n  {"id": "who", "output": "y"}, {"id": 7, "output": ""}\n]\n'
    )
    done = ingest(small_study, file, skip_bad=True)
    assert done.new == 1
    assert [(row.line, row.reason.split(" is")[0]) for row in done.skipped] == [(5, "id 'who'"), (5, "id '7'")]


def test_conflicts_are_left_out_and_the_rest_comes_in(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "old", annotator="ann"), Annotation("p01", "same\n")])
    jsonl(
        file,
        {"id": "p00", "response": "new"},
        {"id": "p01", "response": "same\r\n"},
        {"id": "p02", "response": "fresh"},
        {"id": "p03", "response": " \n"},
    )
    done = ingest(small_study, file)
    assert (done.new, done.unchanged, done.unanswered, len(done.conflicts)) == (1, 1, 1, 1)
    assert (done.conflicts[0].line, done.conflicts[0].offered.response) == (1, "new")
    assert {i: a.response for i, a in small_study.annotations.final().items()} == {
        "p00": "old",
        "p01": "same\n",
        "p02": "fresh",
    }

    # What was left out can be looked at, and taken.
    place = keep_conflicts(small_study, file, done.conflicts)
    taken = ingest(small_study, place, replace=True)
    assert (taken.new, taken.replaced, taken.conflicts) == (0, 1, [])
    assert small_study.annotations.final()["p00"].response == "new"
    again = ingest(small_study, place)
    assert (again.new, again.unchanged, again.conflicts) == (0, 1, [])


def test_replaced_answers_stay_as_history(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "old")])
    ingest(small_study, jsonl(file, {"id": "p00", "response": "new"}), replace=True)
    with sqlite3.connect(small_study.annotations.path) as connection:
        rows = connection.execute("SELECT response, replaced IS NULL FROM annotations ORDER BY id").fetchall()
    assert rows == [("old", 0), ("new", 1)]


def test_replacing_takes_the_place_of_what_a_review_decided(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "first")])
    with small_study.annotations.connect() as connection:
        decided = Annotation("p00", "decided", annotator="head")
        put(connection, decided, "2026-01-01T00:00:00+00:00", replace=False, review=True)
    jsonl(file, {"id": "p00", "response": "new"})
    assert len(ingest(small_study, file).conflicts) == 1
    assert ingest(small_study, file, replace=True).replaced == 1
    assert small_study.annotations.final()["p00"].response == "new"
    again = ingest(small_study, file, replace=True)
    assert (again.replaced, again.unchanged) == (0, 1)


def test_an_answer_supersedes_the_annotators_own_draft(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "half", annotator="ann", status="draft")])
    done = ingest(small_study, jsonl(file, {"id": "p00", "response": "whole"}), annotator="ann")
    assert (done.new, done.conflicts) == (1, [])
    assert [a.response for a in small_study.annotations.in_force()] == ["whole"]


def in_force(study: Study) -> list[tuple[str, str, str]]:
    return [(a.response, a.annotator, a.source) for a in study.annotations.in_force()]


def test_a_conflict_taken_keeps_who_answered(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "a person's", annotator="ann")])
    options = {"annotator": "gpt", "source": "teacher"}
    ingest(small_study, jsonl(file, {"id": "p00", "response": "A"}), **options)  # type: ignore[arg-type]
    done = ingest(small_study, jsonl(file, {"id": "p00", "response": "B"}), **options)  # type: ignore[arg-type]
    place = keep_conflicts(small_study, file, done.conflicts)
    assert ingest(small_study, place, replace=True).replaced == 1
    assert in_force(small_study) == [("a person's", "ann", "human"), ("B", "gpt", "teacher")]
    assert small_study.responses("human") == {"p00": "a person's"}


@pytest.mark.parametrize("through", ["flag", "file"])
def test_replacing_takes_the_place_of_the_answer_in_conflict(small_study: Study, file: Path, through: str) -> None:
    small_study.annotations.add([Annotation("p00", "C", annotator="cat"), Annotation("p00", "A", annotator="ann")])
    jsonl(file, {"id": "p00", "response": "B"})
    done = ingest(small_study, file, annotator="bob", replace=through == "flag")
    if through == "file":
        done = ingest(small_study, keep_conflicts(small_study, file, done.conflicts), replace=True)
    assert (done.new, done.replaced, done.conflicts) == (0, 1, [])
    # What the others answered was not in conflict: the answer in force to the prompt was ann's.
    assert in_force(small_study) == [("C", "cat", "human"), ("B", "bob", "human")]
    with small_study.annotations.connect() as connection:
        rows = connection.execute("SELECT id, replaced IS NULL, replaces FROM annotations ORDER BY id").fetchall()
    assert rows == [(1, 1, None), (2, 0, None), (3, 1, 2)]


def test_an_answer_that_came_with_the_pool_is_replaced(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "A", source="imported")])
    assert ingest(small_study, jsonl(file, {"id": "p00", "response": "B"}), replace=True).replaced == 1
    assert in_force(small_study) == [("B", "", "human")]


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "p00", "response": "A", "annotator": "gpt", "source": "teacher"}\n'
        '{"id": "p00", "response": "B", "annotator": 7, "source": null}\n'
        '{"id": "p01", "response": "C", "annotator": " "}\n',
        "id,response,annotator,source\np00,A,gpt,teacher\np00,B,7,\np01,C,,\n",
        '[{"id": "p00", "output": "A", "annotator": "gpt", "source": "teacher"},'
        '{"id": "p00", "completion": "B", "annotator": "7"}, {"id": "p01", "conversations":'
        '[{"from": "human", "value": "x"}, {"from": "gpt", "value": "C"}]}]',
    ],
)
def test_rows_say_who_answered_and_flags_where_they_do_not(small_study: Study, file: Path, text: str) -> None:
    file.write_text(text)
    assert ingest(small_study, file, annotator="ann").new == 3
    assert in_force(small_study) == [("A", "gpt", "teacher"), ("B", "7", "human"), ("C", "ann", "human")]
    assert ingest(small_study, file, annotator="ann").unchanged == 3


@pytest.mark.parametrize("source", ['"dolly"', '["human"]', "NaN", '"Human "'])
def test_a_column_source_may_be_something_else(small_study: Study, file: Path, source: str) -> None:
    file.write_text(f'{{"id": "p00", "response": "A", "source": {source}, "annotator": 3.0}}')
    assert ingest(small_study, file).new == 1
    assert in_force(small_study) == [("A", "3", "human")]


def test_an_annotator_that_is_no_name(small_study: Study, file: Path) -> None:
    file.write_text('{"id": "p00", "response": "A", "annotator": {}}')
    with pytest.raises(AnnotationError, match="1: annotator is a JSON dict, not text"):
        ingest(small_study, file)


def test_who_is_named_and_who_is_not_leave_each_other_alone(small_study: Study) -> None:
    rows = [Answer(1, "p00", "X", None), Answer(2, "p00", "Y", None, "bob")]
    for _ in range(3):
        done = store(small_study, rows, "pull", annotator="", source="human", replace=True, skip_bad=True)
    assert (done.new, done.replaced, done.unchanged) == (0, 0, 2)
    assert sorted(in_force(small_study)) == [("X", "", "human"), ("Y", "bob", "human")]


def test_a_conflict_keeps_the_time_spent(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "A")])
    told = {"id": "p00", "response": "B", "seconds": 42.5}
    place = keep_conflicts(small_study, file, ingest(small_study, jsonl(file, told)).conflicts)
    assert ingest(small_study, place, replace=True).replaced == 1
    assert [a.seconds for a in small_study.annotations.in_force()] == [42.5]


def test_conflicts_of_two_imports_are_both_kept(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "A"), Annotation("p01", "A")])
    places = []
    for prompt in ("p00", "p01", "p00"):
        done = ingest(small_study, jsonl(file, {"id": prompt, "response": "B"}))
        places.append(keep_conflicts(small_study, file, done.conflicts))
    assert [p.name for p in places] == [f"import-conflicts{n}.jsonl" for n in ("", "-2", "-3")]
    assert [json.loads(p.read_text())["id"] for p in places] == ["p00", "p01", "p00"]
    assert drop_conflicts(small_study, places[0]) and not places[0].exists()
    assert not drop_conflicts(small_study, file) and file.exists()


def test_a_conflict_is_outdated_when_another_answer_is_in_force(small_study: Study, file: Path) -> None:
    small_study.annotations.add([Annotation("p00", "A")])
    done = ingest(small_study, jsonl(file, {"id": "p00", "response": "B"}))
    old = keep_conflicts(small_study, file, done.conflicts)
    ingest(small_study, jsonl(file, {"id": "p00", "response": "C"}), replace=True)
    again = ingest(small_study, old, replace=True)
    assert (again.replaced, [c.in_force.response for c in again.conflicts]) == (0, ["C"])
    assert in_force(small_study) == [("C", "", "human")]
    # Who wants it nevertheless says so of the answer that it would replace now.
    assert ingest(small_study, keep_conflicts(small_study, old, again.conflicts), replace=True).replaced == 1
    assert in_force(small_study) == [("B", "", "human")]


def test_teachers_are_told_apart(small_study: Study, file: Path) -> None:
    ingest(small_study, jsonl(file, {"id": "p00", "response": "x"}), annotator="gpt", source="teacher")
    assert small_study.annotations.in_force() == [Annotation("p00", "x", annotator="gpt", source="teacher")]


def test_held_out_prompts_can_be_answered(small_study: Study, file: Path) -> None:
    assert ingest(small_study, jsonl(file, {"id": "p12", "response": "x"})).new == 1


def test_edited_prompts_are_noticed(small_study: Study, file: Path) -> None:
    chat = [{"role": "user", "content": "Name a colour."}, {"role": "user", "content": "Another."}]
    done = ingest(
        small_study,
        jsonl(
            file,
            {"id": "p02", "prompt": 'She said "hi", then\nleft; twice\n', "response": ""},
            {"id": "p03", "prompt": "something else", "response": "x"},
            {"id": "p08", "messages": [*chat, {"role": "assistant", "content": "x"}]},
            {"id": "p05", "response": "x"},
            {"id": "p06", "instruction": "spaces around", "input": "", "output": "x"},
        ),
    )
    assert done.edited == ["p03", "p08"]
    assert done.new == 4


def test_answers_beside_other_prompts_are_refused(small_study: Study, file: Path) -> None:
    export(small_study, file, to="csv")
    with file.open(encoding="utf-8-sig", newline="") as handle:
        header, *table = csv.reader(handle)
    ids = [row[0] for row in table]
    for row, shifted in zip(table, [*ids[1:], ids[0]], strict=True):
        row[0], row[header.index("response")] = shifted, "x"
    table[4][header.index("prompt")] = "changed"
    with file.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header, *table])
    with pytest.raises(AnnotationError, match="9 rows are broken: .*:2: id 'p00' beside the prompt of id 'p03'; "):
        ingest(small_study, file)
    assert in_force(small_study) == []
    done = ingest(small_study, file, skip_bad=True)
    assert (done.new, len(done.skipped), done.edited) == (1, 9, [ids[5]])


def test_a_chat_beside_another_id_is_refused(small_study: Study, file: Path) -> None:
    export(small_study, file, to="messages")
    chat = next(row for row in map(json.loads, file.read_text().strip().split("\n")) if row["id"] == "p08")
    jsonl(file, {**chat, "id": "p00"})
    with pytest.raises(AnnotationError, match=r":1: id 'p00' beside the prompt of id 'p08'\. Mend"):
        ingest(small_study, file)


@pytest.mark.parametrize("spoilt", ["5.85353E+15", 5853527138540472.0, 7])
def test_ids_that_a_spreadsheet_spoilt_are_found_by_the_prompt(
    small_study: Study, file: Path, spoilt: str | float
) -> None:
    jsonl(
        file,
        {"id": spoilt, "prompt": 'She said "hi", then\nleft; twice', "response": "x"},
        {"id": spoilt, "instruction": "-5", "input": "", "output": "y"},
        {"id": "p00", "response": "z"},
    )
    done = ingest(small_study, file)
    assert (done.new, done.by_text, done.edited) == (3, 2, [])
    assert {i: a.response for i, a in small_study.annotations.final().items()} == {"p00": "z", "p02": "x", "p05": "y"}
    jsonl(file, {"id": spoilt, "prompt": "no such prompt", "response": "x"})
    with pytest.raises(AnnotationError, match=r":1: id '.*' is not in .*study\. Mend"):
        ingest(small_study, file)


def test_an_unknown_id_and_a_prompt_that_is_there_twice(tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "pool.jsonl", *({"prompt": p} for p in ("again", "again", "once")))
    study = init(tmp_path / "twice", [pool]).study
    answers = jsonl(tmp_path / "a.jsonl", {"id": "1E+9", "prompt": "again", "response": "x"})
    with pytest.raises(AnnotationError, match="id '1E.9' is not in .*twice, and 2 prompts have its text"):
        ingest(study, answers)
    # The text of its own id's prompt is right, whoever else has it.
    jsonl(answers, *({"id": i, "prompt": "again", "response": "x"} for i in study.pool()["id"].to_pylist()[:2]))
    assert ingest(study, answers).new == 2


def _hold(path: str, ready: Any, release: Any) -> None:
    with Study(path).lock("import"):
        ready.set()
        release.wait(30)


def test_two_imports_do_not_interleave(small_study: Study, file: Path) -> None:
    jsonl(file, {"id": "p00", "response": "x"})
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(small_study.path), ready, release))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(StudyError, match="another process is at work on import"):
            ingest(small_study, file)
    finally:
        release.set()
        other.join()
    assert ingest(small_study, file).new == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: give"),
        (gzip.compress(b"{}", mtime=0), "is compressed, a workbook or Parquet: save it as CSV or JSON"),
        (b"PK\x03\x04 a workbook", "is compressed, a workbook"),
        (b'[\n{"id": "p00",\n', r":2 is not valid JSON \(.*\): mend the file there"),
        (b"[" * 100_000, r":1 is not valid JSON \(nested too deeply\)"),
        (b'{"id": "p00", "response": ' + b"[" * 100_000, r":1: not a JSON object \(nested too deeply\)"),
        (b'{"data": {"thriftune_id": "p00"}, "annotations": 5}', "annotations is not a list"),
        (
            b'{"data": {"thriftune_id": "p00"}, "annotations": [{"result": [{"type": "textarea", "value": []}]}]}',
            "not text",
        ),
    ],
)
def test_files_of_answers_that_are_none(small_study: Study, tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "answers").write_bytes(data)
    with pytest.raises(AnnotationError, match=message):
        ingest(small_study, tmp_path / "answers")
    assert not (small_study.path / "annotations.sqlite").exists()


def test_a_pipe_is_no_file_of_answers(small_study: Study, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(AnnotationError, match="is not a file"):
        ingest(small_study, tmp_path / "pipe")


def test_a_prompt_of_another_type_is_none(small_study: Study, tmp_path: Path) -> None:
    row = {"id": "p00", "prompt": {"role": "user"}, "completion": [{"role": "assistant", "content": "x"}]}
    assert ingest(small_study, jsonl(tmp_path / "a.jsonl", row)).new == 1
    with pytest.raises(AnnotationError, match=r"id 'x{100}\.\.\.' is not in") as caught:
        ingest(small_study, jsonl(tmp_path / "b.jsonl", {"id": "x" * 9999, "response": "y"}))
    assert len(str(caught.value)) < 500
