"""Small studies, written through the contract rather than by the stages that usually make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from thriftune.artifacts import provenance, write_json, write_table
from thriftune.study import Study
from thriftune.types import Annotation, Selection

TASKS = ("sums", "poems", "</td><b>tags", "maps")
HOSTILE = (
    "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>",
    "\"quotes\" 'and' &amp; </script><!-- ]]> {{ 7 * 7 }} \u2028",
    "מה בירת צרפת? ענה בקצרה \u202e gnp.exe",
    "🎉 Ünïcödé 日本語 👩‍👩‍👧",
    "\n".join(f"line {i} of a very long prompt" for i in range(5000)),
    "x" * 4000,
)


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """A function that writes a study of ``n`` prompts; see its arguments."""

    def make(
        name: str = "study",
        *,
        n: int = 120,
        tasks: bool = True,
        scored: bool = True,
        embedded: bool = True,
        dimensions: int = 8,
        texts: list[str] | None = None,
    ) -> Study:
        rng = np.random.default_rng(7)
        directory = tmp_path / name
        directory.mkdir()
        if texts is None:
            texts = [f"Prompt {i}: what is {i} + {i}?" for i in range(n)]
            for place, text in zip(range(3, n, 5), HOSTILE, strict=False):
                texts[place] = text
            if n > 60:
                texts[50] = texts[51] = texts[52]  # exact duplicates
        n = len(texts)
        first: dict[str, int] = {}
        group = [first.setdefault(t, i) for i, t in enumerate(texts)]
        turn = pa.struct([("role", pa.string()), ("content", pa.string())])
        chat = [{"role": "system", "content": "Be <i>brief</i>."}, {"role": "user", "content": "Hello & welcome"}]
        chats = [chat if i == 1 else None for i in range(n)]
        label = [TASKS[i % 4 if i % 3 else 0] for i in range(n)]
        pool = pa.table(
            {
                "id": [f"p{i:04d}" for i in range(n)],
                "text": texts,
                "messages": pa.array(chats, pa.list_(turn)),
                "task": pa.array(label if tasks else [None] * n, pa.string()),
                "split": ["holdout" if n > 60 and i >= n - 10 else "pool" for i in range(n)],
                "group": pa.array(group, pa.int64()),
                "near_group": pa.array(group, pa.int64()),
                "n_chars": pa.array([len(t) for t in texts], pa.int32()),
                "source": ["pool.jsonl"] * n,
                "line": pa.array(range(1, n + 1), pa.int64()),
                "meta": pa.nulls(n, pa.string()),
            }
        )
        write_table(directory / "pool.parquet", pool, provenance(config={"seed": 0}))
        study = Study.create(directory, {"config": {"pool": ["pool.jsonl"]}})
        if scored:
            _score(study, rng, embedded, dimensions)
        return study

    return make


def _score(study: Study, rng: np.random.Generator, embedded: bool, d: int) -> None:
    pool = study.pool()
    n = pool.num_rows
    draft = ["Yes", ",", " it", " <b>is</b>", " 🎉", ""]
    ends = np.cumsum([len(piece) for piece in draft]).tolist()
    entropies = rng.gamma(1.5, 1.0, (n, len(draft))).astype(np.float32)
    margins = (1 - np.exp(-entropies)).astype(np.float32)
    centres = rng.normal(size=(4, d)) * 3
    of_task = {t: i for i, t in enumerate(dict.fromkeys(pool["task"].to_pylist()))}
    x = np.stack([centres[of_task[t] % 4] for t in pool["task"].to_pylist()]) + rng.normal(size=(n, d))
    same: dict[int, int] = {}
    x = x[[same.setdefault(g, i) for i, g in enumerate(pool["group"].to_pylist())]].astype(np.float32)
    scale = np.abs(x).max(axis=1).astype(np.float32)
    lengths = np.maximum(pool["n_chars"].to_numpy() // 4, 1).astype(np.int32)
    columns: dict[str, Any] = {
        "id": pool["id"],
        "mean_entropy": entropies.mean(axis=1),
        "max_entropy": entropies.max(axis=1),
        "least_confidence": (entropies.sum(axis=1) * 0.7).astype(np.float32),
        "mean_nll": (entropies.mean(axis=1) * 0.7).astype(np.float32),
        "mean_margin": margins.mean(axis=1),
        "min_margin": margins.max(axis=1),
        "n_prompt_tokens": lengths,
        "n_steps": pa.array([len(draft)] * n, pa.int32()),
        "truncated_prompt": lengths > 900,
        "hit_limit": [i % 4 == 0 for i in range(n)],
        "response": ["".join(draft)] * n,
        "token_ids": pa.array([list(range(len(draft)))] * n, pa.list_(pa.int32())),
        "token_ends": pa.array([ends] * n, pa.list_(pa.int32())),
        "token_entropies": pa.array(entropies.tolist(), pa.list_(pa.float32())),
        "token_margins": pa.array(margins.tolist(), pa.list_(pa.float32())),
        "embedding_scale": scale,
    }
    directory = study.score_directory("run1")
    directory.mkdir(parents=True)
    record = provenance(config={"model": "org/tiny-model", "max_new_tokens": 6})
    if embedded:
        np.save(directory / "embeddings.npy", (x / scale[:, None]).astype(np.float16))
    write_json(directory / "manifest.json", record)
    write_table(directory / "scores.parquet", pa.table(columns), record)


@pytest.fixture
def select() -> Callable[..., None]:
    """A function that stores a selection of given pool rows."""

    def store(study: Study, name: str, rows: Any, strategy: str = "custom", **record: Any) -> None:
        ids = study.pool(["id"])["id"].to_pylist()
        rows = np.asarray(rows, np.int64)
        selection = Selection(
            ids=np.array([ids[r] for r in rows], dtype=object),
            rows=rows,
            gains=record.pop("gains", None),
            strategy=strategy,
            budget=record.pop("budget", len(rows)),
            seed=0,
            params=record.pop("params", {}),
            certificate=record.pop("certificate", None),
            partial=record.pop("partial", False),
        )
        study.write_selection(name, selection, {"run": "run1", **record})

    return store


@pytest.fixture
def full_study(make_study: Callable[..., Study], select: Callable[..., None]) -> Study:
    """A scored study with tasks, hostile texts, answers and three selections."""
    study = make_study()
    entropy = study.scores()["mean_entropy"].to_numpy()
    select(study, "random-30", np.random.default_rng(1).permutation(49)[:30], "random")
    top = np.argsort(-entropy, kind="stable")[:40]
    select(
        study, "uncertain", top, "mean_entropy", gains=entropy[top].astype(float), warnings=["mostly <i>one</i> task"]
    )
    # The hostile texts stand at rows 3, 8, ... and must be among the cards.
    select(study, "k_center", [3, 8, 13, 18, 23, 28, 1, 60, 70], "k_center", params={"start": "mean"})
    study.annotations.add([Annotation("p0005", "10", "ann"), Annotation("p0061", "122", "ann")])
    return study


@pytest.fixture
def payload() -> Callable[[str], dict[str, Any]]:
    """A function that reads the numbers back out of a page."""

    def read(html: str) -> dict[str, Any]:
        begin = html.index('<script type="application/json" id="data">')
        begin = html.index(">", begin) + 1
        return dict(json.loads(html[begin : html.index("</script>", begin)]))

    return read
