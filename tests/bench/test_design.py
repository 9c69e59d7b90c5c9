"""What a seed draws, what arms choose, and which requests are refused before anything runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from known_study import POOL, TASKS, known_study, score, settings

from thriftune.bench import plan as plans
from thriftune.bench.design import (
    BASE,
    Cell,
    Known,
    arms,
    candidates_of,
    cells,
    draw_items,
    draw_pool,
    known,
    pick,
    seeds_of,
)
from thriftune.errors import BenchError, ConfigError, StrategyError, StudyError
from thriftune.selection.run import select
from thriftune.study import Study


@pytest.fixture
def study(tmp_path: Path, tiny_model: Path) -> Study:
    return known_study(tmp_path / "study", tiny_model)


def of(n: int, near: list[int]) -> Known:
    ids = tuple(f"{i:03d}" for i in range(n))
    return Known({}, np.arange(n) * 2, ids, np.array(near), 0, {}, 0)


def test_a_seeds_pool_has_the_share_asked_for_and_keeps_near_duplicates_together() -> None:
    near = [i - i % 3 if i < 30 else i for i in range(100)]
    field = of(100, near)
    draws = {seed: draw_pool(field, 0.4, seed) for seed in range(20)}
    for rows in draws.values():
        assert len(rows) == 40 and (np.diff(rows) > 0).all()
        drawn = {row // 2 for row in rows}
        assert all(len(drawn & set(range(g, g + 3))) in (0, 3) for g in range(0, 30, 3))
    assert len({tuple(rows) for rows in draws.values()}) == 20
    assert np.array_equal(draw_pool(field, 0.4, 3), draws[3])
    # Every prompt has its chance: 20 draws of 40 %.
    assert len(set(np.concatenate(list(draws.values())).tolist())) == 100
    assert np.array_equal(draw_pool(field, 1, 3), field.rows)


def test_the_order_of_the_pool_does_not_change_what_is_drawn() -> None:
    field = of(60, [i - i % 2 for i in range(60)])
    turned = Known({}, field.rows[::-1], field.ids[::-1], field.near_groups[::-1] + 500, 0, {}, 0)
    for seed in range(3):
        assert set(draw_pool(field, 0.5, seed)) == set(draw_pool(turned, 0.5, seed))


def test_items_are_balanced_over_tasks_as_far_as_they_go() -> None:
    held = {f"{i:03d}": "rare" if i < 3 else ("a" if i % 2 else "b") for i in range(60)}
    drawn = draw_items(held, 21, 0)
    assert Counter(held[i] for i in drawn) == {"rare": 3, "a": 9, "b": 9}
    assert drawn == sorted(set(drawn)) and drawn == draw_items(dict(reversed(held.items())), 21, 0)
    assert drawn != draw_items(held, 21, 1)
    assert draw_items(held, None, 0) == draw_items(held, 60, 5) == sorted(held)


def test_random_has_at_least_as_many_seeds_and_every_seed_has_its_base() -> None:
    config = settings(seeds=2, random_seeds=4, first_seed=7)
    assert seeds_of(config, "random") == [7, 8, 9, 10] and seeds_of(config, "k_center") == [7, 8]
    grid = cells(config, ["random", "k_center"])
    assert len(grid) == len(set(grid)) == 4 + 4 * 2 + 2 * 2
    assert [c.seed for c in grid] == sorted(c.seed for c in grid)
    assert grid[0] == Cell(BASE, 0, 7) and grid[0].id == "base-0-seed7"
    with pytest.raises(ValueError, match="random_seeds=1 is below seeds=2"):
        settings(random_seeds=1)


def test_only_prompts_with_a_response_take_part(tmp_path: Path, tiny_model: Path) -> None:
    study = known_study(tmp_path / "study", tiny_model, unanswered=10)
    found = known(study, "reference")
    assert found.without == 10 and len(found.ids) == POOL - 10 and found.held_without == 0
    assert "q009" not in found.ids
    plan = plans.make(study, settings())
    assert all(rows.min() >= 10 for rows in plan.pools.values())
    with pytest.raises(BenchError, match="--annotations human"):
        known(study, "human")


def test_arms_choose_from_the_seeds_pool_as_select_would(study: Study) -> None:
    config = settings(strategies=["k_center", "mean_entropy"])
    rows = draw_pool(known(study, "reference"), 0.75, 1)
    candidates = candidates_of(study, "default").take(rows)
    for arm in arms(study, config):
        found = pick(candidates, arm, [12, 6], 1, {})
        assert sorted(found) == [6, 12]
        assert found[6].ids == found[12].ids[:6]  # these strategies are prefix-closed
        assert set(found[12].ids) <= set(candidates.ids)
        extra = {"transform": "centre_l2"} if arm.name == "k_center" else {}
        assert found[12].ids == select(candidates, arm.strategy, 12, seed=1, **extra).ids.tolist()


def test_a_strategy_that_picks_anew_is_asked_at_every_budget(study: Study) -> None:
    config = settings(strategies=["k_means"])
    candidates = candidates_of(study, "default")
    arm = arms(study, config)[1]
    found = pick(candidates, arm, [5, 9], 0, {})
    for budget in (5, 9):
        assert found[budget].ids == select(candidates, "k_means", budget, transform="centre_l2").ids.tolist()


def test_an_arm_may_follow_another(study: Study) -> None:
    config = settings(
        strategies=["length_matched_random", "k_center"], params={"length_matched_random": {"reference": "k_center"}}
    )
    _, follower, leader = arms(study, config)
    assert follower.follows == {"reference": "k_center"}
    candidates = candidates_of(study, "default")
    led = pick(candidates, leader, [6, 12], 0, {})
    found = pick(candidates, follower, [6, 12], 0, {"k_center": led})
    for budget in (6, 12):
        alone = select(candidates, "length_matched_random", budget, reference=led[budget].ids)
        assert found[budget].ids == alone.ids.tolist()


def test_arms_of_ones_own_name_a_strategy_its_parameters_and_a_run(study: Study, tiny_model: Path) -> None:
    score(study, "other", tiny_model, seed=5)
    config = settings(
        strategies=["wide", "random_within_task"],
        run="default",
        params={"wide": {"strategy": "facility_location", "gamma": 0.5, "run": "other"}},
    )
    random, wide, within = arms(study, config)
    assert (random.name, random.run) == ("random", "default")
    assert (wide.strategy, wide.run, wide.params, wide.reads_tasks) == (
        "facility_location", "other", {"gamma": 0.5}, False,
    )  # fmt: skip
    assert within.reads_tasks


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"budgets": [6, 37]}, BenchError, "budget 37 is beyond the 36 prompts .* subsample 0.75 of 48"),
        ({"strategies": ["k_centre"]}, StrategyError, "did you mean k_center"),
        ({"params": {"k_center": {"gamma": 1}}}, StrategyError, "no parameter 'gamma'"),
        ({"params": {"facility_location": {}}}, BenchError, "names no arm"),
        ({"strategies": ["base"]}, BenchError, "cannot be the name"),
        ({"strategies": ["max_entropy"]}, BenchError, "needs score 'max_entropy'"),
        ({"run": "other"}, StudyError, "no finished score run 'other'"),
        ({"metric": "rouge_l"}, BenchError, "would not be measured .there: nll."),
        ({"scorer": "no_such_scorer"}, Exception, "no scorer 'no_such_scorer'"),
        ({"tasks": " , "}, BenchError, "give heldout"),
        ({"annotations": "people"}, ConfigError, "'people' are not known"),
    ],
)
def test_impossible_experiments_are_refused(study: Study, given: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        plans.make(study, settings(**given))


def test_without_scores_the_command_is_named(study: Study) -> None:
    (study.score_directory("default") / "scores.parquet").unlink()
    with pytest.raises(StudyError, match="run: thriftune score"):
        plans.make(study, settings())


def test_settings_of_one_training_do_not_belong_to_a_bench() -> None:
    with pytest.raises(ValueError, match="selection of .bench.finetune. are set by the bench"):
        settings(finetune={"selection": "mine"})


def test_the_plan_says_what_to_look_at(study: Study, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    plan = plans.make(study, settings(budgets=[6, 30]))
    assert any("more than half of the 36" in w for w in plan.warnings)
    other = shutil.copytree(tiny_model, tmp_path / "other model")
    plan = plans.make(study, settings(finetune={"model": str(other)}))
    assert any("scored with" in w and str(other) in w for w in plan.warnings)
    assert plans.make(study, settings()).warnings == []
    assert all(len(ids) == 6 for ids in plan.items.values())
    assert set(TASKS) == {plan.known.held[i] for i in plan.items[0]}
