"""The random baselines: uniform, in equal shares, and matched on length."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from thriftune.selection.run import select


def test_every_prompt_is_equally_likely() -> None:
    stats = pytest.importorskip("scipy.stats")
    n, k, seeds = 12, 4, 3000
    annotated = np.arange(n + 3) >= n
    together, first = np.zeros(n), np.zeros(n)
    for seed in range(seeds):
        rows = select(ids=range(n + 3), annotated=annotated, strategy="random", budget=k, seed=seed).rows
        together[rows] += 1
        first[rows[0]] += 1
    assert stats.chisquare(first).pvalue > 1e-3
    # Without replacement the counts of inclusion vary less than independent draws would.
    p = k / n
    statistic = ((together - seeds * p) ** 2).sum() / (seeds * p * (1 - p)) * (n - 1) / n
    assert stats.chi2.sf(statistic, n - 1) > 1e-3


def shares(tasks: str, budget: int, seed: int = 0, **more: Any) -> dict[str, int]:
    selection = select(tasks=list(tasks), strategy="random_within_task", budget=budget, seed=seed, **more)
    return dict(Counter(tasks[row] for row in selection.rows))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (3, {"a": 1, "b": 1, "c": 1}),
        (5, {"a": 2, "b": 2, "c": 1}),  # c is used up after one round
        (7, {"a": 3, "b": 3, "c": 1}),
        (8, {"a": 4, "b": 3, "c": 1}),  # and b after three
        (10, {"a": 6, "b": 3, "c": 1}),
    ],
)
def test_tasks_get_equal_shares_while_they_last(budget: int, expected: dict[str, int]) -> None:
    for seed in range(10):
        assert shares("aaaaaabbbc", budget, seed) == expected


def test_annotated_prompts_leave_their_task_smaller() -> None:
    assert shares("aaaabb", 4, annotated=np.array([0, 0, 0, 0, 1, 0], bool)) == {"a": 3, "b": 1}


def test_which_task_gets_the_odd_prompt_and_which_prompts_are_drawn_is_random() -> None:
    odd = Counter(next(t for t, c in shares("aaabbb", 3, seed).items() if c == 2) for seed in range(200))
    assert 60 < odd["a"] < 140
    drawn = Counter(
        int(row)
        for seed in range(300)
        for row in select(tasks=list("aaab"), strategy="random_within_task", budget=2, seed=seed).rows
    )
    assert drawn[3] == 300
    assert all(60 < drawn[row] < 140 for row in range(3))


def test_missing_labels_are_a_task_of_their_own() -> None:
    assert len(select(tasks=["a", None, "a"], strategy="random_within_task", budget=2).rows) == 2


def lengths_of(lengths: list[int], reference: list[int], budget: int, seed: int = 0, **more: Any) -> list[int]:
    selection = select(
        lengths=lengths, strategy="length_matched_random", reference=reference, budget=budget, seed=seed, **more
    )
    return sorted(lengths[row] for row in selection.rows)


def test_lengths_follow_the_reference() -> None:
    lengths = [1] * 50 + [9] * 50
    # A quarter of the reference is short.
    assert lengths_of(lengths, [0, 50, 51, 52], 8) == [1] * 2 + [9] * 6
    assert lengths_of(lengths, [0], 8) == [1] * 8


def test_where_a_length_runs_out_the_nearest_are_taken() -> None:
    lengths = [9, 9, 9, 1, 2, 8, 12, 13]
    assert lengths_of(lengths, [0, 1, 2], 5) == [8, 9, 9, 9, 12]
    assert lengths_of(lengths, [0, 1], 3, annotated=np.arange(8) < 2) == [8, 9, 12]


def test_the_control_matches_a_selection_that_drifts_with_length() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 500, 2000)
    scores = {"drifting": lengths + rng.normal(0, 60, 2000)}
    reference = select(scores=scores, strategy="top_k", score="drifting", budget=300)
    control = select(lengths=lengths, strategy="length_matched_random", reference=reference, budget=300)
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(
        np.quantile(lengths[control.rows], quantiles), np.quantile(lengths[reference.rows], quantiles), atol=12
    )
    # It is a random one, not the reference again.
    assert len(set(control.ids) & set(reference.ids)) < 250
