"""`select` itself: its forms, what it refuses, and how it holds a strategy to its contract."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thriftune
from thriftune import geometry
from thriftune.errors import StrategyError, StudyError
from thriftune.selection import registry
from thriftune.selection.run import select
from thriftune.study import Study
from thriftune.types import Annotation, Candidates, Picks

GRID = np.array([[0, 0], [4, 0], [0, 3], [4, 3], [2, 1]], np.float32)


@pytest.fixture
def own() -> Iterator[Callable[..., None]]:
    """A function that registers a throw-away strategy called ``own``."""

    def register(function: Callable[..., Any], **facts: Any) -> None:
        function.__doc__ = function.__doc__ or "Only for a test."
        registry.strategy(name="own", source="a test", **facts)(function)

    registry.discover()
    yield register
    registry._registered.pop("own", None)


def test_arrays_candidates_and_studies_give_the_same_picks(make_study: Callable[..., Study]) -> None:
    study = make_study()
    candidates = study.candidates()
    of_study = thriftune.select(study, strategy="k_center", budget=7)
    assert of_study.params == {"start": "mean", "device": "cpu", "transform": "centre_l2", "duplicates": "last"}
    assert thriftune.select(study.path, strategy="k_center", budget=7).ids.tolist() == of_study.ids.tolist()
    assert thriftune.select(str(study.path), "k_center", "7").ids.tolist() == of_study.ids.tolist()
    of_candidates = thriftune.select(candidates, "k_center", 7, transform="centre_l2")
    of_arrays = thriftune.select(
        embeddings=geometry.transform(candidates.embeddings, "centre_l2"),
        ids=list(candidates.ids),
        groups=candidates.groups,
        strategy="k_center",
        budget=7,
    )
    for other in (of_candidates, of_arrays):
        assert other.ids.tolist() == of_study.ids.tolist()
        assert other.rows.tolist() == of_study.rows.tolist()
    assert of_arrays.params["transform"] == "none"


def test_a_selection_can_be_asked_for_again_by_its_own_params() -> None:
    given = {"embeddings": GRID + 1, "groups": np.arange(5)}
    first = select(**given, strategy="k_center", budget=3, transform="l2")
    again = select(**given, strategy=first.strategy, budget=first.budget, **first.params)
    assert again.ids.tolist() == first.ids.tolist()


def test_ids_default_to_row_numbers_in_row_order() -> None:
    scores = {"mine": np.zeros(12)}
    selection = select(scores=scores, strategy="top_k", score="mine", budget=12)
    assert selection.ids.tolist() == [f"{i:02d}" for i in range(12)]
    assert selection.rows.tolist() == list(range(12))


def test_ties_go_to_the_lower_id() -> None:
    selection = select(scores={"s": [1, 2, 2, 2]}, ids=["d", "c", "a", "b"], strategy="top_k", score="s", budget=4)
    assert selection.ids.tolist() == ["a", "b", "c", "d"]
    assert selection.rows.tolist() == [2, 3, 1, 0]
    assert selection.gains is not None
    assert selection.gains.tolist() == [2, 2, 2, 1]


def test_whole_number_ids_become_strings() -> None:
    assert select(ids=[30, 4], strategy="random", budget=2).ids.tolist() in (["30", "4"], ["4", "30"])


@pytest.mark.parametrize(
    ("budget", "count"), [("10%", 2), ("12.5%", 3), ("12.4%", 2), ("100%", 20), ("7", 7), (np.int64(7), 7)]
)
def test_budgets(budget: Any, count: int) -> None:
    assert len(select(ids=range(20), strategy="random", budget=budget)) == count


def test_a_share_counts_the_whole_pool() -> None:
    annotated = np.arange(20) < 10
    assert len(select(ids=range(20), annotated=annotated, strategy="random", budget="50%")) == 10
    with pytest.raises(StrategyError, match=r"budget is 55%, which is 11 prompts: give 1 to 10 \(10 of the 20"):
        select(ids=range(20), annotated=annotated, strategy="random", budget="55%")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to select from: give a study, or embeddings="),
        ({"embeddings": np.zeros(5)}, r"embeddings has shape \(5,\): give an array of shape \(prompts, dimensions\)"),
        ({"embeddings": np.zeros((5, 0))}, "at least one dimension"),
        ({"embeddings": np.zeros((0, 5))}, "embeddings has no rows"),
        ({"embeddings": [["a"]]}, "embeddings holds <U1: give numbers"),
        ({"embeddings": [[1.0], [1.0, 2.0]]}, "embeddings cannot be read as an array"),
        ({"embeddings": GRID, "ids": ["a"]}, r"ids has shape \(1,\) but embeddings has 5 rows"),
        ({"embeddings": GRID, "scores": {"s": [1, 2]}}, r"scores\['s'\] has shape \(2,\) but embeddings has 5 rows"),
        ({"embeddings": GRID, "scores": np.zeros(5)}, "scores must map names to values"),
        ({"embeddings": GRID, "tasks": ["a", "b"]}, r"tasks has shape \(2,\)"),
        ({"embeddings": GRID, "annotated": [0, 1, 0, 0, 0]}, "annotated is int64: give a boolean mask"),
        ({"embeddings": GRID, "groups": np.zeros(5)}, "groups are float64: give whole numbers"),
        ({"ids": ["a", "b", "a"], "strategy": "random"}, "id 'a' comes more than once"),
        ({"ids": ["a", 1.5], "strategy": "random"}, "id 1.5 is not a string"),
        ({"embeddings": GRID, "strategy": "k_centre"}, "unknown strategy 'k_centre': did you mean k_center?"),
        ({"embeddings": GRID, "strategy": "zzz"}, "unknown strategy 'zzz': there are cluster_margin, d_optimal"),
        ({"embeddings": GRID, "transform": "pca"}, "unknown transform 'pca': choose one of none, l2"),
        ({"embeddings": GRID, "strategy": "random", "transform": "l2"}, "random reads no embeddings"),
        ({"embeddings": GRID, "strategy": "k_center", "costs": np.ones(5)}, "k_center takes no costs and would ignore"),
        ({"embeddings": GRID, "weights": -np.ones(5)}, "weights go from -1.0 to -1.0"),
        ({"embeddings": GRID, "seed": -1}, "seed is -1"),
        ({"embeddings": GRID, "seed": 0.5}, "seed is 0.5"),
        ({"embeddings": GRID, "run": "default"}, "run='default' names a score run of a study"),
        ({"embeddings": GRID, "duplicates": "first"}, "duplicates is 'first': choose one of last, keep"),
        ({"embeddings": GRID, "gamma": "wide"}, "facility_location: gamma='wide' is not number > 0 or 'auto'"),
        ({"embeddings": GRID, "gamma": float("nan")}, "gamma=nan is not number > 0"),
        (
            {"embeddings": GRID.astype(np.float64) * 1e39, "strategy": "k_center"},
            "embeddings of prompt '1' holds infinity",
        ),
        ({"ids": range(4), "strategy": "top_k"}, r"top_k: parameter score \(text\) must be given"),
        ({"ids": range(4), "lengths": range(4), "strategy": "length_matched_random", "reference": []}, "reference is"),
        (
            {"ids": "abcd", "lengths": range(4), "strategy": "length_matched_random", "reference": ["e"]},
            "no prompt 'e' among the 4",
        ),
    ],
)
def test_requests_that_cannot_be_met_say_why(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        select(**{"budget": 2, **arguments})


def test_all_problems_with_parameters_come_at_once() -> None:
    with pytest.raises(
        StrategyError, match=r"no parameter 'width' \(it has: .*\); kernel='poly' is not 'rbf' or 'local' or 'cos"
    ):
        select(embeddings=GRID, strategy="facility_location", budget=2, kernel="poly", width=3)


def test_a_study_and_arrays_together_are_refused(make_study: Callable[..., Study]) -> None:
    with pytest.raises(StrategyError, match="both a pool and embeddings= were given"):
        select(make_study(), "random", 2, embeddings=GRID)


def test_what_a_study_lacks_is_named_with_the_command(make_study: Callable[..., Study]) -> None:
    study = make_study(scored=False, tasks=False)
    with pytest.raises(StrategyError, match=f"k_center needs embeddings, .*: run: thriftune score {study.path}"):
        select(study, "k_center", 2)
    with pytest.raises(StrategyError, match=r"mean_nll needs score 'mean_nll' \(there: none\): run: thriftune score"):
        select(study, "mean_nll", 2)
    with pytest.raises(StrategyError, match=r"random_within_task needs tasks, .*thriftune init .* --task-column"):
        select(study, "random_within_task", 2)
    with pytest.raises(StudyError, match="no finished score run 'other'"):
        select(study, "random", 2, run="other")
    with pytest.raises(StudyError, match="is not a study"):
        select(study.path / "nowhere", "random", 2)


def test_a_prompt_of_a_study_without_a_score_comes_last(make_study: Callable[..., Study]) -> None:
    study = make_study(n=12)
    # p007 has none; p011 has the lowest and repeats p000.
    assert select(study, "prompt_nll", 12).ids.tolist()[-4:] == ["p009", "p010", "p007", "p011"]


def test_the_default_is_what_the_columns_allow(make_study: Callable[..., Study], tmp_path: Path) -> None:
    by_columns = [
        ({"embeddings": GRID, "tasks": list("aabbb")}, "facility_location"),
        ({"scores": {"s": np.arange(5)}, "tasks": list("aabbb")}, "random_within_task"),
        ({"scores": {"s": np.arange(5)}}, "random"),
    ]
    for columns, expected in by_columns:
        selection = select(**columns, budget=2)
        assert selection.strategy == expected
        assert selection.notes["default"]
    study = make_study(scored=False)
    assert select(study, budget=2).strategy == "random_within_task"
    assert "default" not in select(study, "random", 2).notes


def test_annotated_prompts_of_a_study_are_covered_not_picked(make_study: Callable[..., Study]) -> None:
    study = make_study()
    first = select(study, "k_center", 1).ids[0]
    study.annotations.add([Annotation(first, "an answer")])
    assert first not in select(study, "k_center", 58).ids.tolist()


def test_repeated_texts_come_only_when_the_others_are_used_up() -> None:
    # Rows 0 and 1 are one text, 2 and 3 another; row 4 is annotated and has a twin, row 5.
    groups = np.array([0, 0, 1, 1, 2, 2])
    annotated = np.arange(6) == 4
    scores = {"s": [5, 4, 9, 8, 0, 7]}
    common: dict[str, Any] = {"scores": scores, "groups": groups, "annotated": annotated, "score": "s"}
    last = select(**common, strategy="top_k", budget=5)
    assert last.rows.tolist() == [2, 0, 3, 5, 1]
    assert last.notes["distinct_prompts"] == 3
    assert last.notes["repeated_prompts"] == 3
    keep = select(**common, strategy="top_k", budget=5, duplicates="keep")
    assert keep.rows.tolist() == [2, 3, 5, 0, 1]


def test_named_prompts_reach_a_strategy_as_its_own_rows(own: Callable[..., None]) -> None:
    seen = []

    def spy(candidates: Candidates, budget: int, rng: np.random.Generator, *, like: registry.Rows) -> Picks:
        seen.append(candidates.ids[like].tolist())
        return Picks(np.flatnonzero(~candidates.annotated)[:budget])

    own(spy)
    # "c" repeats "a" and is out of sight until the distinct texts are used up: "a" stands for it.
    arguments: dict[str, Any] = {"ids": ["d", "c", "b", "a"], "groups": [1, 0, 2, 0], "strategy": "own"}
    assert select(**arguments, budget=2, like=["c", "d"]).params["like"] == ["c", "d"]
    assert select(**arguments, budget=2, like=[1, 0]).params["like"] == ["c", "d"]
    earlier = select(**arguments, budget=1, like=["b"])
    select(**arguments, budget=4, like=earlier)
    assert seen == [["a", "d"], ["a", "d"], ["b"], ["a"], ["a"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0], "it returned 1 rows for a budget of 2"),
        ([0, 1, 3], "it returned 3 rows"),
        ([3, 3], "it picked a row twice"),
        ([3, 5], "row 5 is not one of 0..4"),
        ([-1, 3], "row -1 is not one of"),
        ([3, 2], "it picked row 2, which is annotated already"),
        ([0.0, 1.0], "its rows are float64"),
        ([[0, 1]], r"of shape \(1, 2\)"),
    ],
)
def test_a_strategy_that_breaks_its_contract_is_named(own: Callable[..., None], rows: Any, message: str) -> None:
    def wrong(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
        return Picks(np.array(rows))

    own(wrong)
    annotated = np.arange(5) == 2
    with pytest.raises(StrategyError, match=f"strategy own broke its contract: .*{message}"):
        select(ids=range(5), annotated=annotated, strategy="own", budget=2)


@pytest.mark.parametrize("answer", [[1, 2], None, Picks(np.array([0, 1]), gains=np.array([1.0]))])
def test_an_answer_of_another_form_is_refused(own: Callable[..., None], answer: Any) -> None:
    own(lambda candidates, budget, rng: answer)
    with pytest.raises(StrategyError, match=r"strategy own broke its contract: (it returned|its gains)"):
        select(ids=range(5), strategy="own", budget=2)


def test_a_strategy_cannot_write_into_what_it_sees(own: Callable[..., None]) -> None:
    def vandal(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
        assert candidates.embeddings is not None
        candidates.embeddings[0] = 7
        return Picks(np.arange(budget))

    own(vandal, needs=("embeddings",))
    with pytest.raises(ValueError, match="read-only"):
        select(embeddings=GRID, strategy="own", budget=2)
    assert GRID[0].tolist() == [0, 0]


def test_a_strategy_sees_only_what_it_declared(own: Callable[..., None]) -> None:
    def spy(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
        assert candidates.tasks is None
        assert candidates.embeddings is None
        assert list(candidates.scores) == ["a"]
        return Picks(np.arange(budget))

    own(spy, needs=("scores:a",))
    select(embeddings=GRID, tasks=list("xxxxx"), scores={"a": range(5), "b": range(5)}, strategy="own", budget=2)


def test_an_interrupted_selection_is_a_valid_shorter_one(own: Callable[..., None]) -> None:
    def interrupted(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
        return Picks(np.array([4, 1]), partial=True)

    own(interrupted)
    selection = select(ids=range(5), strategy="own", budget=4)
    assert (selection.partial, selection.rows.tolist(), selection.budget) == (True, [4, 1], 4)


def test_an_interruption_before_the_first_pick_goes_on_up(own: Callable[..., None]) -> None:
    def interrupted(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
        raise KeyboardInterrupt

    own(interrupted)
    with pytest.raises(KeyboardInterrupt):
        select(ids=range(5), strategy="own", budget=4)


@pytest.mark.parametrize("name", ["k_center", "facility_location"])
def test_ctrl_c_leaves_the_picks_made_so_far(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from thriftune.selection.strategies import facility
    from thriftune.selection.strategies import k_center as farthest

    picks = []

    def advance(amount: float) -> None:
        picks.append(amount)
        if sum(picks) >= 3:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def bar(*arguments: Any) -> Iterator[Callable[[float], None]]:
        yield advance

    monkeypatch.setattr(facility, "progress", bar)
    monkeypatch.setattr(farthest, "progress", bar)
    x = np.random.default_rng(0).normal(size=(1500, 4))
    stopped = select(embeddings=x, strategy=name, budget=700, **({"gamma": 1.0} if name != "k_center" else {}))
    monkeypatch.undo()
    whole = select(embeddings=x, strategy=name, budget=700, **({"gamma": 1.0} if name != "k_center" else {}))
    assert stopped.partial
    assert 1 <= len(stopped) < 700
    assert whole.ids.tolist()[: len(stopped)] == stopped.ids.tolist()


def test_arrays_need_neither_torch_nor_pyarrow() -> None:
    code = (
        "import sys, numpy as np, thriftune\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numba', 'fastapi', 'datasets', 'pandas', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "thriftune.select(scores={'s': np.arange(9.)}, strategy='top_k', score='s', budget=3)\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "thriftune.select(embeddings=np.eye(9), strategy='k_center', budget=3)\n"
        "thriftune.select(embeddings=np.eye(9), strategy='facility_location', budget=3)\n"
        "heavy -= {'numba', 'scipy'}  # numba looks for scipy's linear algebra\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.bool_])
def test_whole_numbers_and_booleans_rank_as_numbers(kind: type) -> None:
    scores = np.array([0, 1, 100, 1, -128 if kind is np.int8 else 0]).astype(kind)
    picked = select(scores={"mine": scores}, strategy="top_k", score="mine", budget=3)
    assert picked.rows.tolist() == ([1, 2, 3] if kind is np.bool_ else [2, 1, 3])
