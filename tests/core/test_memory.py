"""Memory is given back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from thriftune.memory import release


def resident() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_freed_tensors_leave_the_process_even_between_living_ones() -> None:
    release("cpu")
    before = resident()
    tensors = [torch.ones(100 * 1024 // 4) for _ in range(4000)]  # too small for a mapping of their own
    full = resident()
    assert full - before > 350
    tensors[:] = tensors[::10]
    release("cpu")
    assert resident() - before < 120
