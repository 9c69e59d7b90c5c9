"""Documents of MMLU and BBH from Parquet files, in the shape in which the harness' own tasks get them from the hub."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from thriftune.errors import EvaluationError

LETTERS = "ABCD"
_COLUMNS = {"mmlu": ("subject", "split", "question", "choices", "answer"), "bbh": ("task", "input", "target")}

Benchmark = Literal["mmlu", "bbh"]


def documents(*, benchmark: Benchmark, file: str, part: str, **_: Any) -> dict[str, Any]:
    """The documents of one task; lm-evaluation-harness calls this as a task's ``custom_dataset``.

    Columns and values are those of the hub's data set (``cais/mmlu``: question, subject, choices, answer as the index
    of the right choice; BBH: input, target), so that the harness' own templates apply to them unchanged.

    Args:
        benchmark: ``mmlu`` or ``bbh``.
        file: the Parquet file.
        part: subject (MMLU) or task (BBH).
        **_: the task's metadata, which the harness passes along.

    Returns:
        ``datasets.Dataset`` by split: ``test`` and ``dev`` for MMLU, ``test`` for BBH.

    Raises:
        EvaluationError: the file is missing, unreadable or lacks a column, the part or a valid answer.
    """
    import datasets

    path = Path(file)
    rows = _parts(benchmark, file, path.stat().st_mtime_ns if path.exists() else 0).get(part, [])
    if benchmark == "bbh":
        splits = {"test": [{"input": r["input"], "target": r["target"]} for _, r in rows]}
        features = {"input": datasets.Value("string"), "target": datasets.Value("string")}
    else:
        splits = {"test": [], "dev": []}
        for line, r in rows:
            if r["split"] in splits:
                splits[r["split"]].append(_question(r, file, line))
        features = {
            "question": datasets.Value("string"),
            "subject": datasets.Value("string"),
            "choices": [datasets.Value("string")],
            "answer": datasets.Value("int64"),
        }
    if not splits["test"]:
        raise EvaluationError(f"{file} has no test rows of {part!r}: give a file with all of {benchmark.upper()}")
    return {
        name: datasets.Dataset.from_list(found, features=datasets.Features(features)) for name, found in splits.items()
    }


def _question(row: dict[str, Any], file: str, line: int) -> dict[str, Any]:
    answer = row["answer"]
    index = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
    if index not in range(4) or len(row["choices"]) != 4:
        raise EvaluationError(
            f"{file}, row {line}: MMLU needs four choices and an answer A to D, "
            f"found {len(row['choices'])} choices and {answer!r}"
        )
    return {"question": row["question"], "subject": row["subject"], "choices": row["choices"], "answer": int(index)}


@functools.lru_cache(maxsize=4)
def _parts(benchmark: Benchmark, file: str, modified: int) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Rows of a file by subject or task, each with its 1-based number; read once as long as it is not ``modified``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _COLUMNS[benchmark]
    try:
        found = pq.read_schema(file).names
        absent = [c for c in columns if c not in found]
        if absent:
            raise EvaluationError(f"{file} has no column {absent[0]!r}: {benchmark.upper()} needs {', '.join(columns)}")
        rows = pq.read_table(file, columns=list(columns), partitioning=None).to_pylist()
    except FileNotFoundError:
        raise EvaluationError(
            f"no file {file}: --data names a directory that has mmlu.parquet and bbh.parquet"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise EvaluationError(f"{file} cannot be read as Parquet: {error}") from None
    parts: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for line, row in enumerate(rows, 1):
        empty = [c for c in columns if row[c] is None]
        if empty:
            raise EvaluationError(f"{file}, row {line}: {empty[0]} is empty")
        parts.setdefault(row[columns[0]], []).append((line, row))
    return parts
