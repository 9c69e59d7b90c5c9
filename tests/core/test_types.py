from __future__ import annotations

import numpy as np
import pytest

from thriftune.types import Candidates, Prompt


def make() -> Candidates:
    return Candidates(
        ids=np.array(["a", "b", "c"], dtype=object),
        embeddings=np.arange(6.0).reshape(3, 2),
        scores={"entropy": np.array([3.0, 1.0, 2.0])},
        tasks=np.array(["x", "y", "x"], dtype=object),
    )


def test_columns_are_read_only_and_the_callers_are_not() -> None:
    own = np.arange(6.0).reshape(3, 2)
    score = np.ones(3)
    candidates = Candidates(np.array(["a", "b", "c"], dtype=object), embeddings=own, scores={"s": score})
    for column in (candidates.ids, candidates.embeddings, candidates.annotated, candidates.scores["s"]):
        assert column is not None
        with pytest.raises(ValueError, match="read-only"):
            column[0] = column[1]
    own[0, 0] = score[0] = 9


def test_take_keeps_rows_together() -> None:
    taken = make().with_annotated(np.array([True, False, False])).take(np.array([2, 0]))
    assert taken.ids.tolist() == ["c", "a"]
    assert taken.embeddings is not None
    assert taken.embeddings.tolist() == [[4, 5], [0, 1]]
    assert taken.scores["entropy"].tolist() == [2, 3]
    assert taken.annotated.tolist() == [False, True]
    assert taken.tasks is not None
    assert taken.tasks.tolist() == ["x", "x"]
    assert taken.costs is None
    assert len(taken) == 2


def test_nothing_is_annotated_unless_said() -> None:
    assert make().annotated.tolist() == [False, False, False]


def test_turns_of_a_prompt() -> None:
    assert Prompt("a", "hi").turns == [{"role": "user", "content": "hi"}]
    chat = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    assert Prompt("a", "s\n\nu", messages=chat).turns == list(chat)  # type: ignore[arg-type]
