"""The end of a run: what it took, and its parts merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.artifacts import read_record, write_json
from thriftune.scoring.columns import merge
from thriftune.scoring.parts import Gathered, Say, tidy
from thriftune.scoring.plan import Plan
from thriftune.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa


def note_run(
    manifest: dict[str, Any],
    plan: Plan,
    work: IntArray,
    missing: list[int],
    seconds: float,
    peak_gib: float,
    say: Say,
    **details: Any,
) -> None:
    """Note and say what scoring the ``missing`` parts took.

    Args:
        manifest: of the run, added to; `merge_run` writes it.
        plan: all of it.
        work: (m,) tokens of each prompt and its answer, in the plan's order.
        missing: parts that were scored now.
        seconds: how long that took.
        peak_gib: memory of the process that used most.
        say: receives the lines meant for people.
        details: JSON values to go with it.
    """
    inside = np.isin(plan.part, missing)
    count, rate = int(inside.sum()), max(seconds, 1e-9)
    manifest["run"] = run = {
        "seconds": round(seconds, 2),
        "prompts_scored": count,
        "prompts_per_minute": round(count / rate * 60, 1),
        "tokens_per_second": round(int(work[inside].sum()) / rate, 1),
        "peak_memory_gib": round(peak_gib, 2),
        **details,
    }
    say(
        f"scored {count:,} prompts in {seconds / 60:.1f} min: {run['prompts_per_minute']:,.0f} prompts/min, "
        f"{run['tokens_per_second']:,.0f} tokens/s, peak memory {run['peak_memory_gib']} GiB"
    )


def merge_run(directory: Path, manifest: dict[str, Any], plan: Plan, pool: pa.Table, say: Say) -> None:
    """Merge all parts into the run's scores and embeddings, and remove them."""
    parts = [directory / "parts" / f"{p:06d}.parquet" for p in range(plan.parts)]
    # Here, for a run may have been killed between its last part and its note.
    manifest["backed_off"] = backed_off = [b for p in parts for b in read_record(p)["halved"]]
    write_json(directory / "manifest.json", manifest)
    if backed_off:
        say(f"{len(backed_off)} batches did not fit into memory and were halved")
    scored = Gathered(parts, plan.rows)
    made = {k: v for k, v in manifest.items() if k != "run"}
    merge(directory, scored, scored, pool["id"], pool["group"].to_numpy(), made)
    tidy(directory)
