from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from thriftune.artifacts import read_table, write_table
from thriftune.errors import StudyError
from thriftune.meta import number_of
from thriftune.outputs import check_output
from thriftune.study import Study, check_name
from thriftune.types import Annotation, Selection


def test_no_study_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"is not a study: make one with: thriftune init .* --pool FILE"):
        Study(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 99}', r"written by a newer thriftune \(format 99\): upgrade"),
        ("{}", "no format number"),
        ("[]", "no format number"),
        ('{"format"', r"study\.json is damaged"),
    ],
)
def test_damaged_or_newer_studies_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(StudyError, match=message):
        Study(tmp_path)


def test_create_records_what_made_it(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "new", {"seed": 4})
    written = json.loads((tmp_path / "new" / "study.json").read_text())
    assert (written["format"], written["seed"]) == (1, 4)
    assert "thriftune" in written["versions"]
    assert study.record == written


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", ".hidden", "-x", "a b", "ü", "x" * 101, "a\n"])
def test_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(StudyError, match="not usable as a file name"):
        check_name(name, "selection")


@pytest.mark.parametrize("name", ["a", "first-100", "v1.2_b+c", "x" * 100])
def test_names_that_are(name: str) -> None:
    assert check_name(name, "selection") == name


def test_pool_by_split_and_column(small_study: Study) -> None:
    assert small_study.pool().num_rows == 12
    assert small_study.pool(split=None).num_rows == 16
    held = small_study.pool(["id", "task"], split="holdout")
    assert held.column_names == ["id", "task"]
    assert held["id"].to_pylist() == ["p12", "p13", "p14", "p15"]


def test_references(small_study: Study) -> None:
    assert small_study.references() == {}
    write_table(small_study.references_file, pa.table({"id": ["p00"], "response": ["x"]}), {})
    assert small_study.references() == {"p00": "x"}


def test_runs_are_ordered_by_age_and_unfinished_ones_left_out(small_study: Study) -> None:
    done = small_study.score_directory("default") / "scores.parquet"
    for name, age in (("a", 30), ("b", 10)):
        copy = small_study.score_directory(name) / "scores.parquet"
        copy.parent.mkdir()
        copy.write_bytes(done.read_bytes())
        at = done.stat().st_mtime - age
        os.utime(copy, (at, at))
    (small_study.score_directory("begun") / "parts").mkdir(parents=True)
    assert small_study.score_runs() == ["a", "b", "default"]
    assert small_study.score_run() == "default"
    assert small_study.score_run("a") == "a"
    with pytest.raises(StudyError, match=r"no finished score run 'begun' .*there: a, b, default"):
        small_study.score_run("begun")


def test_embeddings_are_scaled_back(small_study: Study) -> None:
    directory = small_study.score_directory("default")
    table = read_table(directory / "scores.parquet")
    scale = np.geomspace(1e-3, 1e5, 12).astype(np.float32)
    place = table.column_names.index("embedding_scale")
    write_table(
        directory / "scores.parquet", table.set_column(place, "embedding_scale", pa.array(scale, pa.float32())), {}
    )
    stored = np.load(directory / "embeddings.npy")
    got = small_study.embeddings()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, stored.astype(np.float64) * scale[:, None], rtol=1e-6)
    assert got.max() > 65504  # beyond float16

    np.save(directory / "embeddings.npy", stored[:5])
    with pytest.raises(StudyError, match="5 rows for 12 prompts: rerun thriftune score"):
        small_study.embeddings()
    (directory / "embeddings.npy").unlink()
    with pytest.raises(StudyError, match="has no embeddings"):
        small_study.embeddings()


def test_candidates_are_the_pool_with_answers_marked(small_study: Study) -> None:
    small_study.annotations.add(
        [Annotation("p02", "x"), Annotation("p12", "held out"), Annotation("p03", "", status="skipped")]
    )
    candidates = small_study.candidates()
    assert len(candidates) == 12
    assert candidates.ids[candidates.annotated].tolist() == ["p02"]
    assert set(candidates.scores) == {"mean_entropy", "mean_nll"}
    assert candidates.embeddings is not None
    assert candidates.embeddings.shape == (12, 8)
    assert candidates.lengths is not None
    assert candidates.lengths.tolist() == [10] * 12
    assert small_study.candidates(embeddings=False).embeddings is None


def test_candidates_of_an_unscored_study(small_study: Study) -> None:
    (small_study.score_directory("default") / "scores.parquet").unlink()
    candidates = small_study.candidates()
    assert candidates.scores == {}
    assert candidates.embeddings is None
    assert candidates.lengths is not None
    assert candidates.lengths[5] == 2  # characters of "-5"
    with pytest.raises(StudyError, match="has no scores yet: run: thriftune score"):
        small_study.score_run()


def test_scores_of_another_pool_are_noticed(small_study: Study) -> None:
    file = small_study.score_directory("default") / "scores.parquet"
    table = read_table(file)
    write_table(file, table.take(list(range(11, -1, -1))), {})
    with pytest.raises(StudyError, match="'default' belongs to another pool: rerun"):
        small_study.candidates()


def test_a_selection_survives(small_study: Study) -> None:
    given = Selection(
        ids=np.array(["p03", "p01"], dtype=object),
        rows=np.array([3, 1]),
        gains=np.array([2.0, 1.0]),
        strategy="facility_location",
        budget=2,
        seed=7,
        params={"gamma": 0.5},
        certificate={"bound": 0.9},
        notes={"engine": "dense"},
        partial=True,
    )
    small_study.write_selection("two", given, {"run": "default"})
    ids, gains, record = small_study.selection("two")
    assert ids == ["p03", "p01"]
    assert gains is not None
    assert gains.tolist() == [2.0, 1.0]
    kept = {k: record[k] for k in ("strategy", "budget", "seed", "params", "certificate", "notes", "partial", "run")}
    assert kept == {
        "strategy": "facility_location",
        "budget": 2,
        "seed": 7,
        "params": {"gamma": 0.5},
        "certificate": {"bound": 0.9},
        "notes": {"engine": "dense"},
        "partial": True,
        "run": "default",
    }
    assert small_study.selection("first")[1] is None
    assert small_study.selections() == ["first", "two"]


def test_the_holdout_reads_like_a_selection(small_study: Study) -> None:
    assert small_study.selection("holdout")[0] == ["p12", "p13", "p14", "p15"]
    with pytest.raises(StudyError, match=r"no selection 'x' .*there: first"):
        small_study.selection("x")


def _hold(path: str, ready: Any, release: Any) -> None:
    with Study(path).lock("score"):
        ready.set()
        release.wait(30)


def test_a_stage_is_held_against_other_processes(small_study: Study) -> None:
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(small_study.path), ready, release))
    other.start()
    try:
        assert ready.wait(60)
        held = rf"another process is at work on score of .*\(process {other.pid} on .*, since 2"
        with pytest.raises(StudyError, match=held), small_study.lock("score"):
            pass
        with small_study.lock("select"):
            pass
    finally:
        release.set()
        other.join()
    with small_study.lock("score"):
        pass


@pytest.mark.parametrize(
    "name",
    ["study.json", "pool.parquet", "annotations.sqlite", "annotations.sqlite-wal", "teacher.jsonl", "scores/new.csv"],
)
def test_no_output_goes_to_a_studys_own_places(small_study: Study, tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(small_study.path)
    for place in (small_study.path / name, tmp_path / "link" / name, small_study.path / "new" / ".." / name):
        with pytest.raises(StudyError, match="belongs to the study .*: give another name"):
            check_output(place)
    check_output(tmp_path / name)  # no study there


def test_new_names_in_a_study_are_free(small_study: Study) -> None:
    for name in ("answers.csv", "report.html", "report-figures", "mine/pool.parquet"):
        check_output(small_study.path / name)


@pytest.mark.parametrize(
    ("value", "number"), [(3, 3.0), ("2.5", 2.5), (True, None), ("", None), (None, None), ([1], None), (10**400, None)]
)
def test_numbers(value: object, number: float | None) -> None:
    assert number_of(value) == number
