"""The plan of a run on disk: made once, followed by every machine and every resumed run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thriftune.artifacts import provenance, read_table, write_table
from thriftune.config import ScoreConfig
from thriftune.errors import StudyError
from thriftune.progress import progress
from thriftune.scoring.plan import Plan, make_plan
from thriftune.scoring.prompts import distinct, prompts_of
from thriftune.types import IntArray, Prompt

if TYPE_CHECKING:
    import pyarrow as pa

_RENDERED = 4096  # prompts rendered at once

# Blocks of prompts, by number, to each block's number and the prompts' lengths in tokens, in any order.
Measure = Callable[[Iterable[tuple[int, list[Prompt]]]], Iterator[tuple[int, IntArray]]]


def stored_plan(
    pool: pa.Table, config: ScoreConfig, directory: Path, limits: Callable[[], tuple[int, int]], measure: Measure
) -> tuple[Plan, IntArray]:
    """The stored plan of an interrupted run, or a new one.

    Args:
        pool: see `prompts.pool_of`.
        config: of the run.
        directory: where the plan is.
        limits: padded tokens and prompts that a batch may hold, see `memory.batch_limits`.
        measure: tells the lengths of prompts.

    Returns:
        The plan, and (m,) the tokens of each prompt in the plan's order.

    Raises:
        StudyError: the stored plan is of another pool.
    """
    import pyarrow as pa

    file = directory / "plan.parquet"
    rows = distinct(pool)
    if file.exists():
        columns = dict.fromkeys(("row", "batch", "part", "tokens"), "int64")
        stored = read_table(file, list(columns), types=columns)
        plan = Plan(*(stored[c].to_numpy() for c in ("row", "batch", "part")))
        if not np.array_equal(np.sort(plan.rows), np.sort(rows)) or (np.diff(plan.part) < 0).any():
            raise StudyError(f"{file} does not belong to this pool: remove {directory} and score again")
        return plan, stored["tokens"].to_numpy()
    lengths = np.empty(len(rows), np.int64)
    # Only lengths are kept; the tokens of a million prompts would not fit, and are cheap to make again.
    blocks = (
        (number, prompts_of(pool.take(rows[start : start + _RENDERED])))
        for number, start in enumerate(range(0, len(rows), _RENDERED))
    )
    with progress("measuring prompts", len(rows)) as advance:
        for number, block in measure(blocks):
            lengths[number * _RENDERED :][: len(block)] = block
            advance(len(block))
    tokens, most = limits()
    plan = make_plan(
        rows,
        lengths,
        pool["id"].take(rows).to_pylist(),
        new_tokens=config.max_new_tokens,
        batch_size=None if config.batch_size == "auto" else config.batch_size,
        batch_tokens=tokens,
        most_prompts=most,
    )
    by_row = np.argsort(rows)
    lengths = lengths[by_row[np.searchsorted(rows, plan.rows, sorter=by_row)]]
    table = pa.table({"row": plan.rows, "batch": plan.batch, "part": plan.part, "tokens": lengths})
    write_table(file, table, provenance(batch_tokens=tokens, most_prompts=most))
    return plan, lengths
