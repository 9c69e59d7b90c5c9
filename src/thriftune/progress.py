"""Progress bars with rate and ETA; silent in the library unless the command line turns them on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE_S = 1.0  # work shorter than this shows no bar
_LOG_EVERY_S = 30.0  # where there is no terminal to redraw, a line this often
_enabled = False

Advance = Callable[[float], None]


def enable(on: bool = True) -> None:
    """Turn progress display on or off for this process."""
    global _enabled  # noqa: PLW0603 (one switch for the process, set once by the command line)
    _enabled = on


@contextlib.contextmanager
def progress(description: str, total: float, unit: str = "prompts", done: float = 0) -> Iterator[Advance]:
    """Show a bar with rate and ETA while the block runs.

    Args:
        description: what is being done.
        total: how much there is to do, in ``unit``.
        unit: what is counted.
        done: how much an earlier, interrupted run already did; it does not count towards the rate.

    Yields:
        A function to call with how much was done since the last call.
    """
    if not _enabled:
        yield _ignore
        return
    display = _Bar(description, total, unit, done)
    try:
        yield display.advance
    finally:
        display.close()


def _ignore(amount: float) -> None:
    pass


class _Bar:
    def __init__(self, description: str, total: float, unit: str, done: float) -> None:
        self.description, self.total, self.unit, self.start = description, total, unit, done
        self.done = done
        self.began = self.logged = time.monotonic()
        self.live: Progress | None = None
        self.terminal = sys.stderr.isatty()

    def _rate(self) -> float:
        return (self.done - self.start) / max(time.monotonic() - self.began, 1e-9)

    def advance(self, amount: float) -> None:
        self.done += amount
        now = time.monotonic()
        if self.terminal:
            if self.live is None and now - self.began >= _PATIENCE_S:
                self.live = self._open()
            if self.live is not None:
                self.live.update(self.task, completed=self.done, rate=f"{self._rate():,.1f} {self.unit}/s")
        elif now - self.logged >= _LOG_EVERY_S:
            self.logged = now
            left = (self.total - self.done) / max(self._rate(), 1e-9)
            share = self.done / max(self.total, 1e-9)
            print(
                f"{self.description}: {self.done:,.0f}/{self.total:,.0f} {self.unit} ({share:.0%}), "
                f"{self._rate():,.1f} {self.unit}/s, {left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )

    def _open(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        live.start()
        self.task = live.add_task(self.description, total=self.total, completed=int(self.done), rate="")
        return live

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
