"""The stages of a study as commands, what a study holds for comparison, and where in a run a signal fell."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from runs import Operation, Warm

SCORE = "--dtype float32 --device cpu --max-new-tokens 8 --batch-size 4"
TRAIN = "--dtype float32 --device cpu --batch-size 4 --rank 4 --learning-rate 0.01"
RECIPE = """study = "study"
[bench]
strategies = ["k_center"]
budgets = [6]
seeds = 2
subsample = 0.75
items = 6
generate = true
max_new_tokens = 4
[bench.finetune]
epochs = 1
batch_size = 4
rank = 4
learning_rate = 0.01
dtype = "float32"
device = "cpu"
"""

# What two uninterrupted runs differ in: clocks and memory, and estimates made of them.
TIMINGS = {
    *("created", "saved", "since", "process", "seconds", "select_seconds", "finetune_seconds", "evaluate_seconds"),
    *("finetune_seconds_mean", "evaluate_seconds_mean", "run", "peak_memory_bytes", "estimate", "costs"),
    *("total_hours", "train_runtime", "train_samples_per_second", "train_steps_per_second"),
}
# Locks are empty; SQLite's files beside a database are its own affair, and read with it.
_IGNORED = re.compile(r"(^|/)\.[^/]+\.lock$|\.sqlite-(wal|shm)$")
_LEFT = re.compile(r"(^|/)\.[^/]+")


@dataclass(frozen=True)
class Case:
    """A command that is struck and run again.

    Args:
        name: for the log.
        base: the study that it starts from; see `Bases`.
        command: its words; STUDY, POOL, MODEL, URL and the files of `Bases` stand for paths.
        first: what of a run's operations ends the first part of its work.
        last: what ends the last part; the same as ``first`` where there are many such.
        again: what the command may say, with status 2, when all had been done.
        patches: see `stubs`.
    """

    name: str
    base: str
    command: str
    first: str
    last: str
    again: str = ""
    patches: dict[str, str] = field(default_factory=dict)


CASES = (
    Case("init", "nothing", "init STUDY --pool POOL --holdout 12 --seed 1", r"open \.init-", "rename study.json",
         again="is already a study"),
    Case("init-annotated", "nothing", "init STUDY --pool POOL --holdout 12 --response-as annotated",
         r"open \.init-", "rename study.json", again="is already a study"),
    Case("score", "new", f"score STUDY --model MODEL {SCORE}", r"rename .*parts/", r"rename .*parts/"),
    Case("select", "scored", "select STUDY --budget 12", r"open selections/", r"fsync selections$"),
    Case("import", "chosen", "import STUDY ANSWERS --annotator ann", r"sqlite BEGIN", r"sqlite COMMIT"),
    Case("label-studio pull", "chosen", "label-studio pull STUDY --project 7", r"sqlite BEGIN", r"sqlite COMMIT",
         patches={"label_studio": "TASKS"}),
    Case("teach", "chosen", "teach STUDY --endpoint URL --model teacher --concurrency 4 --yes",
         r"sqlite COMMIT", r"sqlite COMMIT"),
    Case("export", "answered", "export STUDY STUDY/out.csv", r"open \.out", r"fsync $", again="exists"),
    Case("finetune lora", "answered", f"finetune STUDY {TRAIN} --epochs 2 --dropout 0.1 --merge",
         r"open .*checkpoint", "rename models/all/manifest.json"),
    Case("finetune full", "answered", f"finetune STUDY {TRAIN} --epochs 2 --method full",
         r"open .*checkpoint", "rename models/all/manifest.json"),
    Case("evaluate", "answered", "evaluate STUDY --model MODEL --annotations reference --tasks heldout --generate "
         "--max-new-tokens 8 --dtype float32 --device cpu", r"open evaluations/\.", r"rename evaluations/[^.]"),
    Case("bench", "scored", "bench RECIPE", r"rename bench/bench/cells", r"rename bench/bench/cells"),
)  # fmt: skip


def span(case: Case, operations: Sequence[Operation]) -> tuple[int, int]:
    """How many operations a run has done when its first and its last part end."""
    names = [f"{o.what} {o.path}" for o in operations]
    first = next(i for i, name in enumerate(names) if re.match(case.first, name))
    last = max(i for i, name in enumerate(names) if re.match(case.last, name))
    return first + 1, last + 1


class Bases:
    """Studies at every stage, made once by the commands themselves, always at the same place.

    Args:
        warm: runs the commands.
        place: a directory of its own.
        model: to score and train.
        url: of a teacher.
    """

    def __init__(self, warm: Warm, place: Path, model: Path, url: str) -> None:
        self.warm, self.place = warm, place
        self.study = place / "work" / "study"
        self.study.parent.mkdir()
        self.files = {
            "POOL": place / "pool.jsonl",
            "ANSWERS": place / "answers.jsonl",
            "TASKS": place / "tasks.json",
            "RECIPE": self.study.parent / "recipe.toml",
        }
        self.words = {
            "STUDY": str(self.study),
            "MODEL": str(model),
            "URL": url,
            **{k: str(v) for k, v in self.files.items()},
        }
        write_lines(self.files["POOL"], [_row(i) for i in range(48)])
        self.files["RECIPE"].write_text(RECIPE)

    def make_all(self) -> None:
        """Bring the study to every stage, keeping a copy of each."""
        self.make("nothing", "new", "init STUDY --pool POOL --holdout 12")
        self.make("new", "scored", f"score STUDY --model MODEL {SCORE}")
        self.make("scored", "chosen", "select STUDY --budget 20 --strategy k_center --name picks")
        chosen = pq.read_table(self._kept("chosen") / "selections" / "picks.parquet")["id"].to_pylist()
        given = [{"id": id_, "response": f"An answer to {id_}.\nIn two lines: ß."} for id_ in chosen]
        write_lines(self.files["ANSWERS"], given)
        tasks = [_task(n, row["id"], row["response"]) for n, row in enumerate(given, 1)]
        self.files["TASKS"].write_text(json.dumps(tasks))
        self.make("chosen", "answered", "import STUDY ANSWERS --annotator ann")

    def _kept(self, name: str) -> Path:
        return self.place / "kept" / name

    def lay(self, name: str) -> None:
        """Put a fresh copy of a base where commands work."""
        shutil.rmtree(self.study, ignore_errors=True)
        if name != "nothing":
            shutil.copytree(self._kept(name), self.study)

    def argv(self, command: str) -> list[str]:
        """A command's words with their paths."""
        return [re.sub(r"^[A-Z]+", lambda m: self.words.get(m[0], m[0]), word) for word in command.split()]

    def patches(self, case: Case) -> dict[str, str]:
        return {name: self.words.get(value, value) for name, value in case.patches.items()}

    def make(self, base: str, name: str, command: str) -> None:
        self.lay(base)
        ended = self.warm.run(self.argv(command), self.study)
        assert ended.code == 0, ended.said
        shutil.copytree(self.study, self._kept(name))


def write_lines(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON, an object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(i: int) -> dict[str, Any]:
    asked = f"What is {i} plus {i * i}? {'Say why. ' * (i % 7)}"
    return {"id": f"q{i:02d}", "prompt": asked, "response": f"It is {i + i * i}.", "task": ("add", "sum")[i % 2]}


def _task(number: int, id_: str, response: str) -> dict[str, Any]:
    """As Label Studio's API gives it."""
    result = {"from_name": "response", "to_name": "prompt", "type": "textarea", "value": {"text": [response]}}
    annotation = {"id": number, "completed_by": 1, "lead_time": 2.5, "result": [result]}
    return {"id": number, "data": {"thriftune_id": id_, "prompt": ""}, "annotations": [annotation]}


# --- what a study holds -----------------------------------------------------------------------------------------------


def contents(study: Path) -> dict[str, Any]:
    """What a study holds, by file and without `TIMINGS`: rows and records, values of JSON, answers, else bytes."""
    found = {}
    for file in sorted(p for p in study.rglob("*") if p.is_file()):
        name = str(file.relative_to(study))
        if not _IGNORED.search(name):
            found[name] = _content(file)
    return found


def leftovers(study: Path) -> list[str]:
    """Hidden files and directories, locks apart."""
    names = [str(p.relative_to(study)) for p in study.rglob("*")]
    return sorted(name for name in names if _LEFT.search(name) and not _IGNORED.search(name))


def _content(file: Path) -> Any:
    if file.suffix == ".parquet":
        table = pq.read_table(file, partitioning=None)
        record = json.loads((table.schema.metadata or {}).get(b"thriftune", b"null"))
        timed = [c for c in table.column_names if c in TIMINGS]
        rows = table.drop_columns(timed).replace_schema_metadata(None)
        return _timeless(record), str(rows.schema), rows.to_pylist()
    if file.suffix == ".json":
        return _timeless(json.loads(file.read_text(encoding="utf-8")))
    if file.name == "teacher.jsonl":  # a journal of runs, of which a struck one is one more
        return {json.loads(line)["event"] for line in file.read_text(encoding="utf-8").splitlines()}
    if file.suffix == ".sqlite":
        return rows_of(file)
    return file.read_bytes()


def rows_of(database: Path) -> list[Any]:
    """What a database of answers says, times apart."""
    check(database)
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "SELECT prompt_id, response, annotator, source, seconds, status, replaced IS NULL, replaces IS NULL, "
            "review, flag, reason FROM annotations"
        ).fetchall()
    connection.close()
    return sorted(rows, key=str)


def check(database: Path) -> None:
    """Refuse a damaged database."""
    connection = sqlite3.connect(database)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMINGS}
    return [_timeless(v) for v in value] if isinstance(value, list) else value
