"""Connections that dawdle: each may wait so long for a request to be complete, and so many may wait at once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

_WAIT_SECONDS = 60.0
_MOST_WAITING = 4096


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, which of itself waits for ever for the rest of a request's head.

    A browser that is cut off opens a new connection without a word, so closing one that waits costs nobody anything.
    Reading the body of a request that is let in has a limit of its own.
    """

    waiting: ClassVar[dict[PatientProtocol, asyncio.TimerHandle]] = {}
    most: ClassVar[int] = _MOST_WAITING

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._go()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._go()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._go()
        if not self.transport.is_closing():
            self._wait()

    def _wait(self) -> None:
        # The clock runs from here, whatever trickles in.
        self.waiting[self] = self.loop.call_later(_WAIT_SECONDS, self.transport.abort)
        if len(self.waiting) > self.most:
            longest = next(iter(self.waiting))
            longest._go()
            longest.transport.abort()

    def _go(self) -> None:
        timer = self.waiting.pop(self, None)
        if timer is not None:
            timer.cancel()


def allow_many_connections() -> None:
    """Let the process have as many connections as the system lets it, and keep some files for other uses."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        resource: Any = __import__("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * _MOST_WAITING
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        if soft != resource.RLIM_INFINITY:
            PatientProtocol.most = min(_MOST_WAITING, max(soft // 2, 16))
