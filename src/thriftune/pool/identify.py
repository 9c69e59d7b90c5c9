"""What identifies a prompt: a digest of its turns, and the ids that come of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Set

import numpy as np
import numpy.typing as npt

from thriftune.types import IntArray, Message

DIGEST_BYTES = 16
_ID_DIGITS = 16
_CANONICAL = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
# Digests as two big-endian integers a row, so that sorting rows sorts the bytes.
Digests = npt.NDArray[np.uint64]


def digest_turns(turns: list[Message]) -> bytes:
    """BLAKE2b of the canonical JSON of ``turns``: equal for the same roles and contents, byte for byte."""
    return digest(_CANONICAL.encode([[t["role"], t["content"]] for t in turns]))


def digest(text: str) -> bytes:
    """BLAKE2b of ``text``, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def as_integers(digests: bytes | bytearray) -> Digests:
    """(n, 2) big-endian integers from n digests in a row."""
    return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)


def number_repeats(prompts: Digests, rows: Digests, without_id: IntArray, taken: Set[bytes]) -> IntArray:
    """Number the prompts that get their id from their content, so that ids are unique.

    The repeats of a prompt are numbered in the order of what else their rows hold; rows that are equal throughout are
    interchangeable. So shuffling the file changes no id.

    Args:
        prompts: (n, 2) digests of the prompts.
        rows: (n, 2) digests of the rows' other columns.
        without_id: (m,) integer, the rows to be numbered.
        taken: digests of the ids that the pool brought along.

    Returns:
        (n,) int32: 1 for the bare content id, k > 1 for the one with ``-k``; 0 for rows not asked for.
    """
    numbers = np.zeros(len(prompts), np.int32)
    order = without_id[
        np.lexsort([rows[without_id, 1], rows[without_id, 0], prompts[without_id, 1], prompts[without_id, 0]])
    ]
    previous, number = -1, 0
    for row, start in zip(order.tolist(), prompts[order, 0].tolist(), strict=True):
        number = number + 1 if start == previous else 1
        while taken and digest(content_id(start, number)) in taken:
            number += 1
        previous = start
        numbers[row] = number
    return numbers


def content_id(start: int, number: int) -> str:
    """The id of a prompt whose digest begins with the 64-bit ``start``; ``-2``, ``-3`` for its repeats."""
    return f"{start:0{_ID_DIGITS}x}" if number == 1 else f"{start:0{_ID_DIGITS}x}-{number}"
