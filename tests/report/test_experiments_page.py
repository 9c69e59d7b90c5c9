"""What the page shows of experiments, fine-tuned models and evaluations."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from measured import RHO, write_bench, write_evaluation, write_model
from typer.testing import CliRunner

from thriftune.artifacts import provenance, write_json, write_table
from thriftune.cli.app import app
from thriftune.report.page import write_report
from thriftune.study import Study
from thriftune.types import Annotation

Payload = Callable[[str], dict[str, Any]]


def _page(study: Study) -> str:
    return write_report(study).read_text(encoding="utf-8")


def _text(html: str) -> str:
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", body).replace("\u00a0", " ").replace("&lt;", "<").replace("&gt;", ">")
    return " ".join(text.split())


def test_a_study_without_experiments_says_nothing_of_them(full_study: Study, payload: Payload) -> None:
    html = _page(full_study)
    data = payload(html)
    assert data["experiments"] == data["losses"] == []
    assert 'id="savings"' not in html and 'id="models"' not in html
    assert "Nothing on this page shows which selection trains the better model" in _text(html)


def test_verdicts_come_first_and_in_words(full_study: Study) -> None:
    analysis = write_bench(full_study)
    html = _page(full_study)
    assert html.index('id="savings"') < html.index('id="selections"')
    text = _text(html)
    for metric in analysis["metrics"]:
        for strategy in metric["strategies"]:
            assert strategy["verdict"].replace("  ", " ") in text
    assert "facility_location and task_diversity were shown to need fewer annotations than random" in text
    assert "Nothing on this page shows which" not in text
    assert "⚠" not in text  # the mark is the style sheet's
    assert "4 seeds are fewer than 8" in text
    assert "38 % [22, 50]" in text and "at least 48 %" in text and "cannot be told" in text
    # In place of random's 400 answers: 400 x 38 %, 400 x 22 %, 400 x 50 %.
    assert "150 [88, 200]" in text
    # Strategies that read task labels stand apart, at the end.
    cards = re.findall(r'<ul class="verdicts">(.*?)</ul>', html, re.DOTALL)[0]
    assert cards.index("mean_entropy") < cards.index("task_diversity")
    assert cards.count("reads task labels") == 1


def test_what_is_drawn_is_what_was_analysed(full_study: Study, payload: Payload) -> None:
    analysis = write_bench(full_study)
    (drawn,) = payload(_page(full_study))["experiments"]
    for shown, found in zip(drawn["metrics"], analysis["metrics"], strict=True):
        assert shown["metric"] == found["metric"]
        assert shown["base"] == found["base"]["mean"]
        assert shown["better"] == ("higher" if found["higher_is_better"] else "lower")
        points = {(p["strategy"], p["budget"]): p for p in found["curves"]}
        assert {line["strategy"] for line in shown["lines"]} == set(RHO)
        assert shown["lines"][0]["strategy"] == "random"
        for line in shown["lines"]:
            assert line["reads"] == (line["strategy"] == "task_diversity")
            for p in line["points"]:
                expected = points[line["strategy"], p["budget"]]
                for key in ("mean", "low", "high", "seeds"):
                    assert p[key] == pytest.approx(expected[key], rel=1e-5)
        saved = {s["strategy"]: s for s in shown["saved"]}
        for c in found["strategies"]:
            assert saved[c["strategy"]]["saved"] == (c["saved"] and pytest.approx(c["saved"], rel=1e-5))
            assert saved[c["strategy"]]["bound"] == c["bound"]


def test_warnings_of_other_metrics_stand_with_their_verdicts(full_study: Study) -> None:
    write_bench(full_study, warnings=["nll: few items", "two seeds", "exact_match: few items too"])
    html = _page(full_study)
    other = html.index("The verdict by another metric")
    assert html.index("nll: few items") < html.index("two seeds") < other < html.index("exact_match: few items too")


def test_the_metric_that_was_declared_comes_first(full_study: Study, payload: Payload) -> None:
    write_bench(full_study, metric="exact_match")
    assert [m["metric"] for m in payload(_page(full_study))["experiments"][0]["metrics"]] == ["exact_match", "nll"]


def test_costs_are_set_against_training_and_against_people(full_study: Study) -> None:
    write_bench(full_study)
    assert "No answer in this study was timed" in _text(_page(full_study))
    full_study.annotations.add(
        [Annotation(f"p{i:04d}", "x", "timed", seconds=s) for i, s in enumerate((40.0, 60.0, 500.0))]
    )
    text = _text(_page(full_study))
    assert "A person took 60 s to answer a prompt (the median of 3 timed answers)" in text
    # Scoring 95 s and choosing 1.02 s, against 244 s of fine-tuning and 60 s an answer.
    assert "facility_location 1.6 min 1 s 1.6 min 0.39 × 1.6" in text
    # 37.5 % of 400 answers at 60 s.
    assert "2.5 h" in text


@pytest.mark.parametrize(
    "damage",
    [
        "{not json",
        "[]",
        '{"metrics": 3}',
        '{"metrics": [{"metric": "nll"}]}',
        '{"budgets": ["x"], "metrics": []}',
        '{"metrics": [{"metric": "nll", "higher_is_better": false, "strategies": [{"strategy": "s", "bound": "?"}]}]}',
    ],
)
def test_a_damaged_analysis_is_named_and_the_page_is_made(full_study: Study, payload: Payload, damage: str) -> None:
    write_bench(full_study, "good")
    write_bench(full_study, "broken")
    file = full_study.bench_directory("broken") / "analysis.json"
    file.write_text(damage, encoding="utf-8")
    html = _page(full_study)
    text = _text(html)
    assert f"{file} is damaged" in text
    assert [e["name"] for e in payload(html)["experiments"]] == ["good"]
    assert "Selections" in text


def test_other_damage_is_named_too(full_study: Study) -> None:
    write_model(full_study, "tuned")
    write_evaluation(full_study, "measured")
    for file in (
        full_study.model_directory("tuned") / "log.parquet",
        full_study.evaluation_file("measured"),
    ):
        file.write_bytes(b"PAR1")
    (full_study.path / "evaluations" / "a-vs-b.judgements.parquet").write_bytes(b"")
    text = _text(_page(full_study))
    assert text.count("is damaged") >= 3


def test_numbers_that_are_not_finite_are_not_known(full_study: Study, payload: Payload) -> None:
    analysis = write_bench(full_study)
    point = analysis["metrics"][0]["curves"][0]
    point.update(low=float("-inf"), high=float("nan"))
    point["seeds"][0] = None
    analysis["metrics"][0]["strategies"][0].update(saved_low=float("-inf"))
    file = full_study.bench_directory("bench") / "analysis.json"
    file.write_text(json.dumps(analysis), encoding="utf-8")
    html = _page(full_study)
    drawn = payload(html)["experiments"][0]["metrics"][0]
    first = next(line for line in drawn["lines"] if line["strategy"] == point["strategy"])["points"][0]
    assert (first["low"], first["high"], len(first["seeds"])) == (None, None, 3)
    assert "38 % [50 or less]" in _text(html)


def test_an_experiment_under_way_says_how_far_it_is(full_study: Study, payload: Payload) -> None:
    write_bench(full_study, finished=7)
    html = _page(full_study)
    assert "7 of 80 cells are finished, so there is no verdict yet" in _text(html)
    assert payload(html)["experiments"] == []
    assert "Nothing on this page shows which" in _text(html)


def test_a_control_arm_is_told_in_its_own_words(full_study: Study) -> None:
    directory = full_study.bench_directory("arm")
    write_json(directory / "plan.json", provenance(stage="bench", control=True, cells=[], says=["Two wait <here>."]))
    assert "Two wait <here>." in _text(_page(full_study))
    write_json(directory / "analysis.json", {"name": "arm", "control": True, "says": ["The design is better.", "But."]})
    text = _text(_page(full_study))
    assert "The design is better." in text and "But." in text and text.count("Two wait") == 1  # in the record alone


def test_names_in_experiments_are_only_ever_text(full_study: Study) -> None:
    evil = "<img src=x onerror=alert(1)></script>"
    write_bench(full_study, rho={"random": 1.0, evil: 1.4}, warnings=[evil], says=evil)
    write_model(full_study, "m", selection=evil)
    write_evaluation(full_study, "e", model=evil, adapter=None)
    html = _page(full_study)
    assert "<img" not in html
    assert html.count("</script>") == 5


def test_models_and_evaluations(full_study: Study, payload: Payload) -> None:
    write_model(full_study, "short", steps=12)
    write_model(full_study, "long", steps=5000)
    rows = write_evaluation(full_study, "tuned", model="k_center-200", adapter="models/k_center-200")
    html = _page(full_study)
    losses = {m["name"]: m for m in payload(html)["losses"]}
    assert len(losses["short"]["loss"]) == 12 and losses["short"]["smooth"] is None
    assert len(losses["long"]["loss"]) <= 400 and losses["long"]["block"] == 13
    values, metric = rows["value"].to_numpy(), np.array(rows["metric"].to_pylist())
    # Ten items of each of four tasks: the mean of all items is the mean of the tasks.
    text = _text(html)
    for name in ("nll", "exact_match"):
        assert f"{values[metric == name].mean():.3f} [" in text
    assert "k_ center-200 fine-tuned heldout 40 4 tasks" in text  # the space is where the name may break
    assert "tuned.answers" not in text


def test_a_judges_comparison_is_on_the_page(full_study: Study) -> None:
    result = {"a": "k", "b": "r", "judge": "big", "items": 4, "wins": 3, "ties": 0, "losses": 1}
    result |= {"win_rate": 0.75, "low": 0.3, "high": 0.95}
    table = write_evaluation(full_study, "k").slice(0, 0)
    write_table(full_study.path / "evaluations" / "k-vs-r.judgements.parquet", table, provenance(result=result))
    assert "k against r, judged by big on 4 prompts in both orders: no difference shown." in _text(_page(full_study))


def test_only_the_latest_models_are_drawn(full_study: Study, payload: Payload) -> None:
    for i in range(15):
        write_model(full_study, f"m{i:02d}", steps=3)
    html = _page(full_study)
    assert len(payload(html)["losses"]) == 12
    assert "The latest 12 of 15 models" in _text(html)


def test_the_command_writes_figures_and_tables_beside_the_page(
    full_study: Study, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["report", str(full_study.path), *options])
        assert result.exit_code == 0, result.output
        return result.output

    beside = full_study.path / "report-figures"
    run()
    assert not beside.exists()  # nothing was measured
    write_bench(full_study, rho={"random": 1.0, "k_center": 1.3})
    run("--no-figures")
    assert not beside.exists()
    assert "(3 as PNG and SVG; 3 tables as CSV)" in run()
    names = {f.name for f in beside.iterdir()}
    assert {"bench-savings.csv", "bench-differences.csv", "bench-curves.csv"} <= names
    assert {"bench-curves-nll.png", "bench-curves-nll.svg", "bench-savings.svg"} <= names
    run("--figures", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "p.html"))
    assert (tmp_path / "elsewhere" / "bench-savings.png").exists()
    assert not (tmp_path / "p-figures").exists()
    # Without matplotlib there are still the page and the tables; figures asked for are an error.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    output = run("--out", str(tmp_path / "q.html"))
    assert "pip install 'thriftune[figures]'" in output
    assert {f.suffix for f in (tmp_path / "q-figures").iterdir()} == {".csv"}
    refused = CliRunner().invoke(app, ["report", str(full_study.path), "--figures", str(tmp_path / "no")])
    assert refused.exit_code != 0
    assert "matplotlib" in str(refused.exception)
