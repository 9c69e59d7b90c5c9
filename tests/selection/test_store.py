"""Selections of a study: their names, their record, reading them back and cutting them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from thriftune.config import SelectConfig, resolve
from thriftune.errors import ConfigError, StrategyError, StudyError
from thriftune.selection.cut import cut
from thriftune.selection.run import select
from thriftune.selection.store import choose, load
from thriftune.study import Study


def wanted(**settings: object) -> SelectConfig:
    return SelectConfig.model_validate({"strategy": "k_center", "budget": 6, **settings})


def test_what_is_stored_says_what_made_it(make_study: Callable[..., Study]) -> None:
    study = make_study()
    chosen = choose(study, wanted(params={"start": "random"}, seed=4))
    assert chosen.name == "k_center-6-seed4"
    assert chosen.file.exists()
    ids, gains, record = study.selection(chosen.name)
    direct = select(study, "k_center", 6, seed=4, start="random")
    assert ids == direct.ids.tolist()
    assert gains is not None
    assert gains.tolist() == direct.gains.tolist()  # type: ignore[union-attr]
    assert record["strategy"] == "k_center"
    assert record["budget"] == 6
    assert record["seed"] == 4
    assert record["run"] == "default"
    assert record["params"] == {
        "start": "random",
        "device": "cpu",
        "transform": "centre_l2",
        "duplicates": "last",
    }
    assert record["certificate"]["radius"] == 2 * record["certificate"]["lower_bound"]
    assert record["summary"]["picks"] == 6
    assert record["warnings"] == chosen.warnings
    assert set(record["inputs"]) == {"pool", "scores"}
    assert record["versions"]["thriftune"]


def test_the_same_settings_write_again_others_are_refused(make_study: Callable[..., Study]) -> None:
    study = make_study()
    first = choose(study, wanted())
    assert choose(study, wanted()).file == first.file
    with pytest.raises(StrategyError, match=r"'k_center-6' exists with other settings \(params .*--name, or --replace"):
        choose(study, wanted(params={"transform": "l2"}))
    with pytest.raises(StrategyError, match="exists with other settings"):
        choose(study, wanted(duplicates="keep"))
    assert choose(study, wanted(budget="10%")).name == "k_center-6"
    assert choose(study, wanted(params={"transform": "l2"}), replace=True).file == first.file
    assert choose(study, wanted(name="mine")).name == "mine"


def test_a_damaged_selection_is_not_overwritten_unasked(make_study: Callable[..., Study]) -> None:
    study = make_study()
    file = choose(study, wanted()).file
    file.write_bytes(b"nothing")
    with pytest.raises(StrategyError, match="cannot be read: use --name or --replace"):
        choose(study, wanted())
    choose(study, wanted(), replace=True)


def test_names_that_cannot_be(make_study: Callable[..., Study]) -> None:
    study = make_study()
    with pytest.raises(StudyError, match="not usable as a file name"):
        choose(study, wanted(name="../out"))
    with pytest.raises(StrategyError, match="all prompts of that part of the study"):
        choose(study, wanted(name="holdout"))


def test_a_reference_can_be_a_stored_selection(make_study: Callable[..., Study]) -> None:
    study = make_study()
    choose(study, wanted(strategy="mean_entropy", name="top"))
    chosen = choose(study, wanted(strategy="length_matched_random", params={"reference": "top"}))
    assert chosen.selection.params["reference"] == "top"
    assert study.selection(chosen.name)[2]["params"]["reference"] == "top"
    with pytest.raises(StudyError, match="no selection 'none'"):
        choose(study, wanted(strategy="length_matched_random", params={"reference": "none"}, name="other"))


def test_a_stored_selection_comes_back_and_can_be_cut(make_study: Callable[..., Study]) -> None:
    study = make_study()
    choose(study, wanted(budget=20))
    stored = load(study, "k_center-20")
    direct = select(study, "k_center", 20)
    assert stored.ids.tolist() == direct.ids.tolist()
    assert stored.rows.tolist() == direct.rows.tolist()
    shorter = cut(stored, 5)
    alone = select(study, "k_center", 5)
    assert shorter.ids.tolist() == alone.ids.tolist()
    assert shorter.certificate == pytest.approx(alone.certificate)
    with pytest.raises(StrategyError, match="can be cut to 1 to 20"):
        cut(stored, 21)


def test_the_default_and_its_reason_are_recorded(make_study: Callable[..., Study]) -> None:
    study = make_study(scored=False)
    chosen = choose(study, SelectConfig(budget="6"))
    assert chosen.name == "random_within_task-6"
    assert study.selection(chosen.name)[2]["notes"]["default"].startswith("there are no embeddings")
    assert chosen.run is None


def test_impossible_settings_are_refused_before_any_work(make_study: Callable[..., Study]) -> None:
    with pytest.raises(ConfigError, match="budget"):
        resolve(SelectConfig, "select", {"budget": "many"})
    with pytest.raises(StrategyError, match="budget is 61: give 1 to 60"):
        choose(make_study(), wanted(budget=61))


def test_a_column_of_costs_that_is_not_there_is_told_before_what_it_would_change(
    make_study: Callable[..., Study],
) -> None:
    study = make_study()
    settings = {"strategy": "facility_location", "costs": "n_chars", "budget_cost": 900.0}
    choose(study, SelectConfig(**settings, name="bought"))
    with pytest.raises(StrategyError, match=r"no column 'n_char' to take costs from: choose one of n_chars"):
        choose(study, SelectConfig(**{**settings, "costs": "n_char"}, name="bought"))


def test_a_run_without_embeddings_is_advised_to_get_some(make_study: Callable[..., Study]) -> None:
    study = make_study()
    (study.score_directory("default") / "embeddings.npy").unlink()
    with pytest.raises(StrategyError, match=r"needs embeddings, .*: run: thriftune embed \S+ --run default --embedder"):
        choose(study, wanted())
