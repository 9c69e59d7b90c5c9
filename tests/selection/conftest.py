"""A third-party package of strategies, installed for these tests, and a study made of plain arrays."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_package import install

from thriftune.selection import registry
from thriftune.study import Study

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_strategy"


# At import, since the contract tests are parametrised over what is installed when they are collected.
_site = tempfile.TemporaryDirectory()
install(
    Path(_site.name),
    "own-strategy",
    "own_strategy = own_strategy",
    "own_strategy",
    (EXAMPLE / "own_strategy.py").read_text(),
)
sys.path.append(_site.name)
registry.discover.cache_clear()


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """A function that writes a study of n prompts: three tasks, lengths 1..n, one text twice, a score run or none.

    ``meta`` makes each prompt's other columns.
    """

    def make(
        n: int = 60,
        *,
        scored: bool = True,
        tasks: bool = True,
        d: int = 4,
        meta: Callable[[int], dict[str, object]] | None = None,
    ) -> Study:
        import pyarrow as pa

        from thriftune.artifacts import write_table

        directory = tmp_path / "study"
        rng = np.random.default_rng(5)
        ids = [f"p{i:03d}" for i in range(n)]
        group = np.arange(n)
        group[n - 1] = 0  # the last prompt repeats the first
        near = group.copy()
        near[3] = 2
        kinds = ["common" if i < n // 2 else "usual" if i < n - 5 else "rare" for i in range(n)]
        pool = pa.table(
            {
                "id": ids,
                "text": [f"prompt {g}" for g in group],
                "task": pa.array(kinds if tasks else [None] * n, pa.string()),
                "split": ["pool"] * n,
                "group": group,
                "near_group": near,
                "n_chars": pa.array(np.arange(1, n + 1) * 10, pa.int32()),
                "source": ["pool.csv"] * n,
                "line": np.arange(2, n + 2),
                "meta": pa.array([json.dumps(meta(i)) if meta else None for i in range(n)], pa.string()),
            }
        )
        write_table(directory / "pool.parquet", pool, {})
        if scored:
            scores: dict[str, object] = {"id": ids}
            scores["mean_entropy"] = np.arange(n, dtype=np.float32)  # grows with length
            scores["mean_nll"] = rng.permutation(n).astype(np.float32)
            scores["prompt_nll"] = pa.array([None if i == 7 else -float(i) for i in range(n)], pa.float32())
            scores["n_prompt_tokens"] = pa.array(np.arange(1, n + 1), pa.int32())
            scores["truncated_prompt"] = np.arange(n) >= n - 10
            scores["hit_limit"] = np.arange(n) % 2 == 0
            vectors = rng.normal(size=(n, d))
            scale = np.abs(vectors).max(axis=1).astype(np.float32)
            scores["embedding_scale"] = scale
            write_table(directory / "scores" / "default" / "scores.parquet", pa.table(scores), {})
            (directory / "scores" / "default" / "manifest.json").write_text(json.dumps({}))
            np.save(directory / "scores" / "default" / "embeddings.npy", (vectors / scale[:, None]).astype(np.float16))
        return Study.create(directory, {})

    return make
