"""Torture: short in ``make test``, the campaigns in full where THRIFTUNE_TORTURE is set (``make torture``)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
