from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from thriftune import progress


@pytest.fixture
def enabled() -> Iterator[None]:
    progress.enable()
    yield
    progress.enable(False)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_the_library_is_silent(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_enabled", False)  # whatever ran in this process before
    with progress.progress("scoring", 10) as advance:
        clock.now += 100
        advance(5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("enabled")
def test_without_a_terminal_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    # 400 were done by an earlier run: 100 more in 50 s is 2 a second, and 500 are left.
    with progress.progress("scoring", 1000, done=400) as advance:
        clock.now += 20
        advance(40)
        assert capsys.readouterr().err == ""
        clock.now += 30
        advance(60)
        assert capsys.readouterr().err == "scoring: 500/1,000 prompts (50%), 2.0 prompts/s, 4.2 min left\n"
        clock.now += 5
        advance(1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("enabled")
def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("quick", 3) as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("enabled")
def test_a_terminal_gets_a_bar_with_rate_and_eta(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.progress("scoring", 10) as advance:
        clock.now += 2
        advance(5)
    assert "scoring" in shown.getvalue()
    assert "5/10" in shown.getvalue()
    assert "2.5 prompts/s" in shown.getvalue()
    assert "ETA" in shown.getvalue()


@pytest.mark.usefixtures("enabled")
def test_an_exception_closes_the_bar_and_passes(clock: Clock) -> None:
    def fail() -> None:
        with progress.progress("scoring", 10) as advance:
            clock.now += 2
            advance(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
