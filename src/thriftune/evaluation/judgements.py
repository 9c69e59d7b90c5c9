"""Every judgement ever made on a pair of evaluations, on disk: appended as it comes, one Parquet file in the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thriftune.artifacts import read_table, reading, write_table
from thriftune.evaluation.judge_prompt import Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of two answers in one order.

    Args:
        key: digest of judge, wording, settings, prompt, answers and their order.
        id: the prompt.
        judge: the judge's model name.
        template: digest of the wording.
        first: the evaluation whose answer stood first.
        second: the evaluation whose answer stood second.
        verdict: which place won.
        text: all that the judge said.
        finish: why it ended, in the server's words.
        max_tokens: the most it was allowed to say.
        prompt_tokens: read, or None where the server did not report them.
        completion_tokens: written, likewise.
        created: UTC, ISO 8601.
    """

    key: str
    id: str
    judge: str
    template: str
    first: str
    second: str
    verdict: Verdict
    text: str
    finish: str
    max_tokens: int
    prompt_tokens: int | None
    completion_tokens: int | None
    created: str


class JudgementFile:
    """The judgements on one pair of evaluations.

    Args:
        file: the Parquet file; an unfinished run's judgements lie beside it as JSON lines.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.unfinished = file.with_suffix(".jsonl")

    def read(self) -> dict[str, Judgement]:
        """All judgements by key; where a key was judged again, the later."""
        rows: list[dict[str, Any]] = read_table(self.file).to_pylist() if self.file.exists() else []
        if self.unfinished.exists():
            data = self.unfinished.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):  # a crash in the middle of a line: that judgement was never acknowledged
                with self.unfinished.open("rb+") as handle:
                    handle.truncate(len(whole))
            with reading(self.unfinished):
                rows += [json.loads(line) for line in whole.split(b"\n") if line]
                return {row["key"] + "": Judgement(**row) for row in rows}
        with reading(self.file):
            return {row["key"] + "": Judgement(**row) for row in rows}

    def add(self, judgement: Judgement) -> None:
        """Keep one; when this returns it survives a power failure."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.unfinished.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(judgement), ensure_ascii=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def finish(self, record: Mapping[str, Any]) -> None:
        """Make the Parquet file of all there are.

        Args:
            record: what made it, and the result (JSON values).
        """
        import pyarrow as pa

        text, number = pa.string(), pa.int64()
        types = {name: number if name.endswith("_tokens") else text for name in Judgement.__slots__}
        schema = pa.schema(list(types.items()))
        rows = [asdict(judgement) for judgement in self.read().values()]
        write_table(self.file, pa.Table.from_pylist(rows, schema), record)
        self.unfinished.unlink(missing_ok=True)
