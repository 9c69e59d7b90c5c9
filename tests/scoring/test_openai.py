"""Scores of a server: its log-probabilities, faults, resuming, prompts it finds too long."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from model_server import FakeServer, Raw, Status
from test_run import make_study

from thriftune.artifacts import read_json
from thriftune.config import ScoreConfig
from thriftune.endpoint import Completion
from thriftune.errors import EndpointError, ScoreError
from thriftune.scoring.openai import NoLogprobs, read_answer, shortened
from thriftune.scoring.run import score
from thriftune.scoring.served import lay_out

TEXTS = [*(f"Question {i}" for i in range(20)), "Question 3"]


def step(token, p, others=(0.1, 0.05), **more):
    top = [{"token": token, "logprob": math.log(p)}, *({"token": "?", "logprob": math.log(q)} for q in others)]
    return {"token": token, "logprob": math.log(p), "bytes": list(token.encode()), "top_logprobs": top, **more}


def chat(steps, finish="stop", text=None, usage=True, **more):
    text = "".join(s["token"] for s in steps) if text is None else text
    logprobs = {"content": steps}
    body = {"choices": [{"message": {"content": text}, "finish_reason": finish, "logprobs": logprobs}], **more}
    if usage:
        body["usage"] = {"prompt_tokens": 7, "completion_tokens": len(steps)}
    return Raw(json.dumps(body).encode())


def answer(body, _number):
    number = int(body["messages"][-1]["content"].split()[1])
    return chat([step("yes", 0.5 + number / 100), step("", 0.8)], text="yes")


def settings(server, **changes):
    return ScoreConfig(backend="openai", endpoint=server.url, model="teacher", max_new_tokens=8, retries=1, **changes)


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study", TEXTS)


def test_columns(study):
    said = []
    with FakeServer(answer) as server:
        directory = score(study, settings(server), say=said.append)
        assert len(server.bodies) == 20  # equal prompts once
        assert {b["logprobs"] for b in server.bodies} == {True}
        assert {(b["top_logprobs"], b["temperature"], b["max_tokens"]) for b in server.bodies} == {(20, 0.0, 8)}
    table = study.scores().to_pydict()
    p = 0.5 + 5 / 100
    assert table["least_confidence"][5] == pytest.approx(-math.log(p) - math.log(0.8), rel=1e-6)
    assert table["mean_nll"][5] == pytest.approx((-math.log(p) - math.log(0.8)) / 2, rel=1e-6)
    assert table["mean_margin"][5] == pytest.approx(1 - ((p - 0.1) + 0.7) / 2, rel=1e-6)
    assert table["min_margin"][5] == pytest.approx(1 - (p - 0.1), rel=1e-6)
    assert table["mean_tail"][5] == pytest.approx((1 - p - 0.15 + 0.05) / 2, rel=1e-5)
    assert table["mean_entropy"][5] == pytest.approx(
        (table["mean_entropy_lower"][5] + table["mean_entropy_upper"][5]) / 2
    )
    assert table["mean_entropy_lower"][5] < table["mean_entropy_upper"][5]
    assert table["max_entropy_lower"][5] < table["max_entropy"][5] < table["max_entropy_upper"][5]
    assert table["max_entropy"][5] == pytest.approx(max(table["token_entropies"][5]))
    assert table["response"][5] == "yes" and table["token_ends"][5] == [3, 3] and table["n_steps"][5] == 2
    assert table["n_prompt_tokens"][5] == 7 and table["end_scored"][5] and not table["hit_limit"][5]
    assert table["mean_nll"][20] == table["mean_nll"][3]
    assert "prompt_nll" not in table and "embedding_scale" not in table
    assert sorted(f.name for f in directory.iterdir()) == ["manifest.json", "scores.parquet"]
    assert any("no embeddings" in line for line in said) and any("20 calls" in line for line in said)
    assert study.candidates().embeddings is None and "mean_entropy" in study.candidates().scores
    manifest = read_json(directory / "manifest.json")
    assert manifest["ends"] == {"reported": 20, "omitted": 0}
    with FakeServer(answer) as other:  # a server that moved is no other setting
        score(study, settings(other), say=said.append)
        assert not other.bodies
    assert "nothing to do" in said[-1]
    with pytest.raises(ScoreError, match="top_logprobs was 20, now 5"):
        score(study, settings(server, top_logprobs=5))


def test_what_came_stays_and_the_rest_is_asked(study):
    def dies(body, number):
        return answer(body, number) if number < 12 else Status(401, {"error": "no longer"})

    with FakeServer(dies) as server, pytest.raises(EndpointError, match="refuses us"):
        score(study, settings(server, concurrency=1))
    assert study.score_runs() == []
    with FakeServer(answer) as server:
        score(study, settings(server))
        assert len(server.bodies) == 8
    assert study.scores()["n_steps"].to_pylist() == [2] * 21


def test_a_prompt_too_long_is_cut_and_flagged(tmp_path):
    study = make_study(tmp_path / "study", ["short", "a" * 500 + "b" * 500])

    def small(body, _number):
        if len(body["messages"][-1]["content"]) > 600:
            message = "the request exceeds the available context size, try increasing it"
            return Status(400, {"error": {"message": message}})
        return chat([step("yes", 0.5)])

    with FakeServer(small) as server:
        score(study, settings(server))
        asked = max(server.prompts[-1:], key=len) if len(server.prompts[-1]) > 5 else server.prompts[-2]
    assert len(asked) <= 600 and asked.startswith("aa") and asked.endswith("bb")
    assert study.scores()["truncated_prompt"].to_pylist() == [False, True]


def test_few_refused_prompts_count_as_certain_many_stop(study, tmp_path):
    def filters(body, number):
        if body["messages"][-1]["content"] == "Question 4":
            return Status(400, {"error": "content management policy"})
        return answer(body, number)

    said = []
    with FakeServer(filters) as server:
        score(study, settings(server), say=said.append)
    assert study.scores()["n_steps"].to_pylist()[4] == 0 and study.scores()["mean_nll"].to_pylist()[4] == 0
    assert any("1 prompts are refused" in line and "'p0004'" in line for line in said)
    with FakeServer(lambda *_: Status(400, {"error": "content policy"})) as server, pytest.raises(EndpointError):
        score(study, settings(server, name="other"))


@pytest.mark.parametrize(
    ("behave", "error", "words"),
    [
        (lambda *_: chat([], text="yes"), ScoreError, "answers without log-probabilities"),
        (lambda *_: chat([step("yes", 0.5, ())]), ScoreError, "fewer than two"),
        (lambda *_: Status(400, {"error": "logprobs are not supported"}), ScoreError, "smaller --top-logprobs"),
        (lambda *_: chat([{**step("x", 0.5), "logprob": math.log(0.1)}]), ScoreError, "does not answer greedily"),
        (lambda *_: Status(404, {"error": "no such model"}), EndpointError, "has no model 'teacher' .there: other"),
        (lambda *_: Status(429, {"error": "slow down"}), EndpointError, "serves nothing after 2 tries"),
    ],
)
def test_servers_that_cannot_be_used(study, behave, error, words):
    with FakeServer(behave, models=["other"]) as server, pytest.raises(error, match=words):
        score(study, settings(server))
    assert not (study.path / "scores" / "default" / "scores.parquet").exists()


def test_a_server_that_is_not_there_leaves_nothing(study):
    with FakeServer(answer) as server:
        gone = settings(server)
    with pytest.raises(EndpointError, match="is it running"):
        score(study, gone)
    assert not (study.path / "scores").exists()


def test_rate_limits_are_waited_out(study):
    def limited(body, number):
        return Status(429, {}, {"retry-after": "0.05"}) if number % 5 == 0 else answer(body, number)

    with FakeServer(limited) as server:
        score(study, ScoreConfig(backend="openai", endpoint=server.url, model="teacher"))
    assert study.scores().num_rows == 21


def test_without_usage_lengths_are_estimates(study):
    said = []
    with FakeServer(lambda *_: chat([step("yes", 0.5)], usage=False)) as server:
        score(study, settings(server), say=said.append)
    assert study.scores()["n_prompt_tokens"].to_pylist()[:2] == [2, 2]
    assert any("does not report usage" in line for line in said)


def test_a_spending_limit_stops_and_a_rerun_goes_on(study):
    with FakeServer(answer) as server, pytest.raises(EndpointError, match="prompts were not asked"):
        score(study, settings(server, concurrency=1, budget_tokens=400))
    done = len(server.bodies)
    assert 0 < done < 20
    with FakeServer(answer) as server:
        score(study, settings(server))
        assert len(server.bodies) == 20 - done


def test_refusing_the_cost_sends_nothing(study):
    with FakeServer(answer) as server, pytest.raises(EndpointError, match="nothing was sent"):
        score(study, settings(server), agree=lambda _: False)
    assert not server.bodies


def test_how_long_it_takes_is_said(tmp_path):
    said = []
    study = make_study(tmp_path / "study", [f"Question {i}" for i in range(30)])
    with FakeServer(answer) as server:
        score(study, settings(server, concurrency=2), say=said.append)
        assert sorted(server.prompts) == sorted(f"Question {i}" for i in range(30))
    assert any("min at the rate of the first 4 prompts" in line for line in said)


def test_embeddings_of_the_same_server(study):
    def both(body, number):
        if "input" in body:
            rows = [{"index": i, "embedding": [float(t.split()[1]), 1.0]} for i, t in enumerate(body["input"])]
            return Raw(json.dumps({"data": rows[::-1], "usage": {"prompt_tokens": 3}}).encode())
        return answer(body, number)

    with FakeServer(both) as server:
        score(study, settings(server, embedder="endpoint:vectors"))
        assert {b["model"] for b in server.bodies if "input" in b} == {"vectors"}
    expected = [[float(t.split()[1]), 1.0] for t in TEXTS]
    np.testing.assert_allclose(study.embeddings(), expected, rtol=1e-3)


def test_a_server_without_embeddings_says_so_and_scores_stay(study):
    def none(body, number):
        if "input" in body:
            return Status(501, {"error": {"message": "This server does not support embeddings"}})
        return answer(body, number)

    with FakeServer(none) as server, pytest.raises(EndpointError, match="does not support embeddings"):
        score(study, settings(server, embedder="endpoint:vectors"))
    assert len(list((study.path / "scores" / "default" / "parts").iterdir())) == 1


def test_where_tokens_end():
    # A character of two tokens, and an end token with text of its own.
    pieces = [b"Stra", "ß".encode()[:1], "ß".encode()[1:], b"e", b"<|im_end|>"]
    assert lay_out(pieces, "Straße", stopped=True) == ("Straße", [4, 4, 5, 6, 6], True)
    assert lay_out(pieces[:4], "Straße", stopped=True) == ("Straße", [4, 4, 5, 6], False)
    assert lay_out([b" a", b"b", b""], "ab", stopped=True) == ("ab", [1, 2, 2], True)
    assert lay_out([b"think", b"</t>", b"yes"], "yes", stopped=True) == ("yes", [0, 0, 3], False)
    assert lay_out([b"yes"], "yes", stopped=False) == ("yes", [3], False)


def test_answers_of_other_servers():
    bare = {"token": "a", "logprob": -0.5, "top_logprobs": [{"logprob": -1.0}]}  # the token itself left out
    found = read_answer(Completion("a", "length", None, {"content": [bare]}))
    assert sorted(found.top[0]) == [-1.0, -0.5] and found.hit_limit and found.tokens is None
    ids = read_answer(Completion("a", "stop", None, {"content": [step("a", 0.5, id=12)]}))
    assert ids.tokens == [12]
    assert len(read_answer(Completion("", "stop", None, None)).chosen) == 0
    assert read_answer(Completion("a", "stop", None, {"content": [step("a", 0.5, id=2**40)]})).tokens is None
    odd = [{"token": "a"}, {"token": "a", "logprob": "x"}, {**step("a", 0.5), "logprob": -math.inf}]
    odd += [{**step("a", 0.5), "logprob": 1e300}, {**step("a", 0.5), "bytes": [999]}, "text", None]
    for data in (None, {}, [], *({"content": [o]} for o in odd)):
        with pytest.raises(NoLogprobs):
            read_answer(Completion("a", "stop", None, data))


def test_only_the_middle_of_the_longest_user_turn_goes():
    turns = [{"role": "system", "content": "s" * 999}, {"role": "user", "content": "a" * 50 + "b" * 50}]
    cut = shortened(turns)
    assert cut[0] == turns[0] and cut[1]["content"] == "a" * 37 + "b" * 37
    assert shortened([{"role": "user", "content": "short"}]) is None


def test_ctrl_c_keeps_what_came(study):
    def slow(body, number):
        reply = answer(body, number)
        if number >= 6:
            os.kill(process.pid, signal.SIGINT)
            time.sleep(5)
        return reply

    with FakeServer(slow) as server:
        command = ["score", str(study.path), "--backend", "openai", "--endpoint", server.url, "--model", "teacher"]
        process = subprocess.Popen(
            [sys.executable, "-m", "thriftune.cli.main", *command, "--concurrency", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command continues" in errors
    assert "6 of 20 prompts scored" in said
    with FakeServer(answer) as server:
        score(study, ScoreConfig(backend="openai", endpoint=server.url, model="teacher"))
        assert len(server.bodies) == 14
