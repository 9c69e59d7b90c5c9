"""Imports everything once, then forks a process for each command, so that hundreds of kills cost no start-up.

Reads a JSON request a line, answers a JSON reply a line: see `Warm` in runs.py. In the child every operation on the
study's files is counted (in memory that the asker maps) and written down (time, operation, path); the child can be told
to send itself a signal in place of the nth.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import mmap
import os
import signal
import sqlite3
import struct
import sys
import time
from typing import Any

_MODULES = (
    *("filelock", "numba", "pyarrow.parquet", "pyarrow.compute", "rich.console", "torch", "peft", "trl", "rouge_score"),
    *("httpx", "safetensors.torch", "asyncio"),
    *("thriftune.cli.app", "thriftune.scoring.run", "thriftune.selection.store", "thriftune.selection.present"),
    *("thriftune.pool.build", "thriftune.annotation.export", "thriftune.annotation.ingest", "thriftune.overview"),
    *("thriftune.annotation.teacher", "thriftune.annotation.label_studio", "thriftune.annotation.web.serve"),
    *("thriftune.finetuning.run", "thriftune.finetuning.trainer", "thriftune.finetuning.probe"),
    *("thriftune.evaluation.run", "thriftune.evaluation.heldout", "thriftune.evaluation.generate"),
    *("thriftune.bench.run", "thriftune.bench.conclude", "thriftune.bench.recipe", "thriftune.report.page"),
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_MOVES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def main() -> None:
    faulthandler.enable()
    for module in _MODULES:
        importlib.import_module(module)
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

    del AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
    print(json.dumps({"threads": len(os.listdir("/proc/self/task"))}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            child = os.fork()
            if not child:
                _child(request)
            reply = {"pid": child}
        else:
            _, status, used = os.wait4(request["pid"], 0)
            reply = {"code": os.waitstatus_to_exitcode(status), "cpu": used.ru_utime + used.ru_stime}
        print(json.dumps(reply), flush=True)
    os._exit(0)  # no taking down of what was imported


def _child(request: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a test that fails leaves no process behind
    while "hold" in request and not os.path.exists(request["hold"]):
        time.sleep(0.002)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, out), (2, out)):
        os.dup2(source, target)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    os.environ.update(request.get("environment", {}))
    _quicken()
    for name, value in request.get("patches", {}).items():
        getattr(importlib.import_module("stubs"), name)(value)
    _count(request)
    sys.argv = ["thriftune", *request["argv"]]
    code = 1
    try:
        from thriftune.cli.main import main as command

        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has ended
        sys.stdout.flush()
        os._exit(code)


def _quicken() -> None:
    """Parts so small that a run of a second has many of them."""
    from thriftune.finetuning import train
    from thriftune.scoring import plan

    plan._PART_TOKENS = 300
    train._CHECKPOINT_EVERY_S = 0.0


def _count(request: dict[str, Any]) -> None:
    root = request["root"]
    journal = os.open(request["journal"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    counter = os.open(request["counter"], os.O_RDWR)
    shared = mmap.mmap(counter, 8)
    at, strike = request.get("at"), request.get("signal", signal.SIGKILL)
    began, count = time.monotonic(), 0

    def note(what: str, path: str) -> None:
        nonlocal count
        if count == at:
            os.kill(os.getpid(), strike)
        count += 1
        os.write(journal, f"{time.monotonic() - began:.6f}\t{what}\t{path[len(root) + 1 :]}\n".encode())
        struct.pack_into("q", shared, 0, count)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, os.PathLike)) and flags & _WRITES and os.fspath(path).startswith(root):
                note("open", os.fspath(path))
        elif event in _MOVES:
            path = arguments[1 if event == "os.rename" else 0]
            if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(root):
                note(event.removeprefix("os."), os.fspath(path))

    fsync = os.fsync

    def counted(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(root):
            note("fsync", path)
        fsync(descriptor)

    class Counted(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
            note(f"sqlite {sql.split(None, 1)[0]}", f"{root}/annotations.sqlite")
            return super().execute(sql, *more)

    connect = sqlite3.connect
    sqlite3.connect = lambda *a, **k: connect(*a, **{**k, "factory": Counted})  # type: ignore[assignment]
    os.fsync = counted  # type: ignore[assignment]
    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
