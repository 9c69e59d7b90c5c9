"""Commands of thriftune in forks of a warm process, struck by signals at chosen moments."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from power import attach

_PATIENCE_S = 300.0  # a busy machine is no failure


@dataclass(frozen=True)
class Operation:
    """Something done to a file of the study: seconds since the start, what, and to which."""

    time: float
    what: str
    path: str


@dataclass(frozen=True)
class Ended:
    """A command that ended.

    Args:
        code: exit status; negative for a signal.
        said: all that it printed.
        operations: what it did to files.
        cpu: seconds of CPU.
        hung: it had to be ended by the test.
    """

    code: int
    said: str
    operations: list[Operation]
    cpu: float
    hung: bool


class Running:
    """A command at work.

    Args:
        warm: its parent.
        pid: of the process.
        place: where its output, journal and counter are.
    """

    def __init__(self, warm: Warm, pid: int, place: Path, shared: mmap.mmap) -> None:
        self.warm, self.pid, self.place, self._shared = warm, pid, place, shared
        self.tracer: subprocess.Popen[str] | None = None

    @property
    def done(self) -> int:
        """Operations on files so far."""
        return int(struct.unpack_from("q", self._shared, 0)[0])

    @property
    def alive(self) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def strike(self, after: int, delay: float, number: int) -> None:
        """Send a signal ``delay`` seconds after the operation numbered ``after``."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.done < after and self.alive and time.monotonic() < deadline:
            time.sleep(0.0003)
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended(self) -> Ended:
        """Wait for its end."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.005)
        hung = self.alive
        if hung:
            os.kill(self.pid, signal.SIGKILL)
        reply = self.warm.ask({"do": "wait", "pid": self.pid})
        if self.tracer is not None:
            self.tracer.communicate(timeout=_PATIENCE_S)
        lines = (self.place / "journal").read_text(errors="replace").splitlines()
        fields = [line.split("\t") for line in lines if line.count("\t") == 2]
        operations = [Operation(float(f[0]), f[1], f[2]) for f in fields]
        said = (self.place / "out").read_text(errors="replace")
        return Ended(reply["code"], said, operations, reply["cpu"], hung)


class Warm:
    """The warm process.

    Args:
        place: a directory for its files.
    """

    def __init__(self, place: Path) -> None:
        self.place, self._count = place, 0
        here = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, str(here / "warm.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "160"},
            # A signal for a child must not reach it, and Ctrl-C for pytest must not leave children.
            start_new_session=True,
        )
        self.threads = json.loads(self._line())["threads"]

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return dict(json.loads(self._line()))

    def start(self, arguments: Sequence[str], root: Path, *, trace: Path | None = None, **request: Any) -> Running:
        """Fork a command.

        Args:
            arguments: of ``thriftune``.
            root: operations on files below it are counted.
            trace: where strace writes what it does; see `power`.
            request: ``at`` and ``signal``: a signal to itself in place of that operation; ``environment``, ``patches``.
        """
        self._count += 1
        place = self.place / f"{self._count % 8}"
        place.mkdir(exist_ok=True)
        for name in ("out", "journal"):
            (place / name).write_bytes(b"")
        (place / "counter").write_bytes(bytes(8))
        with (place / "counter").open("r+b") as handle:
            shared = mmap.mmap(handle.fileno(), 8)
        files = {name: str(place / name) for name in ("out", "journal", "counter")}
        if trace is not None:
            request["hold"] = str(place / "go")
            (place / "go").unlink(missing_ok=True)
        reply = self.ask({"do": "start", "argv": list(arguments), "root": str(root), **files, **request})
        running = Running(self, reply["pid"], place, shared)
        if trace is not None:
            running.tracer = attach(reply["pid"], trace)
            (place / "go").touch()
        return running

    def run(self, arguments: Sequence[str], root: Path, **request: Any) -> Ended:
        """Fork a command and wait for its end."""
        return self.start(arguments, root, **request).ended()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
