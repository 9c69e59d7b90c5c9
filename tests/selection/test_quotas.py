"""Quotas per task: kept by every strategy, and exact where picks do not depend on each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from thriftune.cli.app import app
from thriftune.errors import StrategyError
from thriftune.selection.cut import at_budgets, cut
from thriftune.selection.run import select
from thriftune.study import SCORE_COLUMNS, Study

TASKS = np.array(["a"] * 40 + ["b"] * 15 + ["c"] * 3 + [""] * 2, object)


def pool(seed: int = 0, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "embeddings": rng.normal(size=(60, 4)).astype(np.float32),
        "scores": {name: rng.permutation(60).astype(np.float32) for name in SCORE_COLUMNS},
        "tasks": TASKS,
        **more,
    }


STRATEGIES = ["mean_nll", "random", "k_center", "facility_location", "k_means", "gist", "d_optimal", "task_diversity"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("annotated", [False, True])
def test_quotas_are_kept(strategy: str, annotated: bool) -> None:
    mask = (np.arange(60) % 5 == 0) & annotated
    selection = select(**pool(annotated=mask), strategy=strategy, budget=20, at_least={"task": 4}, at_most={"task": 9})
    counts = Counter(TASKS[selection.rows])
    there = Counter(TASKS[~mask])
    assert len(selection) == len(set(selection.rows)) == 20
    assert not mask[selection.rows].any()
    for task in "abc":
        assert min(4, there[task]) <= counts[task] <= 9
    assert not selection.partial
    again = select(**pool(annotated=mask), strategy=strategy, budget=20, at_least={"task": 4}, at_most={"task": 9})
    assert again.rows.tolist() == selection.rows.tolist()


def test_the_best_scores_that_the_quotas_allow() -> None:
    tasks = np.array(["a", "a", "a", "a", "b", "b", "b", "c"], object)
    for seed in range(5):
        scores = np.random.default_rng(seed).permutation(8).astype(float)
        limits = {"at_most": {"task": 2}, "at_least": {"task": 1}}
        chosen = select(scores={"s": scores}, tasks=tasks, strategy="top_k", score="s", budget=4, **limits).rows
        sets = combinations(range(8), 4)
        allowed = [s for s in sets if all(1 <= Counter(tasks[list(s)])[task] <= 2 for task in "abc")]
        assert scores[chosen].sum() == max(scores[list(s)].sum() for s in allowed)


@pytest.mark.parametrize("strategy", ["random", "k_center"])
def test_a_task_by_its_label(strategy: str) -> None:
    limits = {"at_least": {"b": 12}, "at_most": {"task": 2, "b": 13}}
    counts = Counter(TASKS[select(**pool(), strategy=strategy, budget=19, **limits).rows])
    assert counts == {"a": 2, "b": 13, "c": 2, "": 2}  # all that they leave room for
    few = {"at_least": {"b": 12, "task": 1}}
    counts = Counter(TASKS[select(**pool(), strategy=strategy, budget=14, **few).rows])
    assert counts == {"a": 1, "b": 12, "c": 1}


def test_what_is_served_first_comes_first() -> None:
    rows = select(**pool(), strategy="mean_nll", budget=12, at_least={"task": 3}).rows
    assert TASKS[rows[:9]].tolist() == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_repeated_texts_still_come_last() -> None:
    groups = np.arange(60) // 2
    rows = select(**pool(groups=groups), strategy="mean_nll", budget=20, at_most={"task": 12}).rows
    assert len(set(groups[rows])) == 20


def test_a_selection_with_quotas_is_not_cut_but_made_again() -> None:
    whole = select(**pool(), strategy="mean_nll", budget=20, at_most={"task": 9})
    assert whole.params["at_most"] == {"task": 9}
    with pytest.raises(StrategyError, match="run it again"):
        cut(whole, 10)
    from thriftune.selection.columns import from_arrays

    small, _ = at_budgets(from_arrays(**pool()), "mean_nll", [10, 20], at_most={"task": 8})
    alone = select(**pool(), strategy="mean_nll", budget=10, at_most={"task": 8})
    assert small.ids.tolist() == alone.ids.tolist()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"at_most": {"task": 3}}, "at most 3 of every task leaves room for 11 picks and the budget is 20"),
        ({"at_least": {"task": 9}}, "at least 9 of every task takes 21 picks and the budget is 20"),
        ({"at_least": {"task": 5}, "at_most": {"task": 4}}, "at least 5 of every task and at most 4"),
        ({"at_least": {"task": 5, "b": 9}, "at_most": {"b": 8}}, "at least 9 of b and at most 8"),
        ({"at_least": {"b": 9}, "at_most": {"task": 8}}, "at least 9 of b and at most 8"),
        ({"at_least": {"a": 15, "b": 9}}, "at least 15 of a, 9 of b takes 24 picks and the budget is 20"),
        ({"at_least": {"c": 6}}, "at least 6 of c are asked for and 3 are not annotated"),
        ({"at_most": {"source": 3}}, "names the task 'source', which no prompt has: take one of a, b, c"),
        ({"at_most": 3}, "at_most is 3: write it by task, e.g. task=5 for every one"),
        ({"at_least": {"task": 0}}, "at_least task=0: give a whole number of at least 1"),
        ({"at_least": {"task": "few"}}, "at_least task='few': give a whole number"),
    ],
)
def test_impossible_quotas(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        select(**pool(), strategy="random", budget=20, **limits)


def test_quotas_need_labels_and_no_other_prompts() -> None:
    with pytest.raises(StrategyError, match="there are no task labels"):
        select(ids=range(9), strategy="random", budget=3, at_most={"task": 2})
    with pytest.raises(StrategyError, match="takes prompts as a parameter"):
        select(
            **pool(lengths=np.arange(60)),
            strategy="length_matched_random",
            reference=[1, 2],
            budget=3,
            at_most={"task": 2},
        )


def test_on_the_command_line(make_study: Callable[..., Study]) -> None:
    study = make_study()
    call = ["select", str(study.path), "--strategy", "k_center", "--budget", "12", "--at-least", "task=2"]
    result = CliRunner().invoke(app, [*call, "--at-most", "task=5"])
    assert result.exit_code == 0, result.output
    ids, _, record = study.selection("k_center-12")
    of = dict(zip(*(study.pool(["id", "task"])[c].to_pylist() for c in ("id", "task")), strict=True))
    counts = Counter(of[i] for i in ids)
    assert len(counts) == 3
    assert min(counts.values()) >= 2
    assert max(counts.values()) <= 5
    assert record["params"]["at_most"] == {"task": 5}
    again = CliRunner().invoke(app, [*call, "--at-most", "task=6"])
    assert "exists with other settings" in str(again.output) + str(again.exception)
    wrong = CliRunner().invoke(app, [*call, "--at-most", "5"])
    assert "write it as TASK=NUMBER" in str(wrong.output) + str(wrong.exception)
    named = [*call[:-2], "--at-least", f"{max(counts)}=7", "--at-least", "task=1", "--name", "named"]
    assert CliRunner().invoke(app, named).exit_code == 0
    picked = Counter(of[i] for i in study.selection("named")[0])
    assert picked[max(counts)] >= 7
    assert len(picked) == 3
    twice = CliRunner().invoke(app, [*named, "--at-least", "task=2"])
    assert "names 'task' twice" in str(twice.output) + str(twice.exception)
