"""`init`: a pool becomes a study. Everything is made in a hidden directory and moved into place when it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thriftune.annotations import AnnotationStore
from thriftune.artifacts import provenance, with_record
from thriftune.config import InitConfig
from thriftune.errors import ConfigError
from thriftune.pool.deduplicate import first_rows
from thriftune.pool.identify import Digests, content_id, number_repeats
from thriftune.pool.ingest import Ingested, SourceSummary, ingest, staging_schema
from thriftune.pool.read import find_sources
from thriftune.pool.split import choose_groups
from thriftune.pool.workshop import workshop_in
from thriftune.progress import progress
from thriftune.study import HOLDOUT, Study
from thriftune.types import Annotation, BoolArray, IntArray

_WRITTEN: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


@dataclass(frozen=True)
class InitSummary:
    """What `init` found and did.

    Args:
        study: the new study.
        config: as resolved.
        sources: what became of each.
        prompts: in the study, pool and holdout together.
        holdout: of them set aside.
        lengths: (5,) characters of a prompt: least, quartiles, most.
        exact_duplicates: prompts that repeat an earlier one.
        near_duplicates: further prompts that are nearly an earlier one.
        leaked: prompts to choose from that repeat, or nearly, a held-out one; only with a hold-out of your own.
        largest_group: prompts in the largest group of near duplicates.
        responses: prompts that came with one.
        tasks: prompts by task, the most frequent first.
        rejects: rows left out, by reason.
        examples: the first places for each reason.
    """

    study: Study
    config: InitConfig
    sources: list[SourceSummary]
    prompts: int
    holdout: int
    lengths: list[int]
    exact_duplicates: int
    near_duplicates: int
    leaked: int
    largest_group: int
    responses: int
    tasks: dict[str, int]
    rejects: dict[str, int]
    examples: dict[str, list[str]]


def init(
    path: str | Path,
    sources: Sequence[str | Path],
    config: InitConfig | None = None,
    *,
    holdout_from: Sequence[str | Path] = (),
) -> InitSummary:
    """Make a study of a pool of prompts.

    Args:
        path: the study's directory; must not exist or be empty.
        sources: files (jsonl, json, csv, tsv, parquet; plain, gzip or zstd), directories of them, or hub dataset ids
            (``owner/name[:config][@split]``).
        config: which columns, what responses are, holdout, seed.
        holdout_from: sources whose prompts are all held out: a hold-out of your own instead of a drawn one.

    Returns:
        What was found; the study is complete on disk.

    Raises:
        PoolError: a source is unreadable or has no usable prompt.
        ConfigError: the holdout is not smaller than the pool, or both kinds of holdout are asked for.
        StudyError: ``path`` is taken or cannot be written.
        MissingDependency: a hub id without the ``datasets`` package.
    """
    config = config or InitConfig()
    path = Path(path)
    if holdout_from and config.holdout:
        raise ConfigError(
            f"--holdout {config.holdout:,} and --holdout-from are two ways to hold prompts out: give one of them"
        )
    found = find_sources(sources)
    own = find_sources(holdout_from) if holdout_from else []
    with workshop_in(path) as workshop:
        pool = ingest([*found, *own], config, workshop)
        prompts: Digests = np.frombuffer(pool.prompts, ">u8").reshape(-1, 2).astype(np.uint64)
        group = first_rows(prompts[:, 1], prompts[:, 0])
        near_group = pool.near.groups()
        held = _of_sources(pool.sources, len(found)) if own else _hold_out(prompts, near_group, config)
        summary: dict[str, Any] = {
            "sources": pool.sources,
            "prompts": len(group),
            "holdout": int(held.sum()),
            "lengths": np.percentile(pool.lengths, [0, 25, 50, 75, 100]).round().astype(int).tolist(),
            "exact_duplicates": len(group) - len(np.unique(group)),
            "near_duplicates": len(np.unique(group)) - len(np.unique(near_group)),
            "leaked": int(np.isin(near_group[~held], near_group[held]).sum()),
            "largest_group": int(np.unique(near_group, return_counts=True)[1].max()),
            "responses": pool.responses,
            "tasks": dict(pool.tasks.most_common()),
            "rejects": dict(pool.rejects.counts.most_common()),
            "examples": pool.rejects.examples,
        }
        record = _record(config, summary)
        _write_pool(pool, prompts, group, near_group, held, workshop, record)
        _place_responses(workshop, config, pool.responses)
        pool.staging.unlink()
        pool.near.file.unlink()
        Study.create(workshop, record)
    return InitSummary(study=Study(path), config=config, **summary)


def _record(config: InitConfig, summary: dict[str, Any]) -> dict[str, Any]:
    kept = ("prompts", "holdout", "exact_duplicates", "near_duplicates", "leaked", "responses", "rejects")
    sources = [
        {"name": s.name, "understood": s.understood, "prompts": s.prompts, "rejected": s.rejected, **s.record}
        for s in summary["sources"]
    ]
    return {
        "stage": "init",
        "config": config.model_dump(mode="json"),
        "sources": sources,
        "counts": {k: summary[k] for k in kept},
    }


def _of_sources(sources: list[SourceSummary], first: int) -> BoolArray:
    """(n,) bool, True for the prompts of the sources from ``first`` on, which are marked as held out."""
    for source in sources[first:]:
        source.record["holdout"] = True
    if not any(source.prompts for source in sources[:first]) or not any(source.prompts for source in sources[first:]):
        raise ConfigError("one of --pool and --holdout-from has no prompt: name files that hold some")
    return np.repeat([i >= first for i in range(len(sources))], [source.prompts for source in sources])


def _hold_out(prompts: Digests, near_group: IntArray, config: InitConfig) -> BoolArray:
    """(n,) bool, True for the prompts set aside."""
    n, wanted = len(prompts), config.holdout
    if wanted == 0:
        return np.zeros(n, bool)
    if wanted >= n:
        raise ConfigError(
            f"holdout={wanted:,} would leave nothing of a pool of {n:,} prompts: give a smaller --holdout"
        )
    # A group is known by its smallest digest, which no order of rows changes.
    order = np.lexsort([prompts[:, 1], prompts[:, 0], near_group])
    _, starts, sizes = np.unique(near_group[order], return_index=True, return_counts=True)
    keys = [row.tobytes() for row in prompts[order[starts]].astype(">u8")]
    chosen = choose_groups(keys, sizes, wanted, config.seed)
    if not chosen.any():
        raise ConfigError(
            f"holdout={wanted:,}: the smallest group of near duplicates has {sizes.min():,} prompts, and groups are "
            f"not torn apart: give --holdout {sizes.min()} or more"
        )
    held = np.empty(n, bool)
    held[order] = np.repeat(chosen, sizes)
    return held


def _write_pool(
    pool: Ingested,
    prompts: Digests,
    group: IntArray,
    near_group: IntArray,
    held: BoolArray,
    workshop: Path,
    record: dict[str, Any],
) -> None:
    """The second pass: add to the staged rows what only the whole pool could tell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    without_id = np.frombuffer(pool.without_id, np.int64) if pool.without_id else np.zeros(0, np.int64)
    rows: Digests = np.frombuffer(pool.rows, ">u8").reshape(-1, 2).astype(np.uint64)
    numbers = number_repeats(prompts, rows, without_id, pool.ids)
    staged = staging_schema()
    fields = [staged.field(c) for c in ("id", "text", "messages", "task")]
    fields += [pa.field("split", pa.string()), pa.field("group", pa.int64()), pa.field("near_group", pa.int64())]
    fields += [staged.field(c) for c in ("n_chars", "source", "line", "meta")]
    schema = with_record(pa.schema(fields).empty_table(), provenance(**record)).schema
    answers = pa.schema([("id", pa.string()), ("response", pa.string())])
    answers = with_record(answers.empty_table(), provenance(**record)).schema
    with (
        pq.ParquetFile(pool.staging) as file,
        pq.ParquetWriter(workshop / "pool.parquet", schema, **_WRITTEN) as writer,
        pq.ParquetWriter(workshop / "references.parquet", answers, **_WRITTEN) as references,
        progress("writing the pool", len(group)) as advance,
    ):
        done = 0
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            span = slice(done, done + table.num_rows)
            starts, counted = prompts[span, 0].tolist(), numbers[span].tolist()
            given = table["id"].to_pylist()
            ids = [i or content_id(s, k) for i, s, k in zip(given, starts, counted, strict=True)]
            columns = {name: table[name] for name in table.column_names}
            columns["id"] = pa.array(ids, pa.string())
            columns["split"] = pa.array(np.where(held[span], HOLDOUT, "pool").tolist(), pa.string())
            columns["group"] = pa.array(group[span])
            columns["near_group"] = pa.array(near_group[span])
            table = pa.table(columns)
            writer.write_table(table.select(schema.names).cast(schema))
            references.write_table(table.select(answers.names).drop_null().cast(answers))
            done = span.stop
            advance(table.num_rows)


def _place_responses(workshop: Path, config: InitConfig, responses: int) -> None:
    """Leave the responses in references.parquet, or make them final answers."""
    import pyarrow.parquet as pq

    file = workshop / "references.parquet"
    if config.response_as == "annotated" and responses:
        with pq.ParquetFile(file) as stored:
            answers = (
                Annotation(row["id"], row["response"], source="imported", status="final")
                for number in range(stored.num_row_groups)
                for row in stored.read_row_group(number).to_pylist()
            )
            AnnotationStore(workshop / "annotations.sqlite").add(answers)
    if config.response_as == "annotated" or not responses:
        file.unlink()
