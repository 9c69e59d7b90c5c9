"""What of an evaluation is finished: its parts, in its file and, while it is being made, beside it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftune.artifacts import read_record, read_table, write_table
from thriftune.errors import EvaluationError, StudyError
from thriftune.evaluation.heldout import HELDOUT
from thriftune.model import LanguageModel

if TYPE_CHECKING:
    import pyarrow as pa

Settings = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What is done at a time and kept: the held-out prompts, or one task of a public benchmark.

    Args:
        suite: what the user called it: ``heldout``, ``mmlu``.
        task: the single task, or ``heldout``.
        settings: what the result depends on beside the model.
    """

    suite: str
    task: str
    settings: Settings


class Kept:
    """Finished parts of an evaluation: in its file, and while it is being made in a hidden directory beside it."""

    def __init__(self, file: Path, identity: Settings) -> None:
        self.file = file
        self.answers = file.with_name(f"{file.stem}.answers.parquet")
        self.directory = file.with_name(f".{file.stem}.parts")
        self.identity = identity
        self.record = read_record(file) if file.exists() else {}
        self.published: dict[str, dict[str, Any]] = {p["task"]: p for p in self.record.get("parts", [])}

    def forget(self) -> None:
        """Begin anew; the old file stays until the new one is complete."""
        self.record, self.published = {}, {}
        shutil.rmtree(self.directory, ignore_errors=True)

    def tidy(self) -> None:
        """Remove parts that are published already: what a run that was killed in between left."""
        for place in self.directory.glob("[!.]*--*.parquet"):
            if read_record(place)["task"] in self.published:
                place.unlink()
        if HELDOUT in self.published:
            (self.directory / self.answers.name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other parts are in it, or it is not there
            self.directory.rmdir()

    def check(self, parts: Sequence[Part]) -> None:
        """Refuse to mix what cannot be compared.

        Raises:
            EvaluationError: the file is of another model, or has one of ``parts`` with other settings.
        """
        changed = []
        if self.record:
            changed = _changes(self.record, {k: v for k, v in self.identity.items() if v is not None})
            for part in parts:
                if part.task in self.published:
                    changed += _changes(self.published[part.task]["settings"], part.settings)
        if changed:
            raise EvaluationError(
                f"evaluation {self.file.stem!r} exists with other settings ({'; '.join(dict.fromkeys(changed))}): add "
                "--replace to make it anew, or give this one another --name"
            )

    def settle(self, lm: LanguageModel) -> None:
        """Fill in what only the loaded model tells."""
        self.identity = {**self.identity, "revision": lm.revision, "dtype": lm.dtype}
        self.check([])

    def has(self, part: Part) -> bool:
        return part.task in self.published or self._whole(part)

    def _place(self, part: Part) -> Path:
        return self.directory / f"{part.suite}--{part.task}.parquet".replace("/", "_")

    def _whole(self, part: Part) -> bool:
        """Whether an interrupted run finished this part with the same model and settings."""
        place = self._place(part)
        if self.identity["revision"] is None or not place.exists():
            return False
        try:
            read_table(place)
            return read_record(place) == self._stamp(part)
        except StudyError:
            return False

    def _stamp(self, part: Part) -> dict[str, Any]:
        return {"identity": self.identity, "suite": part.suite, "task": part.task, "settings": part.settings}

    def add(self, part: Part, rows: pa.Table, answers: pa.Table | None) -> None:
        beside = self.directory / self.answers.name
        if answers is not None:
            write_table(beside, answers, self._stamp(part))
        elif part.suite == HELDOUT:
            beside.unlink(missing_ok=True)  # of an interrupted run that let the model answer
        write_table(self._place(part), rows, self._stamp(part))

    def publish(self, record: Mapping[str, Any], wanted: Sequence[Part]) -> None:
        """Put the finished parts of ``wanted`` into the evaluation's file; others wait for the rest of their suite."""
        import pyarrow as pa

        tables, parts = [], []
        if self.published:
            tables.append(read_table(self.file))
            parts = list(self.published.values())
        for place in sorted(self.directory.glob("[!.]*--*.parquet")):
            stamp = read_record(place)
            if stamp.pop("identity") != self.identity:
                place.unlink()
                continue
            if stamp["task"] in self.published or stamp["task"] not in {part.task for part in wanted}:
                continue
            rows = read_table(place)
            suite = pa.array([stamp["suite"]] * rows.num_rows, pa.string())
            tables.append(rows.add_column(0, "suite", suite))
            parts.append(stamp)
        merged = pa.concat_tables([t.replace_schema_metadata(None) for t in tables]).combine_chunks()
        made = self.directory / self.answers.name
        if made.exists() and read_record(made)["identity"] == self.identity:
            write_table(self.answers, read_table(made), {**record, **self.identity})
        elif not any(p["task"] == HELDOUT and p["settings"]["generate"] for p in parts):
            self.answers.unlink(missing_ok=True)
        write_table(self.file, merged, {**record, **self.identity, "parts": parts})
        self.published = {p["task"]: p for p in parts}
        self.tidy()


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    told = {
        "prompts": "the held-out prompts or their answers are others",
        "scorer_code": "the scorer's code is another",
    }
    return [
        told.get(key, f"{key} was {before.get(key)!r}, now {value!r}")
        for key, value in now.items()
        if before.get(key) != value
    ]
