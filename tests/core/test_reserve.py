"""Prompts that took the place of flagged ones belong to the selection: in exports and in training."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from reserved import flag, keep_reserve

from thriftune.annotation.export import rows
from thriftune.artifacts import provenance, write_table
from thriftune.config import FinetuneConfig
from thriftune.finetuning.run import _answers
from thriftune.reserve import stored, with_replacements
from thriftune.study import Study
from thriftune.types import Annotation


@pytest.fixture
def spare(small_study: Study) -> list[str]:
    """Two prompts that the selection "first" does not have, as its reserve."""
    first = small_study.selection("first")[0]
    ids = [i for i in small_study.pool(["id"])["id"].to_pylist() if i not in first][:2]
    keep_reserve(small_study, "first", ids)
    return ids


def test_as_many_as_were_flagged_and_not_answered(small_study: Study, spare: list[str]) -> None:
    first = small_study.selection("first")[0]
    assert with_replacements(small_study, "first") == first
    flag(small_study, first[3])
    assert with_replacements(small_study, "first") == [*first, spare[0]]
    flag(small_study, spare[0])  # whose place the next one takes
    assert with_replacements(small_study, "first") == [*first, *spare]
    small_study.annotations.add([Annotation(first[3], "after all", annotator="bob")])
    assert with_replacements(small_study, "first") == first


def test_exports_and_trainings_have_them(small_study: Study, spare: list[str], tmp_path: Path) -> None:
    first = small_study.selection("first")[0]
    flag(small_study, first[0])
    small_study.annotations.add(Annotation(i, f"answer {i}") for i in [*first[1:], *spare])
    assert [row.id for row in rows(small_study, "first")] == [*first, spare[0]]
    ids, responses = _answers(small_study, FinetuneConfig(selection="first"), print)
    assert ids == sorted([*first[1:], spare[0]]) and responses == [f"answer {i}" for i in ids]


def test_a_reserve_of_other_picks_does_not_count(small_study: Study, spare: list[str]) -> None:
    first = small_study.selection("first")[0]
    flag(small_study, first[0])
    assert stored(small_study, "first") == spare
    write_table(
        small_study.selection_file("first"),
        pa.table({"rank": range(1, 10), "id": first[:9], "gain": pa.nulls(9, pa.float64())}),
        provenance(strategy="random"),
    )
    assert stored(small_study, "first") == [] and with_replacements(small_study, "first") == first[:9]
