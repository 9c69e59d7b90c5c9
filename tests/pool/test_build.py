"""A study from a pool, end to end: what is stored, what is rejected, what is left behind when it fails."""

from __future__ import annotations

import gzip
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thriftune.artifacts import read_record
from thriftune.config import InitConfig
from thriftune.errors import ConfigError, PoolError, StudyError, ThriftuneError
from thriftune.pool import build
from thriftune.pool.build import InitSummary, init
from thriftune.study import Study


def make(tmp_path: Path, rows: list[Any], name: str = "study", **config: Any) -> InitSummary:
    source = tmp_path / f"{name}.jsonl"
    source.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return init(tmp_path / name, [source], InitConfig(**config))


def questions(n: int) -> list[dict[str, Any]]:
    rng = random.Random(n)
    words = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu", "ra") for b in ("st", "rm", "ld", "nk", "ft", "zz")]
    return [{"prompt": f"Question {i}: " + " ".join(rng.choices(words, k=12))} for i in range(n)]


def test_columns_of_the_pool(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rows = [
        {"id": "a", "messages": [{"role": "user", "content": "Why?"}], "task": "why", "level": 3},
        {"id": "b", "messages": [*chat, {"role": "assistant", "content": "Hello."}], "task": None},
        {"id": "c", "messages": [{"role": "user", "content": "Why?"}]},
        {"id": "d", "messages": [{"role": "user", "content": "why ?"}]},
    ]
    summary = make(tmp_path, rows)
    table = summary.study.pool()
    assert table.schema.remove_metadata() == pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("task", pa.string()),
            ("split", pa.string()),
            ("group", pa.int64()),
            ("near_group", pa.int64()),
            ("n_chars", pa.int32()),
            ("source", pa.string()),
            ("line", pa.int64()),
            ("meta", pa.string()),
        ]
    )
    got = table.to_pydict()
    assert got["id"] == ["a", "b", "c", "d"]
    assert got["text"] == ["Why?", "System: Be brief.\n\nUser: Hi", "Why?", "why ?"]
    assert got["messages"] == [None, chat, None, None]
    assert got["task"] == ["why", None, None, None]
    assert got["group"] == [0, 1, 0, 3]
    assert got["near_group"] == [0, 1, 0, 0]
    assert got["n_chars"] == [len(t) for t in got["text"]]
    assert got["line"] == [1, 2, 3, 4]
    assert got["meta"] == ['{"level": 3}', None, None, None]
    assert set(got["source"]) == {str(tmp_path / "study.jsonl")}
    assert summary.study.references() == {"b": "Hello."}
    assert (summary.exact_duplicates, summary.near_duplicates, summary.largest_group) == (1, 1, 3)
    assert (summary.prompts, summary.responses, summary.tasks, summary.rejects) == (4, 1, {"why": 1}, {})


def test_the_record_names_what_was_read(tmp_path: Path) -> None:
    study = make(tmp_path, [{"prompt": "a"}, {"prompt": ""}], holdout=0, seed=4).study
    for record in (study.record, read_record(study.pool_file)):
        assert record["config"]["seed"] == 4
        assert record["counts"]["prompts"] == 1
        assert record["counts"]["rejects"] == {"empty prompt": 1}
        source = record["sources"][0]
        assert len(source["sha256"]) == 64
        assert (source["prompts"], source["rejected"]) == (1, 1)
    assert sorted(p.name for p in study.path.iterdir()) == ["pool.parquet", "rejects.jsonl", "study.json"]


def test_shuffling_the_file_changes_no_id_and_no_holdout(tmp_path: Path) -> None:
    rows = questions(120)
    for i in range(0, 40, 2):
        rows.append({"prompt": rows[i]["prompt"].upper()})
        rows.append({"prompt": rows[i]["prompt"], "response": f"answer {i}"})
        rows.append({"prompt": rows[i]["prompt"], "extra": i})

    def seen(name: str, order: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
        study = make(tmp_path, order, name, holdout=37, seed=2).study
        known = study.references()
        table = study.pool(["id", "text", "meta", "split"], split=None).to_pydict()
        return {(*row, known.get(row[0])) for row in zip(*table.values(), strict=True)}

    first = seen("a", rows)
    ids = [row[0] for row in first]
    assert len(set(ids)) == len(rows)
    assert Counter(len(re.sub(r"-[23]$", "", i)) for i in ids) == {16: len(rows)}
    assert sum(row[3] == "holdout" for row in first) == 37
    random.Random(0).shuffle(rows)
    assert seen("b", rows) == first


def test_holdout_takes_whole_near_duplicate_groups(tmp_path: Path) -> None:
    rows = [r for q in questions(60) for r in (q, {"prompt": q["prompt"] + " "}, {"prompt": q["prompt"].title()})]
    summary = make(tmp_path, rows, holdout=31)
    table = summary.study.pool(["near_group", "split"], split=None).to_pydict()
    assert summary.holdout == 30 == table["split"].count("holdout")
    by_group = {g: {s for h, s in zip(*table.values(), strict=True) if h == g} for g in table["near_group"]}
    assert all(len(splits) == 1 for splits in by_group.values())
    assert len(summary.study.pool(["id"])) == 150
    assert len(summary.study.selection("holdout")[0]) == 30


def test_a_holdout_of_ones_own(tmp_path: Path) -> None:
    pool, held = tmp_path / "pool.jsonl", tmp_path / "held.jsonl"
    near = {"prompt": QUESTION.upper()}
    pool.write_text("".join(json.dumps(r) + "\n" for r in [*questions(9), near]))
    held.write_text("".join(json.dumps(r) + "\n" for r in [{"prompt": "Quite another?"}, {"prompt": QUESTION}]))
    summary = init(tmp_path / "study", [pool], holdout_from=[held])
    assert (summary.holdout, summary.leaked) == (2, 1)
    splits = summary.study.pool(["text", "split"], split=None).to_pylist()
    assert [r["text"] for r in splits if r["split"] == "holdout"] == ["Quite another?", QUESTION]
    assert len(splits) == 12
    record = json.loads((summary.study.path / "study.json").read_text())
    assert [source.get("holdout", False) for source in record["sources"]] == [False, True]
    with pytest.raises(ConfigError, match="--holdout 3 and --holdout-from are two ways"):
        init(tmp_path / "other", [pool], InitConfig(holdout=3), holdout_from=[held])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="has no prompt"):
        init(tmp_path / "other", [tmp_path / "empty.jsonl"], holdout_from=[held])
    assert not (tmp_path / "other").exists()


QUESTION = "What is the name of the longest river that flows through the middle of a desert on this continent?"


def test_a_system_prompt_that_all_share_makes_no_near_duplicates(tmp_path: Path) -> None:
    system = {"role": "system", "content": " ".join(f"rule{i}" for i in range(200))}
    rows = [{"messages": [system, {"role": "user", "content": q}]} for q in ("Why?", "How?", "how ?")]
    assert make(tmp_path, rows).study.pool(["near_group"])["near_group"].to_pylist() == [0, 1, 1]


def test_holdout_must_leave_a_pool(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holdout=10 would leave nothing of a pool of 10 prompts"):
        make(tmp_path, questions(10), holdout=10)
    with pytest.raises(ConfigError, match="smallest group of near duplicates has 3 prompts"):
        make(tmp_path, [{"prompt": "same"}] * 3 + [{"prompt": "other"}] * 4, holdout=2)
    assert not (tmp_path / "study").exists()


def test_responses_as_annotations(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "x"}, {"prompt": "b", "response": " "}, {"prompt": "c"}]
    study = make(tmp_path, rows, response_as="annotated").study
    ids = study.pool(["id"])["id"].to_pylist()
    stored = study.annotations.in_force()
    assert [(a.prompt_id, a.response, a.source, a.status) for a in stored] == [(ids[0], "x", "imported", "final")]
    assert not study.references_file.exists()
    assert study.candidates().annotated.tolist() == [True, False, False]


def test_references_do_not_reach_the_pool(tmp_path: Path) -> None:
    secret = "the-known-answer"
    rows = [{"prompt": f"q{i}", "gold": secret, "note": "kept"} for i in range(5)]
    study = make(tmp_path, rows, response_column="gold").study
    assert secret not in json.dumps(study.pool(split=None).to_pylist())
    assert list(study.references().values()) == [secret] * 5
    assert study.candidates().annotated.sum() == 0


def test_rejects_are_kept_with_file_line_and_reason(tmp_path: Path) -> None:
    rows = [
        {"prompt": "fine", "id": "1"},
        {"prompt": "again", "id": "1"},
        {"prompt": " ", "id": "2"},
        "{broken",
        "[]",
        {"prompt": ["no"], "id": "3"},
        '{"prompt": "a\\ud800", "id": "4"}',
    ]
    summary = make(tmp_path, rows)
    lines = [json.loads(line) for line in summary.study.rejects_file.read_text(encoding="utf-8").splitlines()]
    assert [(r["line"], r["reason"]) for r in lines] == [
        (2, "duplicate id"),
        (3, "empty prompt"),
        (4, "broken JSON"),
        (5, "not an object"),
        (6, "unusable turns"),
        (7, "unusable characters"),
    ]
    assert lines[0]["row"] == {"prompt": "again", "id": "1"}
    assert lines[2]["row"] == "{broken"
    assert {r["source"] for r in lines} == {str(tmp_path / "study.jsonl")}
    assert summary.examples["duplicate id"] == [f"{tmp_path / 'study.jsonl'}:2 ('1' was used before)"]
    assert summary.prompts == 1


def test_strict_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"2 unusable rows, .*strict.*study\.jsonl:2 \(prompt is empty\)") as caught:
        make(tmp_path, [{"prompt": "a"}, {"prompt": ""}, "{"], strict=True)
    assert "study.jsonl:3" in str(caught.value)
    assert not (tmp_path / "study").exists()
    assert make(tmp_path, [{"prompt": "a"}], strict=True).prompts == 1


def test_an_id_made_from_content_avoids_ids_that_are_taken(tmp_path: Path) -> None:
    first = make(tmp_path, [{"prompt": "Why?"}], "first").study.pool(["id"])["id"].to_pylist()[0]
    rows = [{"id": first, "prompt": "Something else"}, {"prompt": "Why?"}, {"prompt": "Why?"}]
    ids = make(tmp_path, rows, "second").study.pool(["id"])["id"].to_pylist()
    assert ids == [first, f"{first}-2", f"{first}-3"]


def test_several_sources_and_a_directory(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deeper").mkdir(parents=True)
    (folder / "b.csv").write_text("question,answer\nWhy?,So\n", encoding="utf-8")
    (folder / "deeper" / "a.jsonl.gz").write_bytes(gzip.compress(b'{"instruction": "Sort", "input": "b a"}\n'))
    (folder / "empty.jsonl").write_text("", encoding="utf-8")
    (folder / "README.md").write_text("no data", encoding="utf-8")
    (folder / ".hidden.jsonl").write_text("{", encoding="utf-8")
    make(folder, [{"prompt": "of another study"}], "old")
    pq.write_table(pa.table({"prompt": ["from parquet"]}), tmp_path / "c.parquet")
    (folder / "old.jsonl").unlink()
    summary = init(tmp_path / "study", [folder, tmp_path / "c.parquet"])
    assert [(Path(s.name).name, s.prompts, s.understood) for s in summary.sources] == [
        ("b.csv", 1, "plain text (question); response: answer"),
        ("a.jsonl.gz", 1, "alpaca (instruction + input)"),
        ("empty.jsonl", 0, "no rows"),
        ("c.parquet", 1, "plain text (prompt)"),
    ]
    assert summary.study.pool(["text"])["text"].to_pylist() == ["Why?", "Sort\n\nb a", "from parquet"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "no pool: give files"),
        (["none.jsonl"], "none.jsonl: no such file, and no hub dataset id either"),
        (["data/none.jsonl"], "no such file"),
        (["sub/prompt.txt"], r"sub/prompt.txt: no such file: did you mean sub/prompts.jsonl\?"),
        (["empty"], "empty holds no jsonl, json, csv, tsv or parquet file"),
        (["notes.txt"], "cannot tell its format"),
        (["a.jsonl", "./a.jsonl"], "is given twice"),
        (["blank.jsonl"], "no row in blank.jsonl"),
        (["bad.jsonl"], r"bad.jsonl:1: broken JSON .* no row before or after it is readable"),
        (["hopeless.jsonl"], r"hopeless.jsonl: none of its 2 rows is usable: .*hopeless.jsonl:1"),
        (["a.jsonl", "copy.jsonl"], r"copy.jsonl: none of its 1 rows is usable: duplicate id: .*--id-column none"),
    ],
)
def test_pools_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "sub").mkdir()
    for name, text in {
        "sub/prompts.jsonl": "{}",
        "notes.txt": "hello",
        "a.jsonl": '{"prompt": "a", "id": 1}\n',
        "copy.jsonl": '{"prompt": "b", "id": 1}\n',
        "blank.jsonl": "\n\n",
        "bad.jsonl": "{\n{\n",
        "hopeless.jsonl": '{"prompt": "a\\u0000"}\n{"prompt": "\\u0000"}\n',
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(PoolError, match=message):
        init("study", sources)
    assert not (tmp_path / "study").exists()


def test_a_named_column_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"no row has the column 'gold' of --response-column \(columns: prompt\)"):
        make(tmp_path, [{"prompt": "a"}], response_column="gold")


def test_a_study_is_never_overwritten(tmp_path: Path) -> None:
    study = make(tmp_path, [{"prompt": "a"}]).study
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in study.path.iterdir()}
    with pytest.raises(StudyError, match="is already a study"):
        make(tmp_path, [{"prompt": "b"}])
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in study.path.iterdir()} == before


def test_where_a_study_can_be(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    assert make(tmp_path, [{"prompt": "a"}]).prompts == 1  # an empty directory is fine
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StudyError, match="is a file"):
        init(tmp_path / "file", [tmp_path / "study.jsonl"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("", encoding="utf-8")
    with pytest.raises(StudyError, match=r"is not empty \(it holds thesis.tex\)"):
        init(tmp_path / "full", [tmp_path / "study.jsonl"])
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    assert init(tmp_path / "new" / "parents" / "study", [tmp_path / "study.jsonl"]).prompts == 1


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(build, "_write_pool", full)
        for name in ("study", "empty"):
            with pytest.raises(StudyError, match="No space left on device"):
                make(tmp_path, [{"prompt": "a"}], name)
    assert not (tmp_path / "study").exists()
    assert list((tmp_path / "empty").iterdir()) == []
    assert make(tmp_path, [{"prompt": "a"}]).prompts == 1


def test_the_mark_of_a_study_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, there = Path.rename, []

    def stopped(self: Path, target: Path) -> Path:
        if self.name == "study.json" and ".init-" in self.parent.name:
            there.extend(sorted(p.name for p in target.parent.glob("[!.]*")))
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stopped)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, [{"prompt": "a", "response": "b"}, {}])
    assert there == ["pool.parquet", "references.parquet", "rejects.jsonl"]
    assert not (tmp_path / "study").exists()


def test_killed_and_run_again(tmp_path: Path) -> None:
    rows = questions(30_000)
    whole = make(tmp_path, rows, "whole", holdout=100).study
    command = "import sys; from thriftune.pool.build import init; from thriftune.config import InitConfig; "
    command += "init(sys.argv[1], [sys.argv[2]], InitConfig(holdout=100))"
    study, source = tmp_path / "study", tmp_path / "whole.jsonl"
    process = subprocess.Popen([sys.executable, "-c", command, study, source])
    while not list(study.glob(".init-*/staging.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(study.glob(".init-*"))
    with pytest.raises(StudyError, match="is not a study"):
        Study(study)
    again = init(study, [source], InitConfig(holdout=100)).study
    assert again.pool(split=None).equals(whole.pool(split=None))
    assert sorted(p.name for p in study.iterdir()) == ["pool.parquet", "study.json"]


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "study.jsonl"
    real = build.ingest

    def meanwhile(*args: Any) -> Any:
        for _ in range(2):  # the first to be turned away must leave the lock in place
            with pytest.raises(StudyError, match="another process is making"):
                init(tmp_path / "study", [source])
        return real(*args)

    monkeypatch.setattr(build, "ingest", meanwhile)
    assert make(tmp_path, [{"prompt": "a"}]).prompts == 1


_MEMORY = """
import resource, sys
from thriftune.pool.build import init
init(sys.argv[1] + "/small", [sys.argv[1] + "/small.jsonl"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
init(sys.argv[1] + "/large", [sys.argv[1] + "/large.jsonl"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_does_not_hold_the_pool(tmp_path: Path) -> None:
    # Long words: much text, few shingles, whose file is mapped into memory and would count.
    rng = random.Random(0)
    for name, n in (("small", 4_000), ("large", 30_000)):
        with (tmp_path / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for i in range(n):
                words = " ".join(f"{rng.getrandbits(1024):0309}" for _ in range(10))
                file.write(json.dumps({"prompt": f"{i} {words}"}) + "\n")
    assert (tmp_path / "large.jsonl").stat().st_size > 90e6
    growth = subprocess.run([sys.executable, "-c", _MEMORY, tmp_path], check=True, capture_output=True, text=True)
    assert int(growth.stdout) < 40_000  # KiB, where the text is 90 MB


_rows = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.fixed_dictionaries(
            {"prompt": st.text(max_size=12) | st.none()},
            optional={"response": st.text(max_size=5), "id": st.integers(0, 5), "x": st.floats()},
        ).map(json.dumps),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_rows, holdout=st.integers(0, 3), response_as=st.sampled_from(["reference", "annotated"]))
def test_any_lines_make_a_study_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], holdout: int, response_as: str
) -> None:
    directory = tmp_path_factory.mktemp("any")
    rows = [r.replace("\n", " ").replace("\r", " ") for r in rows]
    try:
        summary = make(directory, rows, holdout=holdout, response_as=response_as)
    except ThriftuneError:
        assert not (directory / "study").exists()
        return
    table = summary.study.pool(split=None)
    ids = table["id"].to_pylist()
    assert len(set(ids)) == len(ids) == summary.prompts
    assert summary.prompts + sum(summary.rejects.values()) == sum(not r.encode().isspace() and bool(r) for r in rows)
    assert all(g <= i for i, g in enumerate(table["group"].to_pylist()))
    same = list(zip(table["group"].to_pylist(), table["near_group"].to_pylist(), strict=True))
    assert len(set(same)) == len({g for g, _ in same})  # exact duplicates share the near-duplicate group
