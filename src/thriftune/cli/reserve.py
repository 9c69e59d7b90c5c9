"""Prompts that take the place of those that turn out to be unanswerable: the ranking, continued."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thriftune.annotation.desk import Desk
from thriftune.errors import ThriftuneError
from thriftune.reserve import digest, reserve_file, stored
from thriftune.study import Study
from thriftune.types import Candidates

_LEAST = 20
_SHARE = 5
_LOOK_S = 5.0
# Counts of picks per task and money speak of the whole selection; `duplicates` is an argument of its own.
_NOT_STRATEGYS = ("at_least", "at_most", "costs", "budget_cost", "duplicates")


class _Continued(Study):
    """The study as selection would see it if what was chosen already had its answers."""

    def __init__(self, path: Path, chosen: Sequence[str]) -> None:
        super().__init__(path)
        self._chosen = set(chosen)

    def candidates(self, run: str | None = None, *, embeddings: bool = True, score: str | None = None) -> Candidates:
        import numpy as np

        found = super().candidates(run, embeddings=embeddings, score=score)
        chosen = np.fromiter((i in self._chosen for i in found.ids), bool, len(found.ids))
        return found.with_annotated(found.annotated | chosen)


def continue_ranking(study_path: Path, name: str, count: int) -> list[str]:
    """Add prompts to the reserve of a selection: what its strategy picks next, the ones picked before counted as done.

    For a strategy that picks one prompt after another this is the continuation of its ranking; for one that picks a
    set for a budget it is the best addition to the set. Quotas and costs of the selection do not bind the reserve.

    Args:
        study_path: the study.
        name: the selection's.
        count: how many more at most.

    Returns:
        The whole reserve, in order.

    Raises:
        StrategyError: the strategy cannot be asked again.
        StudyError: no such selection.
    """
    import pyarrow as pa

    from thriftune.artifacts import provenance, write_table
    from thriftune.selection.run import select

    study = Study(study_path)
    with study.lock("reserve", wait=3600):
        ids, _, record = study.selection(name)
        held = stored(study, name)
        source = _Continued(study_path, [*ids, *held])
        run = record.get("run")
        run = run if run in study.score_runs() else None
        free = int((~source.candidates(run, embeddings=False).annotated).sum())
        count = min(count, free)
        if count <= 0:
            return held
        params = {k: v for k, v in record.get("params", {}).items() if k not in _NOT_STRATEGYS}
        duplicates = record.get("params", {}).get("duplicates", "last")
        more = select(
            source,
            record["strategy"],
            count,
            # A stream of its own for each addition.
            seed=record.get("seed", 0) + len(held),
            run=run,
            duplicates=duplicates,
            **params,
        )
        held = [*held, *more.ids.tolist()]
        table = pa.table({"rank": pa.array(range(1, len(held) + 1), pa.int64()), "id": pa.array(held, pa.string())})
        described = provenance(stage="annotate", of=name, selection=digest(ids), strategy=record["strategy"], run=run)
        write_table(reserve_file(study, name), table, described)
        return held


class Keeper(threading.Thread):
    """Keeps the reserve of a running page filled, choosing in a process of its own so that the page stays quick.

    Args:
        desk: the page's work.
        wanted: how many prompts the reserve is to hold.
        say: prints a line.
    """

    def __init__(self, desk: Desk, wanted: int, say: Any) -> None:
        super().__init__(name="reserve", daemon=True)
        self._desk, self._wanted, self._say = desk, wanted, say
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """End soon."""
        self._stop_asked.set()

    def run(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        while not self._stop_asked.is_set():
            missing = self._wanted - self._desk.reserve_left()
            # Half empty before it is filled: each addition asks the strategy about the whole pool.
            if missing > 0 and missing >= self._wanted // 2:
                child = spawn.Process(
                    target=_quietly, args=(self._desk.study.path, self._desk.selection, missing), daemon=True
                )
                child.start()
                while child.is_alive() and not self._stop_asked.is_set():
                    child.join(0.2)
                if child.is_alive():
                    child.terminate()
                    return
                before = len(self._desk.queue.ids)
                self._desk.extend(stored(self._desk.study, self._desk.selection))
                if len(self._desk.queue.ids) == before:
                    self._say(
                        "no more prompts to take the place of flagged ones: the pool is used up or the strategy of "
                        f"{self._desk.selection!r} cannot be asked again"
                    )
                    return
            self._stop_asked.wait(_LOOK_S)


def wanted(budget: int) -> int:
    """How many prompts a reserve holds by default."""
    return max(_LEAST, budget // _SHARE)


def _quietly(path: Path, name: str, count: int) -> None:
    import signal
    import sys

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's affair
    try:
        continue_ranking(path, name, count)
    except ThriftuneError as error:
        print(f"thriftune: no reserve for {name!r}: {error}", file=sys.stderr)
