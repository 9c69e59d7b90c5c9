"""The pool file's other columns, which pool.parquet keeps as JSON: numbers among them serve as scores and as costs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.types import FloatArray

if TYPE_CHECKING:
    import pyarrow as pa

_SEEN = 1000  # prompts


def number_of(value: Any) -> float | None:
    """``value`` as a number, None where it is none; text of a CSV file counts."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def column(meta: pa.ChunkedArray, name: str) -> list[Any] | None:
    """What each of (n,) prompts has in the column ``name``, None where it has nothing; None where no prompt has it."""
    found, there = [], False
    for text in meta:  # one at a time: all columns of a large pool do not fit as Python objects
        row = json.loads(text.as_py() or "{}")
        there = there or name in row
        found.append(row.get(name))
    return found if there else None


def numbers(meta: pa.ChunkedArray, name: str) -> dict[str, FloatArray]:
    """By its name a column as (n,) float64, NaN where it holds no number; empty where no prompt has it."""
    found = column(meta, name)
    if found is None:
        return {}
    return {name: np.array([math.nan if number is None else number for number in map(number_of, found)])}


def numeric(meta: pa.ChunkedArray) -> list[str]:
    """Names of the columns that hold numbers, by the first prompts."""
    rows = (json.loads(text) for text in meta[:_SEEN].to_pylist() if text)
    return list(dict.fromkeys(key for row in rows for key, value in row.items() if number_of(value) is not None))
