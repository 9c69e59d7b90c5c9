"""task_diversity and weighted_task_diversity: what each task gets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from thriftune.errors import StrategyError
from thriftune.selection.run import select

TASKS = np.array(["a"] * 50 + ["b"] * 30 + ["c"] * 4, object)


def counts(budget: int, strategy: str = "task_diversity", **more: Any) -> dict[str, int]:
    tasks = more.pop("tasks", TASKS)
    rows = select(tasks=tasks, strategy=strategy, budget=budget, **more).rows
    return dict(Counter(TASKS[rows]))


def test_every_task_gets_the_same_until_it_runs_out() -> None:
    assert counts(9) == {"a": 3, "b": 3, "c": 3}
    assert counts(34) == {"a": 15, "b": 15, "c": 4}
    assert counts(80) == {"a": 46, "b": 30, "c": 4}


def test_what_is_annotated_counts() -> None:
    annotated = np.arange(84) < 5  # five of task a
    assert counts(8, annotated=annotated) == {"b": 4, "c": 4}
    assert counts(9, annotated=annotated) == {"b": 5, "c": 4}


def test_the_less_confident_tasks_get_more() -> None:
    # Confidence 1, 1/2 and 1/4 per token: shares 1 : 2 : 4.
    scores = np.select([TASKS == "a", TASKS == "b"], [0.0, np.log(2)], np.log(4))
    weighted = {"strategy": "weighted_task_diversity", "scores": {"mean_nll": scores}}
    assert counts(7, **weighted) == {"a": 1, "b": 2, "c": 4}
    assert counts(19, **weighted) == {"a": 5, "b": 10, "c": 4}


def test_confidence_is_the_mean_over_the_task() -> None:
    # Task a: mean of 1 and 1/4 is 5/8; b: 1/2: shares 4 : 5.
    scores = np.where(TASKS == "b", np.log(2), np.where(np.arange(84) % 2 == 0, 0.0, np.log(4)))
    kept = TASKS != "c"
    rows = select(
        tasks=TASKS[kept], scores={"mean_nll": scores[kept]}, strategy="weighted_task_diversity", budget=27
    ).rows
    assert Counter(TASKS[kept][rows]) == {"a": 12, "b": 15}


def test_clusters_stand_in_where_tasks_are_unknown() -> None:
    group = np.searchsorted(["a", "b", "c"], TASKS.astype(str))
    x = (np.random.default_rng(0).normal(size=(84, 2)) + 1000 * group[:, None]).astype(np.float32)
    assert counts(9, tasks=None, embeddings=x, clusters=3) == {"a": 3, "b": 3, "c": 3}
    half = np.where(TASKS == "a", "a", "").astype(object)
    assert counts(9, tasks=half, embeddings=x, clusters=2) == {"a": 3, "b": 3, "c": 3}
    # Without embeddings, those without a label are one group.
    found = counts(10, tasks=half)
    assert found["a"] == 5
    with pytest.raises(StrategyError, match="task_diversity needs task labels, or embeddings to cluster by"):
        select(ids=range(9), strategy="task_diversity", budget=2)


def test_within_a_task_the_draw_is_random() -> None:
    drawn = [select(tasks=["a"] * 5, strategy="task_diversity", budget=1, seed=seed).rows[0] for seed in range(400)]
    seen = Counter(drawn)
    assert min(seen.values()) > 50
