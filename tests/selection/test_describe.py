"""How a selection is described, and what it is warned about."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from thriftune.selection import describe
from thriftune.selection.run import select
from thriftune.study import Study


def test_shares_by_task() -> None:
    tasks = np.array(list("aabbbc"), object)
    found = describe.share_by_task(tasks, np.array([0, 1, 2]))
    assert found == {
        "tasks": 3,
        "touched": 2,
        "table": [
            {"task": "a", "pool": 2, "picks": 2},
            {"task": "b", "pool": 3, "picks": 1},
            {"task": "c", "pool": 1, "picks": 0},
        ],
    }


def test_clusters_touched_beside_what_random_would_touch() -> None:
    # Labels of the prompts that are free; the third cluster holds only an annotated one.
    labels = np.array([0, 0, 0, 1, 1])
    found = describe.touched_clusters(labels, np.array([0, 1]), 5)
    # Of the ten pairs of free prompts six touch both clusters, four only one.
    assert (found["clusters"], found["touched"], found["random"]) == (2, 2, 1.6)
    assert found["effective"] == 2
    assert found["effective_random"] == pytest.approx(1.6, abs=0.2)  # a pair of one cluster counts 1, the others 2


def test_effective_clusters_are_fewer_where_one_is_picked_more_often() -> None:
    labels = np.repeat([0, 1, 2, 3], 50)
    even, uneven = (describe.touched_clusters(labels, np.array(p), 200) for p in ([0, 1, 2, 3], [0, 0, 0, 1]))
    assert even["effective"] == 4
    assert uneven["effective"] == pytest.approx(np.exp(0.75 * np.log(4 / 3) + 0.25 * np.log(4)), abs=0.01)
    counts = np.random.default_rng(1).multinomial(4, [0.25] * 4, size=20_000)
    share = np.where(counts > 0, counts, 1) / 4
    entropy = -np.where(counts > 0, share * np.log(share), 0).sum(axis=1)
    assert even["effective_random"] == uneven["effective_random"] == pytest.approx(np.exp(entropy).mean(), abs=0.3)


def test_lengths() -> None:
    found = describe.lengths(np.arange(1, 102), np.array([100, 99, 0]))
    assert found["pool"] == [11, 51, 91, 101]
    assert found["picks"][1] == 100
    assert found["longest_above"] == 81
    assert found["longest"] == {"pool": round(20 / 101, 4), "picks": round(2 / 3, 4)}


def test_repeats_within_the_selection() -> None:
    exact, near = np.array([0, 1, 0, 3, 4]), np.array([0, 1, 0, 1, 4])
    assert describe.repeats(exact, near, np.array([0, 1, 2, 3])) == {"exact": 1, "near": 2}
    assert describe.repeats(exact, near, np.array([0, 1, 4])) == {"exact": 0, "near": 0}


def test_ties_at_the_last_pick() -> None:
    scores = np.array([3.0, 2.0, 1.0, 2.0, 2.0, 0.0])
    free = np.array([True, True, True, True, False, True])
    assert describe.ties(scores, np.array([0, 1]), free) == {"pool": 2, "picks": 1}
    assert describe.ties(scores, np.array([0]), free) == {"pool": 1, "picks": 1}


def test_a_study_is_described_whole(make_study: Callable[..., Study]) -> None:
    study = make_study()
    # mean_entropy grows with length in this study, and the ten longest prompts were truncated.
    selection = select(study, "mean_entropy", 12)
    summary = describe.describe(study, selection, "default")
    assert summary["picks"] == 12
    assert summary["pool"] == 60
    assert summary["tasks"]["table"][0]["task"] == "usual"
    assert summary["clusters"]["touched"] <= summary["clusters"]["clusters"] <= 12
    assert summary["lengths"]["unit"] == "tokens"
    assert summary["cut"]["prompt"] == {"pool": round(10 / 60, 4), "picks": round(9 / 12, 4)}
    assert summary["score_length"] == {"score": "mean_entropy", "spearman": pytest.approx(1.0)}
    found = describe.warnings(summary, {})
    assert len(found) == 4
    assert "75% of the picks are prompts too long for the model" in found[0]
    assert "92% of the picks are among the longest 20% of the pool" in found[1]
    assert "of one task, 'usual' (42% of the pool)" in found[2]
    assert "mean_entropy goes with prompt length over the pool (Spearman +1.00)" in found[3]


def test_without_scores_there_is_less_to_say(make_study: Callable[..., Study]) -> None:
    study = make_study(scored=False, tasks=False)
    summary = describe.describe(study, select(study, "random", 12), None)
    assert [key for key, value in summary.items() if value is None] == [
        "tasks",
        "clusters",
        "cut",
        "score_length",
        "ties",
    ]
    assert summary["lengths"]["unit"] == "characters"


def calm() -> dict[str, Any]:
    return {
        "picks": 100,
        "pool": 1000,
        "tasks": {"tasks": 2, "touched": 2, "table": [{"task": "a", "pool": 600, "picks": 60}]},
        "clusters": {"effective": 40.0, "effective_random": 44.0, "effective_least": 41.0},
        "lengths": {"longest": {"pool": 0.2, "picks": 0.3}},
        "repeats": {"exact": 0, "near": 5},
        "cut": {"prompt": {"pool": 0.0, "picks": 0.1}, "draft": {"pool": 0.8, "picks": 0.9}},
        "score_length": {"score": "mean_nll", "spearman": -0.3},
        "ties": {"score": "mean_nll", "pool": 50, "picks": 25},
    }


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("cut", "prompt", "picks"), 0.6, "60% of the picks are prompts too long for the model"),
        (("cut", "draft", "pool"), 0.6, "90% of the picks have a draft answer cut off"),
        (("lengths", "longest", "picks"), 0.55, "55% of the picks are among the longest 20%"),
        (("tasks", "table", 0, "picks"), 80, "80% of the picks are of one task, 'a' \\(60% of the pool\\)"),
        (("clusters", "effective"), 39.0, "less varied than as many random ones .* 39, random 44\\)"),
        (("repeats", "near"), 11, "11% of the picks are nearly the same text"),
        (("score_length", "spearman"), -0.7, "mean_nll goes with prompt length over the pool \\(Spearman -0.70\\)"),
        (("ties", "pool"), 51, "25 of the picks are the first by id of 51 prompts with the same mean_nll"),
    ],
)
def test_each_warning_has_its_cause(path: tuple[Any, ...], value: Any, message: str) -> None:
    summary = calm()
    assert describe.warnings(summary, {}) == []
    place = summary
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (found,) = describe.warnings(summary, {})
    assert re.search(message, found)


def test_what_is_advised_against_uneven_picks_is_not_what_was_done() -> None:
    summary = calm()
    summary["clusters"]["effective"] = 39.0
    advice = [
        describe.warnings(summary, {"kernel": kernel})[0].partition("compare with ")[2] for kernel in ("rbf", "local")
    ]
    assert advice == ["facility_location --param kernel=local, fewer picks, random", "fewer picks, random"]


def test_a_graph_that_misses_neighbours_is_told() -> None:
    summary = {"picks": 9, "pool": 90, "cut": None, "lengths": {"longest": {"picks": 0.0}}}
    summary |= {"tasks": None, "clusters": None, "repeats": {"near": 0}, "score_length": None, "ties": None}
    assert describe.warnings(summary, {"recall": 0.99}) == []
    (found,) = describe.warnings(summary, {"recall": 0.42})
    assert "only 42% of the nearest neighbours" in found
