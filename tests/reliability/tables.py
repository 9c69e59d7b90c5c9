"""Parquet columns and tables that are not what a reader expects."""

from __future__ import annotations

import datetime
import decimal
import random
from typing import Any

import numpy as np
import pyarrow as pa


def other_column(rng: random.Random, n: int) -> pa.Array:
    """A column of a random type, with nulls or without."""
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    makers = (
        lambda: pa.array(
            rng.choices(range(-3, 9), k=n), rng.choice((pa.int8(), pa.int64(), pa.float32(), pa.float64()))
        ),
        lambda: pa.array([float("nan"), float("inf"), 0.5][: n and 3] * n, pa.float64())[:n],
        lambda: pa.array(rng.choices((True, False, None), k=n), pa.bool_()),
        lambda: pa.array(rng.choices((b"\xff\xfe", b"x", b"", b"\x00"), k=n), pa.binary()),
        lambda: _unchecked([rng.choice((b"\xff\xfe", b"fine text", b"\xed\xa0\x80", b"a\x00b")) for _ in range(n)]),
        lambda: pa.array(rng.choices(("a", "b", None), k=n), pa.string()).dictionary_encode(),
        lambda: pa.array(rng.choices(("what is it?", "", None), k=n), pa.large_string()),
        lambda: pa.array(rng.choices(([1], [], None, ["2"][:0]), k=n), pa.list_(pa.int32())),
        lambda: pa.array(rng.choices((["a", "b"], [], [None], None), k=n), pa.list_(pa.string())),
        lambda: pa.array(
            rng.choices(([{"role": "user", "content": "hi"}], [{"role": None, "content": None}], []), k=n),
            pa.list_(turn),
        ),
        lambda: pa.array(rng.choices(({"role": "user", "content": "hi"}, None), k=n), turn),
        lambda: pa.array([[("role", "user")]] * n, pa.map_(pa.string(), pa.string())),
        lambda: pa.array([datetime.datetime(2026, 1, 1)] * n, pa.timestamp("us")),
        lambda: pa.array([10**18] * n, pa.timestamp("ns")),
        lambda: pa.array([2**62] * n, pa.timestamp("s")),
        lambda: pa.array([datetime.date(2026, 1, 1)] * n, pa.date32()),
        lambda: pa.array([2**60] * n, pa.duration("us")),
        lambda: pa.array([decimal.Decimal("1.50")] * n, pa.decimal128(10, 2)),
        lambda: pa.array(np.zeros(n, np.float16)),
        lambda: pa.nulls(n),
        lambda: pa.nulls(n, pa.string()),
        lambda: pa.array([2**64 - 1] * n, pa.uint64()),
        lambda: pa.array([bytes(4)] * n, pa.binary(4)),
    )
    return rng.choice(makers)()


def _unchecked(values: list[bytes]) -> pa.Array:
    """A column that says it is text and is not."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def other_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """The table with a column changed, left out, renamed or emptied, or with rows left out, doubled or moved."""
    n, names = len(table), table.column_names
    at = rng.randrange(len(names))
    kind = rng.randrange(9)
    if kind < 3:
        return table.set_column(at, names[at], other_column(rng, n))
    if kind == 3:
        return table.remove_column(at)
    if kind == 4:
        return table.rename_columns([f"{name}x" if i == at else name for i, name in enumerate(names)])
    if kind == 5:
        values: list[Any] = table.column(at).to_pylist()
        for row in rng.sample(range(n), min(n, rng.randrange(1, 4))):
            values[row] = None
        return table.set_column(at, names[at], pa.array(values, table.schema.field(at).type))
    rows = list(range(n))
    if kind == 6:
        rows = rows[: rng.randrange(n + 1)]
    elif kind == 7:
        rows += rng.choices(rows, k=2) if rows else []
    else:
        rng.shuffle(rows)
    return table.take(pa.array(rows, pa.int64()))
