"""What an input may do: succeed with a valid result, or be refused in one sentence and change nothing."""

from __future__ import annotations

import contextlib
import re
import signal
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thriftune.errors import ThriftuneError, ThriftuneWarning

# Locks stay behind by design; SQLite's companions come and go with connections.
_PASSING = re.compile(r"\..*\.lock\Z|.*\.sqlite-(wal|shm|journal)\Z")
# A message ends in what to do next: one of these verbs, as an instruction.
_ADVICE = re.compile(
    r"\b(add|ask|change|check|choose|close|convert|cut|delete|evaluate|export|fine-tune|finish|get|give|has to|install"
    r"|leave|look|lower|make|mend|name|needs|pip|put|raise|remove|rename|rerun|rest|restore|run|save|say|score|see|set|swap|take"
    r"|must|should|did you mean|unpack|upgrade|use|wait|write)\b"
)
_LONGEST = 4000


class Hang(BaseException):
    """An input took more CPU time than it may; no reader can catch this by accident."""


@dataclass
class Verdict:
    """Runs inputs and keeps what went wrong, so that one run shows every finding.

    Args:
        watch: directories in which a refused input may leave no trace.
        seconds: CPU time that an input may take.
    """

    watch: list[Path] = field(default_factory=list)
    seconds: float = 20.0
    inputs: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: float = 0.0
    messages: dict[str, set[str]] = field(default_factory=dict)

    def __call__(
        self, category: str, label: Any, act: Callable[[], Any], valid: Callable[[Any], None] | None = None
    ) -> bool:
        """Run one input.

        Args:
            category: what is counted together.
            label: tells the input from the others in a finding.
            act: feeds it to the reader.
            valid: raises where the result of an accepted input is not what it should be.

        Returns:
            True when it was accepted.
        """
        self.inputs[category] += 1
        before = [tree(place) for place in self.watch]
        accepted = False
        began = time.process_time()
        try:
            with cpu_limit(self.seconds), warnings.catch_warnings():
                warnings.simplefilter("ignore", ThriftuneWarning)
                result = act()
            accepted = True
            if valid is not None:
                valid(result)
        except ThriftuneError as error:
            self.refused[category] += 1
            self.messages.setdefault(category, set()).add(re.sub(r"\d+|/\S+", "~", str(error))[:160])
            if wrong := complaint(str(error)):
                self.findings.append(f"{category} {label}: {wrong}: {str(error)[:400]!r}")
        except (Exception, Hang) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "thriftune" in f.filename]
            where = f"{Path(place.filename).name}:{place.lineno}"
            via = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
            self.findings.append(f"{category} {label}: {type(error).__name__}: {str(error)[:300]} at {where} via {via}")
        self.slowest = max(self.slowest, time.process_time() - began)
        if not accepted and [tree(place) for place in self.watch] != before:
            changed = [
                str(set(tree(p).items()) ^ set(b.items()))[:300] for p, b in zip(self.watch, before, strict=True)
            ]
            self.findings.append(f"{category} {label}: refused, yet it changed something: {changed}")
        return accepted

    def report(self, figures: dict[str, Any]) -> None:
        """Hand in the figures; fails with all findings."""
        figures["inputs"] = dict(sorted(self.inputs.items()))
        figures["refused"] = dict(sorted(self.refused.items()))
        figures["total"] = self.inputs.total()
        figures["slowest_cpu_seconds"] = round(self.slowest, 2)
        figures["findings"] = len(self.findings)
        if self.findings:
            kinds = {re.sub(r"\d+|/\S+|'[^']*'|line ~.*", "~", f)[:130]: f for f in self.findings}
            raise AssertionError(f"{len(self.findings)} findings:\n" + "\n".join(list(kinds.values())[:40]))


def complaint(message: str) -> str:
    """What is wrong with an error's text; empty for a good one."""
    if not message.replace("\u00a0", " ").isprintable():
        return "a control character or lone surrogate in the message"
    if len(message) > _LONGEST:
        return f"{len(message)} characters long"
    if "Traceback" in message or not _ADVICE.search(message.lower()):
        return "does not say what to do"
    return ""


def tree(directory: Path) -> dict[str, int]:
    """Every file and directory below, with a checksum of what is in it."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if not _PASSING.match(path.name):
            found[str(path.relative_to(directory))] = zlib.crc32(path.read_bytes()) if path.is_file() else -1
    return found


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise Hang after so much CPU time (wall-clock time is pytest-timeout's, whose signal is another)."""

    def stop(*_: Any) -> None:
        raise Hang(f"more than {seconds:g} s of CPU time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
