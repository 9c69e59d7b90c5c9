"""A random control arm where responses are not known: two selections, then a comparison of what was answered."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_study import HELD, POOL, known_study, settings

from thriftune.artifacts import read_json, read_table
from thriftune.bench import contrast
from thriftune.bench.control import control_arm
from thriftune.bench.design import Cell
from thriftune.bench.run import bench
from thriftune.config import BenchConfig
from thriftune.errors import BenchError, ThriftuneError
from thriftune.report.page import write_report
from thriftune.study import HOLDOUT, Study
from thriftune.types import Annotation

Lines = list[str]


@pytest.fixture
def study(tmp_path: Path, tiny_model: Path) -> Study:
    return known_study(tmp_path / "study", tiny_model, references=False)


def asked(**given: object) -> BenchConfig:
    return settings(**{"control": 0.25, "budgets": [16], "seeds": 2, "items": None, **given})


def answer(study: Study, ids: Iterable[str], status: Any = "final") -> None:
    done = study.annotations.answered()
    study.annotations.add(
        Annotation(i, "" if status == "skipped" else f"answer {i}", source="human", status=status)
        for i in ids
        if i not in done
    )


def silent(line: str) -> None:
    pass


def test_first_two_selections_are_made_and_the_way_on_is_said(study: Study) -> None:
    said: Lines = []
    assert control_arm(study, asked(), say=said.append) is None
    assert study.selections() == ["bench-designed", "bench-control"]
    designed, _, record = study.selection("bench-designed")
    control, _, other = study.selection("bench-control")
    assert (len(designed), record["strategy"]) == (12, "k_center") and (len(control), other["strategy"]) == (
        4,
        "random",
    )
    text = "\n".join(said)
    assert f"export {study.path} bench-control.csv --selection bench-control" in text
    assert f"{HELD} to answer: the held-out prompts, first" in text and "12 to answer: the picks of k_center" in text
    plan = read_json(study.bench_directory("bench") / "plan.json")
    assert plan["control"] is True and plan["overlap"] == len(set(designed) & set(control))
    # A second call changes nothing and says the same.
    before, again = study.selection("bench-control"), Lines()
    assert control_arm(study, asked(), say=again.append) is None
    assert study.selection("bench-control")[0] == before[0] and again == said


@pytest.mark.parametrize("other", [{"metric": "rouge_l"}, {"seeds": 3}, {"finetune": {"epochs": 7}}])
def test_what_decides_is_settled_on_the_first_call(study: Study, other: dict[str, Any]) -> None:
    control_arm(study, asked(), say=silent)
    with pytest.raises(BenchError, match=f"begun differently.*{next(iter(other))} was"):
        control_arm(study, asked(**other), say=silent)


def test_the_control_is_a_draw_from_the_whole_pool(study: Study) -> None:
    """It neither avoids nor follows the design, whatever strategy that is."""
    overlaps, drawn = [], []
    for seed in range(12):
        config = asked(name=f"b{seed}", first_seed=seed, strategies=["random_within_task"], budgets=[24], control=0.5)
        control_arm(study, config, say=silent)
        control = study.selection(f"b{seed}-control")[0]
        overlaps.append(len(set(control) & set(study.selection(f"b{seed}-designed")[0])))
        drawn += control
    # 12 of 48 twice: 3 in common on average, hypergeometric standard deviation 1.3, of the mean of 12 draws 0.38.
    assert 3 - 4 * 0.38 < np.mean(overlaps) < 3 + 4 * 0.38
    assert len(set(drawn)) > 0.9 * POOL


def test_while_answers_are_missing_it_says_which(study: Study) -> None:
    control_arm(study, asked(), say=silent)
    answer(study, study.selection(HOLDOUT)[0])
    answer(study, study.selection("bench-designed")[0][:-1])
    said: Lines = []
    assert control_arm(study, asked(), say=said.append) is None
    text = "\n".join(said)
    assert "1 to answer: the picks of k_center" in text and "held-out" not in text
    assert not (study.bench_directory("bench") / "cells").exists()


@pytest.fixture
def answered(study: Study) -> Study:
    control_arm(study, asked(), say=silent)
    for name in (HOLDOUT, "bench-control"):
        answer(study, study.selection(name)[0])
    designed = [i for i in study.selection("bench-designed")[0] if i not in study.annotations.answered()]
    answer(study, designed[:1], "skipped")
    answer(study, designed[1:])
    return study


def test_equal_numbers_of_answers_are_compared(answered: Study) -> None:
    said: Lines = []
    found = control_arm(answered, asked(), say=said.append)
    assert found is not None
    directory = answered.bench_directory("bench")
    assert found == read_json(directory / "analysis.json") and found["control"] is True
    assert found["sizes"] == [2, 4] and found["seeds"] == [0, 1] and found["items"] == HELD and found["prefix"]
    rows = [r for f in (directory / "cells").iterdir() for r in read_table(f).to_pylist()]
    assert {(r["strategy"], r["budget"], r["seed"]) for r in rows} == {
        ("base", 0, 0), *((s, b, seed) for s in ("random", "k_center") for b in (2, 4) for seed in (0, 1)),
    }  # fmt: skip
    for one in found["comparisons"]:
        mine = {
            arm: np.mean([r["value"] for r in rows if (r["strategy"], r["budget"]) == (arm, one["budget"])])
            for arm in ("random", "k_center")
        }
        # As many items of every task: the mean over tasks is the mean.
        assert one["designed"] == pytest.approx(mine["k_center"]) and one["control"] == pytest.approx(mine["random"])
        assert one["difference"] == pytest.approx(mine["random"] - mine["k_center"])  # nats: lower is better
        assert one["low"] < one["difference"] < one["high"] and one["shown"] == (one["low"] > 0)
    text = " ".join(found["says"])
    assert "At 4 answers k_center has nll" in text and "cannot show a saving in per cent" in text
    assert "first 4 picks" in text and all(line in said for line in found["says"])
    # Once more: nothing is computed again.
    again: Lines = []
    assert control_arm(answered, asked(), say=again.append) == found
    # The report tells it in words.
    assert found["says"][0] in write_report(answered).read_text(encoding="utf-8")


def test_an_answer_that_changed_is_trained_on_again(answered: Study) -> None:
    control_arm(answered, asked(), say=silent)
    cells = answered.bench_directory("bench") / "cells"
    before = {p.stem: read_table(p) for p in cells.iterdir()}
    first = answered.selection("bench-designed")[0]
    changed = next(i for i in first if i in answered.annotations.answered())
    answered.annotations.add([Annotation(changed, "something else", source="human")], replace=True)
    control_arm(answered, asked(), say=silent)
    after = {p.stem: read_table(p) for p in cells.iterdir()}
    other = {name for name in before if not after[name].equals(before[name])}
    assert "k_center-4-seed0" in other and "base-0-seed0" not in other


def test_an_arm_that_picks_anew_is_represented_by_random_parts(study: Study) -> None:
    config = asked(strategies=["k_means"], name="anew")
    control_arm(study, config, say=silent)
    for name in (HOLDOUT, "anew-control", "anew-designed"):
        answer(study, study.selection(name)[0])
    found = control_arm(study, config, say=silent)
    assert found is not None and not found["prefix"]
    assert any("picks anew for every budget" in s and "not what it would have picked" in s for s in found["says"])


def test_what_was_answered_before_counts_for_both(study: Study) -> None:
    earlier = study.pool(["id"])["id"].to_pylist()[:5]
    answer(study, earlier)
    control_arm(study, asked(), say=silent)
    plan = read_json(study.bench_directory("bench") / "plan.json")
    assert plan["already"] == earlier
    for name in ("bench-control", "bench-designed"):
        assert not set(earlier) & set(study.selection(name)[0])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"strategies": ["k_center", "k_means"]}, "one strategy and one budget"),
        ({"budgets": [8, 16]}, "one strategy and one budget"),
        ({"strategies": ["random"]}, "one strategy and one budget"),
        ({"control": 0.05}, "is 1 prompts"),
        ({"budgets": [400]}, "budget is 300"),
        ({"strategies": ["k_centre"]}, "did you mean"),
    ],
)
def test_impossible_controls_are_refused(study: Study, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ThriftuneError, match=says):
        control_arm(study, asked(**given), say=silent)
    assert not (study.bench_directory("bench") / "plan.json").exists()


def test_other_settings_under_the_same_name_are_refused(study: Study) -> None:
    control_arm(study, asked(), say=silent)
    with pytest.raises(BenchError, match="control was 0.25, now 0.5.*strategy was k_center, now k_means"):
        control_arm(study, asked(control=0.5, strategies=["k_means"]), say=silent)


def test_one_name_is_one_kind_of_experiment(study: Study, tmp_path: Path, tiny_model: Path) -> None:
    control_arm(study, asked(), say=silent)
    other = known_study(tmp_path / "other", tiny_model)
    shutil.copytree(study.bench_directory("bench"), other.bench_directory("bench"))
    with pytest.raises(BenchError, match="is one with a control arm"):
        bench(other, settings(), say=silent)


def test_a_dry_run_selects_nothing(study: Study) -> None:
    said: Lines = []
    assert control_arm(study, asked(), dry_run=True, say=said.append) is None
    assert study.selections() == [] and "12 by k_center, 4 as a random control" in said[0]


def test_differences_by_hand() -> None:
    """Two tasks of two items, two seeds: every part worked out."""
    values = np.array([[1.0, 3.0, 0.0, 2.0], [2.0, 4.0, 2.0, 2.0]])
    tasks = np.array([0, 0, 1, 1])
    mean, error = contrast.difference(values, tasks, drawn=0.1)
    assert mean == pytest.approx(2.0)  # (2.5 + 1.5) / 2
    # Items, averaged over seeds: 1.5, 3.5 | 1, 2: variances 2 and 0.5, each item weighs a quarter.
    items = 2 * 2 / 16 + 2 * 0.5 / 16
    seeds = 0.5 / 2  # means 1.5 and 2.5: variance 0.5
    assert error == pytest.approx(np.sqrt(items + seeds + 0.1))


def test_the_interval_covers_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated projects with a difference of 0: the interval holds it at least 95 % of the time.

    Every prompt adds its own, so a mean over m prompts of a control varies between draws by the same rule as random
    halves of it do; training seeds and items add noise.
    """
    rng = np.random.default_rng(5)
    items, m, seeds = 30, 20, 5
    cells = [Cell(s, b, seed) for seed in range(seeds) for b in (m // 2, m) for s in ("random", "k_center")]
    inside, projects = 0, 400
    for _ in range(projects):
        control = rng.normal(0, 1.0, m)
        hard = rng.normal(0, 1, items)
        each = rng.normal(0, 0.3, items)  # how much better the design is on an item, 0 on average
        made = {}
        for cell in cells:
            own = rng.permutation(control)[: cell.budget].mean() if cell.strategy == "random" else 0.0
            value = own + hard + rng.normal(0, 0.05) + rng.normal(0, 0.2, items) - each * (cell.strategy != "random")
            made[cell.id] = [
                {"metric": "nll", "task": "t", "item": f"{i:03d}", "value": v} for i, v in enumerate(value.tolist())
            ]

        class Rows(list):  # type: ignore[type-arg]
            def to_pylist(self) -> list[Any]:
                return list(self)

        monkeypatch.setattr(contrast, "cell_file", lambda directory, cell: cell.id)
        monkeypatch.setattr(contrast, "read_table", lambda name, made=made: Rows(made[name]))
        one = next(r for r in contrast.compare(tmp_path, cells, "k_center") if r["budget"] == m)
        inside += one["low"] <= 0 <= one["high"]
    assert inside / projects >= 0.93  # 0.95 less two standard errors of 400 projects
