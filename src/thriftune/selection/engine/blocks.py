"""Work on blocks in threads of our own, each with single-threaded BLAS; results never depend on how many there are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

Task = TypeVar("Task")
Run = Callable[[Callable[[Task], None], Iterable[Task]], None]


def threads() -> int:
    """How many threads to use: the CPUs this process may run on, fewer where ``OMP_NUM_THREADS`` says so."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cpus, int(limit))) if limit.isdecimal() and int(limit) > 0 else cpus


def free_memory() -> float:
    """Bytes that can be had without swapping; 8 GiB where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 8.0 * 2**30


@contextlib.contextmanager
def workers() -> Iterator[Run[Any]]:
    """Threads for the duration of a block of code.

    Yields:
        ``run(function, tasks)``: calls ``function`` on every task, in any order, and returns when all are done. The
        first exception, Ctrl-C included, cancels what has not begun and is raised here.
    """
    blas = _blas()
    with blas.limit(limits=1):
        # A BLAS that cannot be held at one thread (Apple's) brings its own; ours would only fight with them.
        count = threads() if blas.info() else 1
        if count == 1:
            yield _one_by_one
            return
        with ThreadPoolExecutor(count) as pool:

            def run(function: Callable[[Task], None], tasks: Iterable[Task]) -> None:
                futures = [pool.submit(function, task) for task in tasks]
                try:
                    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                except BaseException:
                    for future in futures:
                        future.cancel()
                    wait(futures)
                    raise

            yield run


@cache
def _blas() -> Any:
    """NumPy's BLAS, looked up once: that walks all libraries loaded, milliseconds each time."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _one_by_one(function: Callable[[Any], None], tasks: Iterable[Any]) -> None:
    for task in tasks:
        function(task)
