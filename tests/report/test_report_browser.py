"""The report in a real browser; skipped where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import write_bench, write_evaluation, write_model

from thriftune.artifacts import read_json, write_json
from thriftune.report.page import write_report
from thriftune.study import Study

_BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(_BROWSER is None or _DRIVER is None, reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_DRIVER))
    yield driver
    driver.quit()


def _open(browser: Any, file: Path, width: int = 1280, *, dark: bool = False) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get("about:blank")
    for log in ("browser", "performance"):  # what came before is not this page's
        browser.get_log(log)
    browser.get(file.as_uri())


def _complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


_SELECT = """
const s = document.getElementById(arguments[0]);
s.value = arguments[1];
s.dispatchEvent(new Event('change'));
"""
_PIXELS = "return document.getElementById(arguments[0]).toDataURL()"
_KEY = """
const node = document.querySelector(arguments[0]);
node.focus();
for (const key of arguments[1]) node.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
const tip = document.getElementById('tip');
return tip.hidden ? null : tip.textContent;
"""


def test_no_complaints_no_requests_and_no_foreign_script(browser: Any, full_study: Study) -> None:
    _open(browser, write_report(full_study))
    assert browser.execute_script("return window.owned") is None
    assert _complaints(browser) == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


def test_nothing_sticks_out_on_a_phone(browser: Any, full_study: Study) -> None:
    _open(browser, write_report(full_study), 360)
    for name in full_study.selections():
        browser.execute_script(_SELECT, "selection", name)
        browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide == [360, 360]
    assert _complaints(browser) == []


def test_switching_the_selection_switches_every_figure(browser: Any, full_study: Study) -> None:
    _open(browser, write_report(full_study))
    seen = []
    for name in full_study.selections():
        browser.execute_script(_SELECT, "selection", name)
        panels = browser.execute_script(
            "return [...document.querySelectorAll('.panel')].filter(p => !p.hidden).map(p => p.dataset.selection)"
        )
        assert panels == [name]
        current = "return [...document.querySelectorAll('.stack tr.current')].map(r => r.dataset.selection)"
        assert browser.execute_script(current) == [name]
        seen.append(
            [
                browser.execute_script(_PIXELS, "map-canvas"),
                browser.execute_script(_PIXELS, "scatter-canvas"),
                browser.execute_script("return document.querySelector('#histograms .outline').getAttribute('d')"),
                browser.execute_script("return document.querySelector('#task-plot').textContent"),
            ]
        )
    for views in zip(*seen, strict=True):
        assert len(set(views)) == 3


def test_colours_of_the_map_follow_the_choice(browser: Any, full_study: Study) -> None:
    _open(browser, write_report(full_study))
    seen = set()
    for mode in ("task", "picked", "mean_entropy", "length"):
        browser.execute_script(_SELECT, "map-colour", mode)
        seen.add(browser.execute_script(_PIXELS, "map-canvas"))
    browser.execute_script(_SELECT, "map-task", "1")
    seen.add(browser.execute_script(_PIXELS, "map-canvas"))
    assert len(seen) == 5


def test_the_theme_follows_the_reader_and_can_be_switched(browser: Any, full_study: Study) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    file = write_report(full_study)
    _open(browser, file)
    light, light_map = browser.execute_script(background), browser.execute_script(_PIXELS, "map-canvas")
    _open(browser, file, dark=True)
    dark = browser.execute_script(background)
    assert dark != light
    browser.execute_script("document.getElementById('theme').click()")
    assert browser.execute_script(background) == light
    assert browser.execute_script(_PIXELS, "map-canvas") == light_map


def test_keys_reach_what_a_mouse_reaches(browser: Any, full_study: Study) -> None:
    _open(browser, write_report(full_study))
    browser.execute_script(_SELECT, "selection", "k_center")
    first = full_study.selection("k_center")[0][0]
    told = browser.execute_script(_KEY, "#map-canvas", ["ArrowRight"])
    assert told.startswith(first)
    assert "pick 1 of k_center" in told
    assert "pick 2 of k_center" in browser.execute_script(_KEY, "#scatter-canvas", ["ArrowRight", "ArrowRight"])
    assert "random" in browser.execute_script(_KEY, "#coverage-plot", ["ArrowRight"])
    assert "pool" in browser.execute_script(_KEY, "[data-column=mean_entropy] .plot", ["ArrowRight"])
    assert "nats" in browser.execute_script(_KEY, ".panel:not([hidden]) .draft", ["ArrowRight", "ArrowRight"])
    assert browser.execute_script(_KEY, "#map-canvas", ["Escape"]) is None


def test_pointing_at_a_pick_names_it(browser: Any, full_study: Study) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    _open(browser, write_report(full_study, selections=["k_center"]))
    canvas = browser.find_element("id", "map-canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
    tip = browser.find_element("id", "tip")
    found = set()
    size = canvas.size
    for dx in np.linspace(-0.35, 0.35, 15):
        for dy in (-0.2, 0, 0.2):
            ActionChains(browser, duration=0).move_to_element_with_offset(
                canvas, int(dx * size["width"]), int(dy * size["height"])
            ).perform()
            if tip.is_displayed():
                found.add(tip.text.split("\n")[0])
    assert found
    assert found <= set(full_study.pool(["id"])["id"].to_pylist())


def test_the_budget_axis_can_be_linear(browser: Any, full_study: Study) -> None:
    _open(browser, write_report(full_study))
    line = "return document.querySelector('#coverage-plot .line').getAttribute('points')"
    before = browser.execute_script(line)
    browser.execute_script("document.querySelector('[data-axis=linear]').click()")
    assert browser.execute_script(line) != before


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("state", ["pool", "scores", "no embeddings", "no tasks"])
def test_poor_studies_draw_without_complaints(
    browser: Any, make_study: Callable[..., Study], select: Callable[..., None], state: str, width: int
) -> None:
    study = make_study(
        n=1 if state == "scores" else 20,
        tasks=state != "no tasks",
        scored=state != "pool",
        embedded=state != "no embeddings",
    )
    if state.startswith("no"):
        select(study, "s", range(len(study.pool(["id"]))), "random")
    _open(browser, write_report(study), width)
    assert _complaints(browser) == []
    # At most: a desktop's scroll bar takes its share.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.fixture
def measured_study(full_study: Study) -> Study:
    write_bench(full_study, "older", rho={"random": 1.0, "k_center": 1.2})
    plan = full_study.bench_directory("older") / "plan.json"
    write_json(plan, {**read_json(plan), "created": "2026-01-01T00:00:00+00:00"})
    write_bench(full_study, "newer")
    write_model(full_study, "tuned", steps=90)
    write_evaluation(full_study, "tuned")
    return full_study


def test_experiments_are_drawn_without_complaint_and_fit_their_place(browser: Any, measured_study: Study) -> None:
    file = write_report(measured_study)
    for width, dark in ((1280, False), (1280, True), (360, False)):
        _open(browser, file, width, dark=dark)
        folded = browser.execute_script(
            "return [...document.querySelectorAll('.experiment')].map(e => [e.querySelector('h3').textContent, e.open])"
        )
        assert folded == [["Experiment newer", True], ["Experiment older", False]]
        browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        # The fold's event comes after the script.
        sizes = browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done("
            "[...document.querySelectorAll('.curves, .saved, .loss')]"
            ".map(p => [p.clientWidth, p.firstChild.clientWidth]))))"
        )
        assert len(sizes) == 2 * 3 + 1
        assert all(place == drawn for place, drawn in sizes), sizes
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        marks = "return document.querySelectorAll('[data-experiment=\"0\"] .saved .dot').length"
        assert browser.execute_script(marks) == 7  # four strategies by two metrics, one of which cannot be told
        assert _complaints(browser) == []


def test_no_label_of_a_figure_leaves_it(browser: Any, measured_study: Study) -> None:
    file = write_report(measured_study)
    for width in (1280, 760, 360):
        _open(browser, file, width)
        out = browser.execute_script(
            "const out = []; for (const plot of document.querySelectorAll('.experiment[open] .plot[role], .loss')) {"
            "const box = plot.getBoundingClientRect();"
            "for (const text of plot.querySelectorAll('text')) { const t = text.getBoundingClientRect();"
            "if (t.left < box.left - 2 || t.right > box.right + 2 || t.bottom > box.bottom + 2)"
            "out.push(text.textContent); }"
            "} return out"
        )
        assert out == [], width


def test_keys_reach_the_numbers_of_experiments(browser: Any, measured_study: Study) -> None:
    _open(browser, write_report(measured_study))
    told = browser.execute_script(_KEY, ".curves", ["ArrowRight", "ArrowRight"])
    assert told.startswith("100 annotations")
    # Lower is better: the strategy that needs fewest comes first.
    assert told.index("task_diversity") < told.index("facility_location") < told.index("mean_entropy")
    assert "38 % [22, 50]" in browser.execute_script(_KEY, ".saved", ["ArrowRight"]).replace("\u00a0", " ")
    assert "moving average of" in browser.execute_script(_KEY, ".loss", ["ArrowRight"])
