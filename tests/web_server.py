"""A real server for the page's tests: a process of its own, as people run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from thriftune.artifacts import provenance, write_table
from thriftune.study import Study
from thriftune.types import Selection

_RUN = "import typer; from thriftune.cli.annotate import command; typer.run(command)"


def make_study(
    root: Path, texts: Sequence[str], selected: int, drafts: Sequence[str] | None = None, **more: Any
) -> Study:
    """A study of ``texts``, the first ``selected`` chosen as "first" (by a score that falls along the pool).

    Args:
        root: where.
        texts: the pool.
        selected: how many.
        drafts: the model's answers.
        more: ``messages`` by row.
    """
    root.mkdir(parents=True)
    n = len(texts)
    ids = [f"p{i:03d}" for i in range(n)]
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    messages = more.get("messages", {})
    pool = {
        "id": ids,
        "text": list(texts),
        "messages": pa.array([messages.get(i) for i in range(n)], pa.list_(turn)),
        "task": pa.array(["sums" if i % 2 else "poems" for i in range(n)]),
        "split": ["pool"] * n,
        "group": pa.array(range(n), pa.int64()),
        "near_group": pa.array(range(n), pa.int64()),
        "n_chars": pa.array([len(t) for t in texts], pa.int32()),
        "source": ["made.jsonl"] * n,
        "line": pa.array(range(1, n + 1), pa.int64()),
        "meta": pa.nulls(n, pa.string()),
    }
    write_table(root / "pool.parquet", pa.table(pool), provenance())
    study = Study.create(root, {})
    scores = {
        "id": ids,
        "mean_entropy": pa.array(np.linspace(2, 1, n), pa.float32()),
        "n_prompt_tokens": pa.array([10] * n, pa.int32()),
        "n_steps": pa.array([5] * n, pa.int32()),
        "truncated_prompt": [False] * n,
        "hit_limit": [False] * n,
        "response": list(drafts or [f"Draft {i}" for i in range(n)]),
        "embedding_scale": pa.array([1.0] * n, pa.float32()),
    }
    write_table(root / "scores" / "default" / "scores.parquet", pa.table(scores), provenance(model="tiny"))
    rows = np.arange(selected)
    selection = Selection(np.array(ids[:selected], object), rows, None, "mean_entropy", selected, 0)
    study.write_selection("first", selection, {"run": "default"})
    return study


class Server:
    """``thriftune annotate`` in a process of its own.

    Args:
        study: its directory.
        arguments: further ones.
        code: what runs the command, where not as it is.
    """

    def __init__(self, study: Path, *arguments: str, code: str = _RUN) -> None:
        command = [sys.executable, "-c", code, str(study), "--no-open", *arguments]
        environment = {**os.environ, "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.said: list[str] = []
        self.address = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            found = re.search(r"at (http://\S+)", line)
            if found and not self.address:
                self.address = found[1]
            if "Ctrl-C" in line:
                break
        threading.Thread(target=self._read, daemon=True).start()
        if not self.address:
            raise RuntimeError("".join(self.said))

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said += list(self.process.stdout)

    @property
    def root(self) -> str:
        """The address without its token, without a slash at the end."""
        return self.address.partition("?")[0].rstrip("/")

    def post(self, path: str, **body: Any) -> Any:
        """The reply to a request that must succeed."""
        reply = httpx.post(f"{self.root}/api/{path}", json=body, timeout=30)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def get(self, path: str, **query: Any) -> Any:
        """The reply to a request that must succeed."""
        reply = httpx.get(f"{self.root}/api/{path}", params=query, timeout=30)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def cpu(self) -> float:
        """Processor seconds that the server has used so far, its finished children's not."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident memory of the server in MiB."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def kill(self) -> None:
        """As a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As Ctrl-C does; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=20)
