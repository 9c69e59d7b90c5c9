from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import write_bench
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from typer.testing import CliRunner

from thriftune import geometry
from thriftune.artifacts import provenance, write_table
from thriftune.cli.app import app
from thriftune.errors import ConfigError, StudyError
from thriftune.report.beside import write_beside
from thriftune.report.page import write_report
from thriftune.study import Study

Payload = Callable[[str], dict[str, Any]]
_PAGE = Path(sys.modules["thriftune.report.page"].__file__ or "").parent


class Page(HTMLParser):
    """Elements and text as a browser's parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    @property
    def text(self) -> str:
        return "".join("".join(t) for tag, t in self.texts.items() if tag not in ("script", "style"))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def html(full_study: Study) -> str:
    return write_report(full_study).read_text(encoding="utf-8")


def test_the_page_is_complete_and_in_the_study(full_study: Study) -> None:
    file = write_report(full_study)
    assert file == full_study.path / "report.html"
    page = Page(file.read_text(encoding="utf-8"))
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {"selections", "map", "coverage", "scores", "tasks", "picks", "cautions", "made"} <= ids
    assert [o.get("value") for o in page.all("option")][:3] == full_study.selections()
    assert "org/tiny-model" in page.text
    assert "110 prompts of 4 tasks; 2 of them are answered already" in page.text
    assert "Coverage is not accuracy" in page.text
    assert "mostly <i>one</i> task" in page.text  # a stored warning, as text
    panels = [a["data-selection"] for a in page.all("div") if a.get("class") == "panel"]
    assert panels == full_study.selections()
    assert len([a for a in page.all("details") if a.get("class") == "pick"]) == 20 + 20 + 9


def test_prompts_and_drafts_are_only_ever_text(html: str) -> None:
    page = Page(html)
    assert page.all("img") == []
    assert page.all("i") == []
    assert len(page.all("script")) == 5
    assert "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>" in page.text
    assert "\"quotes\" 'and' &amp; </script><!-- ]]> {{ 7 * 7 }} \u2028" in page.text
    assert "</td><b>tags" in page.text
    assert "Be <i>brief</i>." in page.text
    assert "line 4999 of a very long prompt" in page.text
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_the_data_survive_hostile_texts(html: str, full_study: Study, payload: Payload) -> None:
    data = payload(html)
    begin = html.index('id="data">') + len('id="data">')
    raw = html[begin : html.index("</script>", begin)]
    assert not set("<>&\u2028\u2029") & set(raw)
    by_id = dict(zip(data["points"]["id"], data["points"]["text"], strict=True))
    assert by_id["p0003"].startswith("<script>window.owned = 1</script>")
    assert by_id["p0013"].startswith("מה בירת צרפת?")
    assert data["tasks"][0]["task"] in ("sums", "poems", "</td><b>tags", "maps")


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, name, target)
    style, *_ = page.texts["style"]
    assert "url(" not in style
    assert "@import" not in style
    scripts = "".join(page.texts["script"])
    for call in ("fetch(", "XMLHttpRequest", "WebSocket", "sendBeacon", "import(", "innerHTML", "eval("):
        assert call not in scripts


def test_the_policy_allows_our_scripts_and_style_and_nothing_else(html: str) -> None:
    page = Page(html)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    assert rules["default-src"] == ["'none'"]
    assert rules["img-src"] == ["data:"]
    assert rules["base-uri"] == rules["form-action"] == ["'none'"]

    def sources(tag: str) -> list[str]:
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in inline]

    assert rules["script-src"] == sources("script")
    assert rules["style-src"] == sources("style")
    assert len(rules["script-src"]) == 4


def test_coverage_on_the_page_equals_an_independent_computation(html: str, full_study: Study, payload: Payload) -> None:
    data = payload(html)
    x = geometry.transform(full_study.embeddings(), "centre_l2")
    ids = full_study.pool(["id"])["id"].to_pylist()
    picked = {name: [ids.index(i) for i in full_study.selection(name)[0]] for name in full_study.selections()}
    everything = {row for rows in picked.values() for row in rows}
    answered = [ids.index(i) for i in ("p0005", "p0061")]
    base = [row for row in answered if row not in everything]
    for name, rows in picked.items():
        for budget, value in zip(data["coverage"]["budgets"], data["coverage"]["selections"][name], strict=False):
            near = cdist(x, x[base + rows[:budget]]).min(axis=1).mean() if base or budget else np.inf
            assert value == pytest.approx(near, rel=2e-3, abs=2e-3)
    at = data["coverage"]["budgets"].index(40)
    random = data["coverage"]["random"]
    assert random["low"][at] <= random["mean"][at] <= random["high"][at]
    change = data["coverage"]["selections"]["uncertain"][at] / random["mean"][at] - 1
    shown = re.search(r'data-selection="uncertain".*?class="change \w+">([+−])([\d.]+)', html, re.DOTALL)
    assert shown is not None
    signed = float(shown[2]) * (1 if shown[1] == "+" else -1)
    assert signed == pytest.approx(100 * change, abs=0.15)


def test_histograms_correlations_and_tasks_equal_independent_computations(
    html: str, full_study: Study, payload: Payload
) -> None:
    data = payload(html)
    scores = full_study.scores()
    lengths = scores["n_prompt_tokens"].to_numpy()
    ids = scores["id"].to_pylist()
    for name in ("mean_entropy", "min_margin"):
        column = data["columns"][name]
        values = scores[name].to_numpy()
        assert column["rho"] == pytest.approx(spearmanr(values, lengths).statistic)
        assert sum(column["pool"]) == len(values)
        edges = np.array(column["edges"])
        edges[[0, -1]] = -np.inf, np.inf
        assert column["pool"] == pytest.approx(np.histogram(values, edges)[0], abs=1)  # edges are rounded
        assert sum(column["picks"]["k_center"]) == 9
        assert column["quantiles"][50] == pytest.approx(np.median(values), rel=1e-3)
    tasks = full_study.pool(["task"])["task"].to_pylist()
    rows = [ids.index(i) for i in full_study.selection("k_center")[0]]
    for share in data["tasks"]:
        assert share["count"] == tasks.count(share["task"])
        assert share["picks"]["k_center"]["count"] == [tasks[r] for r in rows].count(share["task"])


def test_every_pick_is_on_the_map_in_pick_order(html: str, full_study: Study, payload: Payload) -> None:
    data = payload(html)
    for selection in data["selections"]:
        shown = [data["points"]["id"][p] for p in selection["points"]]
        assert shown == full_study.selection(selection["name"])[0]
    ids = full_study.pool(["id"])["id"].to_pylist()
    flat = geometry.plane(geometry.transform(full_study.embeddings(), "centre_l2"))
    rows = [ids.index(i) for i in data["points"]["id"]]
    for axis, sign in (("x", 1), ("y", -1)):
        along = flat[rows, 0 if axis == "x" else 1] * sign
        assert np.corrcoef(data["points"][axis], along)[0, 1] > 0.9999


def test_two_reports_of_one_study_differ_by_their_time_alone(full_study: Study) -> None:
    def stripped() -> str:
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", write_report(full_study).read_text(encoding="utf-8"))

    assert stripped() == stripped()


def test_selections_and_file_can_be_named(full_study: Study, tmp_path: Path, payload: Payload) -> None:
    file = write_report(full_study.path, selections=["k_center"], run="run1", out=tmp_path / "new" / "page.html")
    data = payload(file.read_text(encoding="utf-8"))
    assert [s["name"] for s in data["selections"]] == ["k_center"]
    with pytest.raises(StudyError, match="no selection 'nope'"):
        write_report(full_study, selections=["nope"])
    with pytest.raises(StudyError, match="no finished score run 'nope'"):
        write_report(full_study, run="nope")
    with pytest.raises(ConfigError, match="is a directory"):
        write_report(full_study, out=tmp_path)


def test_a_file_that_is_no_report_is_kept(full_study: Study, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"id": "a", "response": "paid work"}\n')
    with pytest.raises(ConfigError, match=r"answers.jsonl is there and no report .* with --out"):
        write_report(full_study, out=answers)
    assert "paid work" in answers.read_text()
    pool = full_study.pool_file.read_bytes()
    with pytest.raises(StudyError, match="belongs to the study"):
        write_report(full_study, out=full_study.pool_file)
    with pytest.raises(StudyError, match="belongs to the study"):
        write_beside(full_study, full_study.path / "scores")
    assert full_study.pool_file.read_bytes() == pool


def test_a_report_takes_the_place_of_a_report_or_of_an_empty_file(full_study: Study, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.touch()
    first = write_report(full_study, out=out).read_text(encoding="utf-8")
    assert "random-30" in first
    again = write_report(full_study, out=out, selections=["k_center"]).read_text(encoding="utf-8")
    assert "random-30" not in again


def test_a_report_into_a_pipe_leaves_no_figures_beside_it(full_study: Study, tmp_path: Path) -> None:
    write_bench(full_study, rho={"random": 1.0, "k_center": 1.3})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    copy = tmp_path / "copy"
    with copy.open("wb") as handle, subprocess.Popen(["cat", str(pipe)], stdout=handle) as reader:
        try:
            result = CliRunner().invoke(app, ["report", str(full_study.path), "--out", str(pipe)])
            reader.wait(timeout=30)
        finally:
            reader.kill()
    assert result.exit_code == 0, result.output
    assert copy.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert {p.name for p in tmp_path.iterdir()} == {"pipe", "copy", full_study.path.name}


def test_a_selection_of_another_pool_is_refused(full_study: Study) -> None:
    file = full_study.pool_file
    table = full_study.pool(split=None)
    write_table(file, table.slice(20), provenance())
    with pytest.raises(StudyError):
        write_report(full_study)


@pytest.mark.parametrize("tasks", [True, False])
@pytest.mark.parametrize("state", ["pool", "scores", "no embeddings", "selected"])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_poor_studies_get_a_page_too(
    make_study: Callable[..., Study], select: Callable[..., None], payload: Payload, n: int, state: str, tasks: bool
) -> None:
    study = make_study(n=n, tasks=tasks, scored=state != "pool", embedded=state != "no embeddings")
    if state in ("selected", "no embeddings"):
        select(study, "s", list(range(n)), "mean_entropy", gains=np.ones(n))
    html = write_report(study).read_text(encoding="utf-8")
    data = payload(html)
    page = Page(html)
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert ("map" in ids) == (state in ("scores", "selected"))
    assert ("tasks" in ids) == tasks
    assert ("picks" in ids) == (state in ("selected", "no embeddings"))
    assert (data["coverage"] is not None) == (state in ("scores", "selected"))
    assert len(data["points"]["id"]) == n


def test_selections_without_scores_get_cards_without_drafts(
    make_study: Callable[..., Study], select: Callable[..., None]
) -> None:
    study = make_study(n=12, scored=False)
    select(study, "s", [2, 4], "random", run=None)
    text = Page(write_report(study).read_text(encoding="utf-8")).text
    assert "By chance" in text
    assert "The model's draft" not in text


def test_a_pool_that_is_all_answered(make_study: Callable[..., Study]) -> None:
    from thriftune.types import Annotation

    study = make_study(n=5)
    study.annotations.add([Annotation(f"p{i:04d}", "answer") for i in range(5)])
    assert "5 of them are answered already" in write_report(study).read_text(encoding="utf-8")


def test_damaged_embeddings_are_named(full_study: Study) -> None:
    file = full_study.score_directory("run1") / "embeddings.npy"
    x = np.load(file)
    x[4, 0] = np.nan
    np.save(file, x)
    with pytest.raises(StudyError, match="not finite"):
        write_report(full_study)


def test_many_long_prompts_keep_the_page_small(make_study: Callable[..., Study], select: Callable[..., None]) -> None:
    study = make_study(texts=[f"{i} " + "many <words> & more " * 8000 for i in range(40)])
    select(study, "s", range(40), "random")
    select(study, "t", range(40), "random")
    file = write_report(study)
    assert file.stat().st_size < 4e6
    assert "more characters are in pool.parquet" in file.read_text(encoding="utf-8")


def test_answers_given_since_do_not_cover_beforehand(
    make_study: Callable[..., Study], select: Callable[..., None], payload: Payload
) -> None:
    from thriftune.types import Annotation

    study = make_study(n=40)
    select(study, "s", range(10), "random")
    study.annotations.add([Annotation(f"p{i:04d}", "answer") for i in (0, 1, 30)])
    html = write_report(study).read_text(encoding="utf-8")
    assert "2 picks of s have answers by now" in Page(html).text
    assert "1 answered prompt outside the selections shown is counted as covered" in Page(html).text
    assert payload(html)["coverage"]["budgets"][0] == 0


def test_the_command(full_study: Study, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    arguments = ["report", str(full_study.path), "--selections", "k_center, uncertain", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert str(out) in result.output
    assert 'value="random-30"' not in out.read_text(encoding="utf-8")


def test_clusters_are_told_as_the_selection_was_described(make_study: Callable[..., Study]) -> None:
    study = make_study()
    arguments = ["select", str(study.path), "--budget", "12", "--strategy", "facility_location", "--name", "fl"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = study.selection("fl")[2]["summary"]["clusters"]
    cell = write_report(study).read_text(encoding="utf-8").partition('data-label="Clusters">')[2].partition("</td>")[0]
    assert re.sub("<[^>]*>", "", cell) == (
        f"{told['touched']} of {told['clusters']}, random {told['random']:.0f} "
        f"{told['effective']:.0f} effective, random {told['effective_random']:.0f}"
    )


def _luminance(colour: np.ndarray) -> float:
    return float(colour @ [0.2126, 0.7152, 0.0722])


def _linear(code: str) -> np.ndarray:
    channels = np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


# Machado, Oliveira and Fernandes 2009, severity 1; OKLab, Ottosson 2020.
_BLIND = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def _oklab(linear: np.ndarray) -> np.ndarray:
    lms = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ np.clip(linear, 0, 1)
    )
    return (
        np.array(
            [
                [0.2104542553, 0.793617785, -0.0040720468],
                [1.9779984951, -2.428592205, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.808675766],
            ]
        )
        @ lms
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stay_apart_for_colour_blind_readers_and_keep_contrast(theme: str) -> None:
    css = (_PAGE / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r"color-scheme: (light|dark);(.*?)\}", css, re.DOTALL)
    for _, block in [b for b in blocks if b[0] == theme]:
        values = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        surface = _luminance(_linear(values["surface"]))

        def contrast(name: str, against: float = surface, values: dict[str, str] = values) -> float:
            light, dark = sorted([_luminance(_linear(values[name])), against], reverse=True)
            return (light + 0.05) / (dark + 0.05)

        series = [f"c{i}" for i in range(1, 7)]
        assert all(contrast(name) >= 3 for name in series)
        assert all(contrast(name) >= 4.5 for name in ("ink", "soft", "muted", "accent", "bad"))
        for mark in ("u1", "u2", "u3", "u4"):
            assert contrast("ink", _luminance(_linear(values[mark]))) >= 4.5
        for sight, matrix in _BLIND.items():
            seen = np.array([_oklab(np.array(matrix) @ _linear(values[name])) for name in [*series, "pool"]])
            apart = cdist(seen, seen) + np.eye(7)
            assert apart.min() > 0.12, (theme, sight)  # Okabe and Ito's palette has 0.076
    assert len([b for b in blocks if b[0] == "dark"]) == 2


def test_both_definitions_of_the_dark_theme_agree() -> None:
    css = (_PAGE / "page.css").read_text(encoding="utf-8")
    dark = [b for scheme, b in re.findall(r"color-scheme: (light|dark);(.*?)\}", css, re.DOTALL) if scheme == "dark"]
    first, second = (dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in dark)
    assert first == second


def test_the_record_of_every_artifact_is_there(html: str) -> None:
    page = Page(html)
    records = "".join(page.texts["pre"])
    assert '"max_new_tokens": 6' in records
    assert '"strategy": "k_center"' in records
    assert json.loads(page.texts["pre"][0])["format"] == 1
