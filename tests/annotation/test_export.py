from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from thriftune.annotation.export import export, rows
from thriftune.errors import AnnotationError, StudyError
from thriftune.study import Study
from thriftune.types import Annotation


def test_csv_opens_in_spreadsheets(small_study: Study, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    export(small_study, file)
    data = file.read_bytes()
    assert data.startswith(b"\xef\xbb\xbfid,rank,task,prompt,draft,response\r\np03,1,")
    assert data.endswith(b"\r\n")
    with file.open(encoding="utf-8-sig", newline="") as handle:
        prompts = {r["id"]: r["prompt"] for r in csv.DictReader(handle)}
    assert prompts["p00"] == '\'=HYPERLINK("http://x.example","click")'
    assert prompts["p05"] == "-5"
    assert prompts["p02"] == 'She said "hi", then\r\nleft; twice'


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_no_draft_leaves_no_trace(small_study: Study, tmp_path: Path, name: str) -> None:
    export(small_study, tmp_path / name, draft=False)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert "draft" not in text
    assert "Draft" not in text


def test_held_out_prompts_have_no_draft_but_a_column(small_study: Study, tmp_path: Path) -> None:
    export(small_study, tmp_path / "a.jsonl", selection="holdout")
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [r["id"] for r in records] == ["p12", "p13", "p14", "p15"]
    assert {r["draft"] for r in records} == {""}


def test_the_latest_answer_counts(small_study: Study) -> None:
    small_study.annotations.add([Annotation("p03", "first", annotator="a"), Annotation("p00", "d", status="draft")])
    small_study.annotations.add([Annotation("p03", "second", annotator="b")])
    found = {row.id: row.response for row in rows(small_study, "first")}
    assert found["p03"] == "second"
    assert found["p00"] == ""


def test_an_existing_file_is_kept(small_study: Study, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("paid work")
    with pytest.raises(AnnotationError, match=r"exists and may hold answers.*--force"):
        export(small_study, file)
    assert file.read_text() == "paid work"
    export(small_study, file, force=True)
    assert file.read_text() != "paid work"


@pytest.mark.parametrize("name", ["annotations.sqlite", "pool.parquet", "selections/first.parquet"])
def test_a_studys_own_files_are_kept_even_by_force(small_study: Study, name: str) -> None:
    small_study.annotations.add([Annotation("p03", "paid work", annotator="a")])
    file = small_study.path / name
    before = file.read_bytes()
    with pytest.raises(StudyError, match=f"{name} belongs to the study"):
        export(small_study, file, to="jsonl", force=True)
    assert file.read_bytes() == before
    export(small_study, small_study.path / "answers.jsonl")
    assert "paid work" in (small_study.path / "answers.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        (
            "a.json",
            None,
            "format of .*a.json is unclear: add --to with one of jsonl, csv, messages, prompt-completion, alpaca",
        ),
        ("a", None, "unclear"),
        ("a.csv", "xlsx", "unknown format 'xlsx'"),
        ("", "csv", "is a directory"),
    ],
)
def test_unclear_requests_are_refused(
    small_study: Study, tmp_path: Path, name: str, to: str | None, message: str
) -> None:
    with pytest.raises(AnnotationError, match=message):
        export(small_study, tmp_path / name, to=to)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study"]


def test_nothing_to_export(small_study: Study, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="none of the 10 prompts of 'first' is answered yet"):
        export(small_study, tmp_path / "a.csv", answered_only=True)
    with pytest.raises(StudyError, match=r"no selection 'other' .*there: first"):
        export(small_study, tmp_path / "a.csv", selection="other")
    small_study.selection_file("first").unlink()
    with pytest.raises(AnnotationError, match="no selection yet: run: thriftune select"):
        export(small_study, tmp_path / "a.csv")


def test_standard_output_holds_only_the_file(small_study: Study, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    export(small_study, None, to="jsonl")
    lines = capfdbinary.readouterr().out.decode().split("\n")
    assert [json.loads(line)["rank"] for line in lines if line] == list(range(1, 11))
    with pytest.raises(AnnotationError, match="standard output is unclear"):
        export(small_study, None)


def test_pool_without_scores_exports(small_study: Study, tmp_path: Path) -> None:
    (small_study.path / "scores" / "default" / "scores.parquet").unlink()
    export(small_study, tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_text().split("\n")[0])["draft"] == ""


def test_a_selection_from_another_pool_is_noticed(small_study: Study, tmp_path: Path) -> None:
    import numpy as np

    from thriftune.types import Selection

    ids = np.array(["p00", "ghost"], dtype=object)
    small_study.write_selection("alien", Selection(ids, np.arange(2), None, "random", 2, 0), {})
    with pytest.raises(AnnotationError, match="'alien' names 'ghost'"):
        export(small_study, tmp_path / "a.csv", selection="alien")


def test_a_models_answers_are_exported_only_when_asked_for(small_study: Study, tmp_path: Path) -> None:
    teacher = Annotation("p00", "by a model", annotator="m", source="teacher")
    small_study.annotations.add([teacher, Annotation("p01", "by a person")])
    file = tmp_path / "a.jsonl"
    assert export(small_study, file, answered_only=True).rows == 1
    assert export(small_study, file, answered_only=True, annotations="teacher", force=True).rows == 1
    assert export(small_study, file, answered_only=True, annotations="human,teacher", force=True).rows == 2
