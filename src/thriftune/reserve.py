"""The reserve of a selection: prompts that take the place of those that turned out to be unanswerable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from thriftune.artifacts import read_record, read_table
from thriftune.errors import StudyError
from thriftune.study import HOLDOUT, Study, check_name


def reserve_file(study: Study, name: str) -> Path:
    """Where the reserve of a selection is stored, beside the selections and not among them."""
    return study.path / "selections" / "reserve" / f"{check_name(name, 'selection')}.parquet"


def digest(ids: Sequence[str]) -> str:
    """Of the picks that a reserve belongs to."""
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()


def stored(study: Study, name: str) -> list[str]:
    """The reserve of a selection, in order; empty where there is none or the selection was made anew."""
    file = reserve_file(study, name)
    if name == HOLDOUT or not file.exists():
        return []
    try:
        record = read_record(file)
        if record.get("selection") != digest(study.selection(name)[0]):
            return []
        ids: list[str] = read_table(file, ["id"], types={"id": "string"})["id"].to_pylist()
    except StudyError:
        return []  # damaged: it is made again
    return ids


def with_replacements(study: Study, name: str) -> list[str]:
    """The prompts of a selection, and after them those of its reserve that took the place of flagged ones.

    Args:
        study: where it is.
        name: the selection's.

    Returns:
        Ids: the picks in their order, then as many of the reserve as prompts before them were flagged and not answered.
    """
    ids = study.selection(name)[0]
    held = stored(study, name)
    if not held:
        return ids
    out = study.annotations.flagged() - study.annotations.answered(("human", "imported"))
    found, missing = list(ids), sum(i in out for i in ids)
    for one in held:
        if not missing:
            break
        found.append(one)
        missing -= one not in out
    return found
