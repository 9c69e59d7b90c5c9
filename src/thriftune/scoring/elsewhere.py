"""A score run whose model runs in another engine: asked, gathered in any order, embedded by another model, merged."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.artifacts import provenance, read_table, write_json
from thriftune.config import EmbedConfig, ScoreConfig
from thriftune.endpoint import Agree
from thriftune.scoring.columns import merge
from thriftune.scoring.openai import ask_pool
from thriftune.scoring.parts import Gathered, Parts, Say, check_same, tidy
from thriftune.scoring.prompts import distinct
from thriftune.scoring.served import Served, served_table
from thriftune.scoring.topk import MOST_TOKENS
from thriftune.scoring.vectors import count_cut, described, embed_pool, load_for
from thriftune.scoring.vllm import Engine, open_engine, run_pool
from thriftune.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa


def score_elsewhere(
    directory: Path,
    config: ScoreConfig,
    manifest: dict[str, Any] | None,
    wanted: dict[str, Any],
    pool: pa.Table,
    *,
    agree: Agree,
    say: Say,
) -> None:
    """Score the pool with another engine, or go on with that.

    Args:
        directory: the score run.
        config: what to run and how.
        manifest: of the unfinished run that there is, with the same settings; None for a new one.
        wanted: the sections that a new manifest begins with.
        pool: ``id``, ``text``, ``messages`` and ``group`` of the prompts.
        agree: is shown in advance what a server would cost, and may say no.
        say: receives the lines meant for people.
    """
    rows = distinct(pool)
    embedding = _embedding(config)
    # Before hours of scoring: an embedder that cannot be loaded.
    here = None if embedding is None else load_for(embedding, say)
    engine: Engine | None = open_engine(config) if config.backend == "vllm" else None
    resolved: dict[str, Any] = {"vocabulary": config.vocab_size or MOST_TOKENS}
    if engine is not None:
        resolved = {"vocabulary": engine.vocabulary, "revision": engine.revision, "dtype": config.dtype}
    if embedding is not None:
        resolved["embedding"] = described(embedding, here)
    if manifest is not None:
        check_same(manifest, {"resolved": resolved}, directory)
    else:
        # The address is no setting: a server may move.
        manifest = {**wanted, "resolved": resolved, "prompts": pool.num_rows, "distinct": len(rows), **provenance()}
        manifest["config"] = {**wanted["config"], **({} if config.endpoint is None else {"endpoint": config.endpoint})}

    def begin() -> None:
        write_json(directory / "manifest.json", manifest)

    def table(some: IntArray, answers: list[Served]) -> pa.Table:
        return served_table(some, answers, resolved["vocabulary"])

    parts = Parts[Served](directory / "parts", table, say, begin)
    try:
        if engine is None:
            took = ask_pool(config, pool, rows, parts, agree=agree, say=say)
        else:
            took = run_pool(engine, config, pool, rows, parts, say=say)
    finally:
        parts.flush()
    if took:
        manifest["run"] = took
    scored = parts.gathered()
    manifest["ends"] = ends = _ends(scored)
    begin()
    if ends["omitted"]:
        say(f"{ends['omitted']:,} of {sum(ends.values()):,} answers came without the step that ended them")
    vectors = None
    if embedding is not None:
        vectors = embed_pool(directory / "vectors", pool, rows, embedding, here, agree=agree, say=say)
        cut = count_cut(vectors)
        if cut:
            say(f"{cut:,} of {len(rows):,} texts were too long for {embedding.embedder} and were embedded in part")
    else:
        say(
            "no embeddings, which this engine does not give: add them with thriftune embed "
            f"{shlex.quote(str(directory.parents[1]))} --embedder NAME"
        )
    made = {k: v for k, v in manifest.items() if k != "run"}
    merge(directory, scored, vectors, pool["id"], pool["group"].to_numpy(), made)
    tidy(directory)


def _embedding(config: ScoreConfig) -> EmbedConfig | None:
    if config.embedder is None:
        return None
    shared = {name: getattr(config, name) for name in EmbedConfig.model_fields if name in ScoreConfig.model_fields}
    # The score run's own; of the embedder they are defaults.
    return EmbedConfig.model_validate({k: v for k, v in shared.items() if k not in {"revision", "name"}})


def _ends(scored: Gathered) -> dict[str, int]:
    """Of the answers that the model ended itself: how often the step that did so was reported."""
    reported = omitted = 0
    for file in scored.files:
        table = read_table(file, ["hit_limit", "end_scored"])
        ended = ~np.asarray(table["hit_limit"].to_pylist(), bool)
        scored_too = np.asarray(table["end_scored"].to_pylist(), bool)
        reported += int((ended & scored_too).sum())
        omitted += int((ended & ~scored_too).sum())
    return {"reported": reported, "omitted": omitted}
