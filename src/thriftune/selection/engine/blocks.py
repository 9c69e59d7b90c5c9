"""Work on blocks in threads of our own, each with single-threaded BLAS; results never depend on how many there are."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import numpy as np

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
    with _single_threaded_blas() as single:
        count = threads() if single else 1
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


def _one_by_one(function: Callable[[Any], None], tasks: Iterable[Any]) -> None:
    for task in tasks:
        function(task)


_nesting = 0
_guard = threading.Lock()
_before = 1


@contextlib.contextmanager
def _single_threaded_blas() -> Iterator[bool]:
    """Hold NumPy's OpenBLAS at one thread; yields False where NumPy uses another library, which keeps its own."""
    global _nesting, _before  # noqa: PLW0603 (the library's setting is global too)
    controls = _openblas()
    if controls is None:
        yield False
        return
    get, put = controls
    with _guard:
        if _nesting == 0:
            _before = get()
            put(1)
        _nesting += 1
    try:
        yield True
    finally:
        with _guard:
            _nesting -= 1
            if _nesting == 0:
                put(_before)


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    core = importlib.import_module(
        "numpy._core._multiarray_umath" if hasattr(np, "_core") else "numpy.core._multiarray_umath"
    )
    candidates = [str(core.__file__)]
    # Windows looks symbols up in one library only, so the bundled one is named itself.
    bundled = os.path.join(os.path.dirname(os.path.dirname(np.__file__)), "numpy.libs")
    if os.path.isdir(bundled):
        candidates += [os.path.join(bundled, name) for name in sorted(os.listdir(bundled)) if "openblas" in name]
    for path in candidates:
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for prefix in ("scipy_", ""):
            for suffix in ("64_", ""):
                get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
                put = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
                if get is not None and put is not None:
                    return get, put
    return None
