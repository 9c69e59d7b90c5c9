"""Torture: short in ``make test``, the campaigns in full where THRIFTUNE_TORTURE is set (``make torture``)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import FakeServer, Say
from runs import Warm
from stages import Bases

TORTURE = os.environ.get("THRIFTUNE_TORTURE", "") not in ("", "0")


@pytest.fixture(scope="session")
def times() -> Callable[[int, int], int]:
    """``times(short, full)``: how often, in ``make test`` and in the full campaign."""
    return lambda short, full: full if TORTURE else short


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Takes a campaign's figures (JSON values); they become one line of the file named by $THRIFTUNE_TORTURE_LOG."""
    figures: dict[str, Any] = {}
    yield figures
    log = os.environ.get("THRIFTUNE_TORTURE_LOG")
    if log and figures:
        with Path(log).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"campaign": request.node.name, "full": TORTURE, **figures}) + "\n")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Bases]:
    """A study at every stage, and a warm process in which commands run on it."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    warm = Warm(tmp_path_factory.mktemp("warm"))
    with FakeServer(lambda body, _: Say(f"Taught: {body['messages'][-1]['content'][:30]}", delay=0.01)) as server:
        made = Bases(warm, tmp_path_factory.mktemp("stages"), tiny_model, server.url)
        made.make_all()
        yield made
    warm.close()
