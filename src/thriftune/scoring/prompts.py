"""The pool's prompts as a score run reads them: each text once, block after block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thriftune.errors import ScoreError
from thriftune.study import Study
from thriftune.types import IntArray, Message, Prompt

if TYPE_CHECKING:
    import pyarrow as pa


def pool_of(study: Study) -> pa.Table:
    """The pool as one chunk with 64-bit offsets: rows are taken from it often, and texts may exceed 2 GiB.

    Raises:
        ScoreError: it is empty.
    """
    import pyarrow as pa

    pool = study.pool(["id", "text", "messages", "group"])
    if not pool.num_rows:
        raise ScoreError(f"the pool of {study.path} is empty (is everything held out?): there is nothing to score")
    turn = pa.struct([("role", pa.large_string()), ("content", pa.large_string())])
    wide = {"text": pa.large_string(), "messages": pa.large_list(turn)}
    fields = [pa.field(f.name, wide.get(f.name, f.type)) for f in pool.schema]
    return pool.cast(pa.schema(fields)).combine_chunks()


def distinct(pool: pa.Table) -> IntArray:
    """(m,) rows of the pool, one for each text: greedy answers to equal texts cannot differ."""
    _, rows = np.unique(pool["group"].to_numpy(), return_index=True)
    return rows.astype(np.int64)


def prompts_of(pool: pa.Table) -> list[Prompt]:
    """Prompts from pool rows that have ``id``, ``text`` and ``messages``."""
    columns = (pool[c].to_pylist() for c in ("id", "text", "messages"))
    return [
        Prompt(
            i,
            text,
            messages=None if turns is None else tuple(Message(role=t["role"], content=t["content"]) for t in turns),
        )
        for i, text, turns in zip(*columns, strict=True)
    ]
