"""`thriftune embed`: a score run once more, with the embeddings of another model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftune.artifacts import (
    file_digest,
    make_directory,
    provenance,
    read_object,
    sync_directory,
    write_json,
    write_table,
)
from thriftune.columns import checksum_of
from thriftune.config import EmbedConfig
from thriftune.endpoint import Agree
from thriftune.errors import ScoreError
from thriftune.scoring.columns import write_embeddings
from thriftune.scoring.parts import Say, check_same
from thriftune.scoring.prompts import distinct, pool_of
from thriftune.scoring.vectors import count_cut, described, embed_pool, load_for
from thriftune.study import Study

if TYPE_CHECKING:
    import pyarrow as pa


def embed(study: Study, config: EmbedConfig, *, agree: Agree = lambda _: True, say: Say = print) -> Path:
    """Make a score run of the scores of one and the embeddings of another model; both runs live side by side.

    It is built in a hidden directory and appears complete, so that no other stage sees half of it.

    Args:
        study: a study with a finished score run.
        config: the embedder, and whose scores go with it (None: the latest run's).
        agree: is shown in advance what a server would cost, and may say no.
        say: receives the lines meant for people.

    Returns:
        The new run's directory.

    Raises:
        StudyError: there are no scores yet.
        ScoreError: a run of that name exists that was made otherwise.
        ModelError: the embedder cannot be loaded.
        EndpointError: the server cannot be used, or some texts have no embedding yet.
    """
    source = study.score_run(config.run)
    scores = study.score_directory(source)
    before = read_object(scores / "manifest.json", config=dict)
    name = config.name or f"{before.get('embedded', {}).get('run', source)}-{_short(config.embedder)}"
    target = study.score_directory(name)
    with study.lock(f"score-{name}"):
        here = load_for(config, say)
        made: dict[str, Any] = {"of": before.get("embedded", {}).get("of") or file_digest(scores / "scores.parquet")}
        wanted: dict[str, Any] = {"embedded": {**described(config, here), **made}, "pool": file_digest(study.pool_file)}
        if target.exists():
            manifest = read_object(target / "manifest.json", config=dict)
            if "embedded" not in manifest or not (target / "scores.parquet").exists():
                raise ScoreError(f"{name!r} is a score run of its own: give this one another --name")
            check_same(manifest, wanted, target)
            say(f"{name}: already embedded; nothing to do")
            return target
        work = target.with_name(f".{name}.embedding")
        if (work / "manifest.json").exists():
            check_same(read_object(work / "manifest.json"), wanted, work)
        make_directory(work)
        origin = before.get("embedded", {}).get("run", source)
        manifest = {
            **{k: v for k, v in before.items() if k != "run"},
            **wanted,
            **provenance(),
            "config": {**before["config"], "name": name},
            "embedded": {**wanted["embedded"], "run": origin},
        }
        write_json(work / "manifest.json", manifest)
        pool = pool_of(study)
        rows = distinct(pool)
        vectors = embed_pool(work / "vectors", pool, rows, config, here, agree=agree, say=say)
        cut = count_cut(vectors)
        if cut:
            say(f"{cut:,} of {len(rows):,} texts were too long for {config.embedder} and were embedded in part")
        scale = write_embeddings(work / "embeddings.npy", vectors, pool["group"].to_numpy())
        table = _with_scale(study, source, scale)
        record = {**manifest, "embeddings_crc32": checksum_of(work / "embeddings.npy")}
        write_table(work / "scores.parquet", table, record)
        shutil.rmtree(work / "vectors")
        work.rename(target)
        sync_directory(target.parent)
        say(f"{name}: the scores of {source} with embeddings of {config.embedder} ({pool.num_rows:,} prompts)")
    return target


def _with_scale(study: Study, run: str, scale: Any) -> pa.Table:
    table = study.scores(run)
    if table["id"].to_pylist() != study.pool(["id"])["id"].to_pylist():
        raise ScoreError(f"score run {run!r} belongs to another pool: rerun: thriftune score {study.quoted}")
    if "embedding_scale" in table.column_names:
        table = table.drop_columns(["embedding_scale"])
    return table.replace_schema_metadata(None).append_column("embedding_scale", scale)


def _short(embedder: str) -> str:
    """What an embedder is called in the name of a run."""
    name = re.split(r"[:/\\]", embedder.rstrip("/\\"))[-1]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-._+").lower()[:60] or "embedded"
