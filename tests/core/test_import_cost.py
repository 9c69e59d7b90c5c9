"""`import thriftune` and every --help stay fast: nothing heavy is loaded before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "ray",
    "lm_eval",
    "fastapi",
    "numba",
    "pyarrow",
    "datasets",
    "pandas",
    "scipy",
    "sklearn",
    "reasoning_gym",
)
VERBS = ("demo", "init", "score", "embed", "select", "strategies", "export", "import", "report", "status")


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('LOADED', *(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_the_check_sees_what_is_loaded() -> None:
    assert "pyarrow" in loaded_after("import pyarrow")


def test_import_thriftune() -> None:
    assert loaded_after("import thriftune; thriftune.Selection, thriftune.Study, thriftune.__version__") == set()


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(verb: str) -> None:
    arguments = [*verb.split(), "--help"]
    code = f"""
from thriftune.cli.app import app
try:
    app({arguments!r})
except SystemExit as end:
    assert not end.code, end.code"""
    assert loaded_after(code) == set()


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="processor time of a child is not known here")
def test_help_answers_at_once() -> None:
    # Processor time, the least of three: other work on the machine does not count.
    times = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-m", "thriftune.cli.main", "--help"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        times.append(usage.ru_utime + usage.ru_stime)
    assert min(times) < 0.5, times
