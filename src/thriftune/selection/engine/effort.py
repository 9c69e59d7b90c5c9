"""Whether all pairs are compared: the one rule of every engine that can do without."""

from __future__ import annotations

from thriftune.selection.engine.blocks import free_memory

# CPU seconds for each n * n * d of the exact engine: 3.3e-11 at 10,000 x 384, 4.4e-11 at 100,000 x 384 on a busy
# machine, cores that multiply at 97 GF/s (benchmarks/select.py). No clock is read, so that a pool always gets the same.
_SECONDS = 4e-11
_PATIENCE = 240.0  # CPU seconds; two minutes on two cores


def all_pairs_are_affordable(n: int, d: int, *, times: float = 1.0, bytes_each: float = 2000.0) -> tuple[bool, str]:
    """Whether comparing ``n`` rows of ``d`` numbers with each other is minutes on two cores, and why in one clause.

    Args:
        times: how much more is done with every pair than by exact facility location.
        bytes_each: memory per row.
    """
    seconds = times * _SECONDS * n * n * d
    expected = f"exact would take about {seconds:.2g} CPU seconds"
    if seconds > _PATIENCE:
        return False, f"{expected}, more than {_PATIENCE:g}"
    memory = free_memory()
    if bytes_each * n > 0.6 * memory:
        return False, f"exact would need more than the {memory / 2**30:.1f} GiB that are free"
    return True, f"{expected}, at most {_PATIENCE:g}"
