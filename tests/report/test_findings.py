from __future__ import annotations

import pytest

from thriftune.report.analysis import Analysis, Comparison
from thriftune.report.evidence import Evidence, Experiment
from thriftune.report.findings import BASELINE, duration, palettes, saved_words, share, signed, verdict_words
from thriftune.report.trained import judged_words


def _comparison(**changes: object) -> Comparison:
    plain = {"strategy": "s", "bound": "within", "saved": 0.38, "saved_low": 0.21, "saved_high": 0.51}
    return Comparison.model_validate({**plain, "verdict": "v", "shown": True, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "38 % [21, 51]"),
        ({"saved": -0.2, "saved_low": -1.5, "saved_high": 0.004}, "−20 % [−150, 0]"),
        ({"saved_high": None}, "38 % [21 or more]"),
        ({"saved_low": None}, "38 % [51 or less]"),
        ({"bound": "at least", "saved": 0.75, "saved_high": None}, "at least 21 %"),
        ({"bound": "at most", "saved": -3, "saved_low": None, "saved_high": -0.5}, "at most −50 %"),
        ({"bound": "unidentified", "saved": None, "saved_low": None, "saved_high": None}, "cannot be told"),
        ({"bound": "unidentified", "saved": 0.4}, "cannot be told"),
    ],
)
def test_savings_in_words(changes: dict[str, object], words: str) -> None:
    assert saved_words(_comparison(**changes)).replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("changes", "standing"),
    [
        ({}, "better"),
        ({"shown": False}, "same"),
        ({"shown": False, "saved_high": -0.1}, "worse"),
        ({"shown": False, "saved_high": None}, "same"),
        ({"shown": False, "bound": "unidentified"}, "unknown"),
    ],
)
def test_what_an_interval_says_of_a_strategy(changes: dict[str, object], standing: str) -> None:
    assert _comparison(**changes).standing == standing


def test_a_verdict_is_a_sentence_that_keeps_the_names() -> None:
    assert verdict_words("no saving shown: k_center may be anything") == "No saving shown: k_center may be anything."
    assert verdict_words("k_center needs 4 % fewer") == "k_center needs 4 % fewer."
    assert verdict_words("Done.") == "Done."


def test_numbers() -> None:
    assert (signed(0.0314), signed(-0.0314), signed(-0.0001)) == ("+0.031", "−0.031", "0.000")
    assert (share(0.384), share(-0.004), share(-2)) == ("38", "0", "−200")
    told = [duration(s).replace("\u00a0", " ") for s in (None, 0.0008, 0.023, 12.4, 89.9, 95, 5399, 5400, 90_000)]
    assert told == ["not known", "< 0.01 s", "0.023 s", "12 s", "90 s", "1.6 min", "90 min", "1.5 h", "25 h"]


def _evidence(**experiments: tuple[str, ...]) -> Evidence:
    found = []
    for name, strategies in experiments.items():
        curves = [{"strategy": s, "budget": 10, "mean": 1.0} for s in strategies]
        analysis = Analysis.model_validate({"metrics": [{"metric": "m", "higher_is_better": True, "curves": curves}]})
        found.append(Experiment(name, {}, 0, 0, analysis))
    return Evidence(experiments=found)


def test_a_strategy_has_the_colour_of_its_first_selection_and_no_two_share_one() -> None:
    new = ("random", "k_means", "k_center", "mean_entropy", "dpp")
    old = ("random", "typiclust", "gist", "v_optimal", "dpp", "k_center", "vote_k")
    found = palettes(_evidence(new=new, old=old), ["random", "mean_entropy", "k_center", "mean_entropy"])
    for colours in found.values():
        assert colours["random"] == BASELINE
        assert len({i % 6 for s, i in colours.items() if s != "random"}) == len(colours) - 1
    assert (found["new"]["mean_entropy"], found["new"]["k_center"]) == (1, 2)
    assert found["old"]["k_center"] == 2
    assert found["old"]["dpp"] == found["new"]["dpp"]


def test_more_strategies_than_colours_differ_in_their_dashes() -> None:
    many = tuple(f"s{i}" for i in range(20))
    (colours,) = palettes(_evidence(e=("random", *many)), [f"s{i}" for i in range(8, 20)]).values()
    assert len(set(colours.values())) == 21


def test_a_judge_is_told_in_one_sentence() -> None:
    result = {"a": "k", "b": "r", "judge": "big", "items": 40, "wins": 25, "ties": 5, "losses": 10}
    told = judged_words({**result, "win_rate": 0.6875, "low": 0.55, "high": 0.8})
    assert told.startswith("k against r, judged by big on 40 prompts in both orders: k is preferred.")
    assert "no difference shown" in judged_words({**result, "win_rate": 0.6, "low": 0.45, "high": 0.8})
    assert "r is preferred" in judged_words({**result, "win_rate": 0.3, "low": 0.2, "high": 0.4})
    assert "no usable verdict" in judged_words({**result, "win_rate": None, "low": 0.0, "high": 0.0})
