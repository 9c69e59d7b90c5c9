"""Requests made up from the server's own description (schemathesis): no bug, no status that is not described."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from web_server import Server, make_study

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("uvicorn")

TOKEN = "a-token-of-the-campaign"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    study = make_study(tmp_path_factory.mktemp("openapi") / "study", [f"Question {i}?" for i in range(40)], 30)
    running = Server(study.path, "--host", "0.0.0.0", "--port", "0", "--reserve", "0", "--token", TOKEN)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def described(server: Server) -> dict[str, Any]:
    reply = httpx.get(f"{server.root}/api/openapi.json", headers={"authorization": f"Bearer {TOKEN}"})
    return dict(reply.json())


def test_the_description_is_guarded_and_complete(server: Server, described: dict[str, Any]) -> None:
    assert httpx.get(f"{server.root}/api/openapi.json").status_code == 401
    static = Path(__file__).parents[2] / "src" / "thriftune" / "annotation" / "web" / "static"
    import re

    script = "".join(file.read_text() for file in static.glob("*.js"))
    asked = {f"/api/{path}" for path in re.findall(r"\b(?:get|post|act)\('(\w+)'", script)}
    assert asked and asked <= set(described["paths"])


@pytest.mark.parametrize("token", [True, False], ids=["with the token", "without"])
def test_made_up_requests(
    server: Server,
    described: dict[str, Any],
    token: bool,
    times: Callable[[int, int], int],
    campaign: dict[str, Any],
) -> None:
    from schemathesis.generation import GenerationMode

    schema = schemathesis.openapi.from_dict(described)
    seen: Counter[int] = Counter()
    examples = times(4, 120) if token else times(2, 40)
    with httpx.Client(base_url=server.root, timeout=30) as client:
        if token:
            client.headers["authorization"] = f"Bearer {TOKEN}"
        for result in schema.get_all_operations():
            operation = result.ok()
            responses = described["paths"][operation.path][operation.method.lower()]["responses"]
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                def check(case: Any, known: set[str] = {*responses, "404", "405"}, mode: Any = mode) -> None:  # noqa: B006
                    reply = send(client, case)
                    if reply is None:
                        return
                    seen[reply.status_code] += 1
                    told = (case.as_curl_command(), reply.status_code, reply.text[:500])
                    if not token:
                        assert reply.status_code in (401, 403, 413, 415, 421) and "Question" not in reply.text, told
                        return
                    assert reply.status_code < 500 and str(reply.status_code) in known, told
                    if reply.status_code != 200 and reply.headers["content-type"] == "application/json":
                        assert reply.json()["error"]
                    if mode is GenerationMode.POSITIVE:
                        # Well-formed, and refused all the same: prompts that are not there, names of blanks.
                        assert reply.status_code in (200, 400, 409, 422), told

                with contextlib.suppress(*_NOTHING_TO_VIOLATE):
                    run(operation.as_strategy(generation_mode=mode), check, examples)
    campaign.update(requests=sum(seen.values()), statuses={str(k): v for k, v in sorted(seen.items())})


# An operation without fields has no wrong ones.
_NOTHING_TO_VIOLATE = tuple(
    found
    for found in (
        getattr(schemathesis.errors, "SchemathesisError", None),
        getattr(__import__("hypothesis").errors, "Unsatisfiable", None),
    )
    if found is not None
)


def run(cases: Any, check: Callable[[Any], None], examples: int) -> None:
    @given(case=cases)
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    def one(case: Any) -> None:
        check(case)

    one()


def send(client: httpx.Client, case: Any) -> httpx.Response | None:
    """The case as it is, and not as a client library would mend it."""
    arguments = case.as_transport_kwargs()
    headers = {k: v for k, v in (arguments.get("headers") or {}).items() if k.lower() != "authorization"}
    try:
        return client.request(
            arguments["method"],
            arguments["url"] if "://" in arguments["url"] else client.base_url.join(arguments["url"]),
            params=arguments.get("params") or None,
            json=arguments.get("json"),
            content=arguments.get("data") if isinstance(arguments.get("data"), (bytes, str)) else None,
            headers=headers,
        )
    except (ValueError, TypeError, UnicodeError, httpx.InvalidURL, httpx.LocalProtocolError):
        return None  # what no client can put on the wire
