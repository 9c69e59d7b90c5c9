"""Which prompts are scored together, fixed before the first batch runs.

In bfloat16 the company a prompt keeps changes its scores, so a resumed run must follow the plan of the run it
continues; the plan is stored beside the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from thriftune.types import IntArray

_PART_TOKENS = 16_384  # work lost at most when a run dies
_MOST_PARTS = 2_000
_CPU_GROUP, _GPU_GROUP = 512, 16_384  # padded tokens


@dataclass(frozen=True)
class Plan:
    """Batches of pool rows, grouped into parts that are written together.

    Args:
        rows: (m,) int64 pool rows to score, batch after batch.
        batch: (m,) int32, batch number of each.
        part: (m,) int32, part number of each.
    """

    rows: IntArray
    batch: IntArray
    part: IntArray

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return int(self.part[-1]) + 1 if len(self.part) else 0

    def only(self, part: int) -> Plan:
        """The plan of one part alone."""
        inside = slice(*np.searchsorted(self.part, [part, part + 1]))
        return Plan(self.rows[inside], self.batch[inside], self.part[inside])

    def batches(self, part: int) -> list[IntArray]:
        """Positions in ``rows`` of each batch of a part."""
        inside = np.flatnonzero(self.part == part)
        numbers = self.batch[inside]
        return [inside[numbers == b] for b in np.unique(numbers)]


def make_plan(
    rows: IntArray,
    lengths: IntArray,
    ids: Sequence[str],
    *,
    new_tokens: int,
    batch_size: int | None,
    batch_tokens: int,
    most_prompts: int,
) -> Plan:
    """Length-sorted batches, longest first, so that what does not fit is found at once.

    Args:
        rows: (m,) pool rows.
        lengths: (m,) prompt tokens of each.
        ids: m prompt ids; equal lengths are ordered by id, so that shuffling the pool changes nothing.
        new_tokens: longest answer, which needs room too.
        batch_size: prompts a batch, or None to fill ``batch_tokens``.
        batch_tokens: padded tokens a batch, answers included, when ``batch_size`` is None.
        most_prompts: prompts a batch at most when ``batch_size`` is None.

    Returns:
        The plan.
    """
    order = sorted(range(len(rows)), key=lambda i: (-int(lengths[i]), ids[i]))
    batch = np.zeros(len(rows), np.int32)
    part = np.zeros(len(rows), np.int32)
    part_tokens = max(_PART_TOKENS, int((lengths + new_tokens).sum()) // _MOST_PARTS)
    number = part_number = filled = position = 0
    while position < len(order):
        padded = int(lengths[order[position]]) + new_tokens
        size = batch_size or max(1, min(most_prompts, batch_tokens // padded))
        end = min(position + size, len(order))
        batch[position:end], part[position:end] = number, part_number
        filled += padded * (end - position)
        if filled >= part_tokens:
            part_number, filled = part_number + 1, 0
        number, position = number + 1, end
    return Plan(np.asarray(rows, np.int64)[order], batch, part)


def group_tokens(device: str) -> int:
    """Padded tokens of prompts that are read together: enough to keep the hardware busy, few enough for its caches."""
    return _CPU_GROUP if device == "cpu" else _GPU_GROUP


def groups(lengths: Sequence[int], most: int | None, prefix: int | None = None) -> Iterator[tuple[int, int]]:
    """Bounds of the groups in which a batch's prompts are read, before all of them are answered together.

    Args:
        lengths: tokens of each, longest first.
        most: tokens a group, unless it is a single prompt; None for one group.
        prefix: tokens that all begin with and that are read once in a group, which then needs no padding; they do not
            count. None where prompts are padded, which counts.

    Yields:
        (start, end).
    """
    start = 0
    while start < len(lengths):
        if most is None:
            end = len(lengths)
        elif prefix is None:
            end = min(len(lengths), start + max(1, most // lengths[start]))
        else:
            own = np.cumsum(np.array(lengths[start:]) - prefix)
            end = start + max(1, int(np.searchsorted(own, most, "right")))
        yield start, end
        start = end
