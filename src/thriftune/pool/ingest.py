"""The first pass: every row is read once, judged, and put into a staging file; only digests stay in memory."""

from __future__ import annotations

import contextlib
import itertools
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from thriftune.config import InitConfig
from thriftune.errors import PoolError
from thriftune.pool.deduplicate import NearDuplicates
from thriftune.pool.identify import digest, digest_turns
from thriftune.pool.layouts import NO_COLUMN, SAMPLE, Draft, Layout, as_json, listed
from thriftune.pool.read import Source, read_source
from thriftune.pool.rows import Reject, Row
from thriftune.pool.turns import Unusable, readable

# What is held at once, and a row group of the files written.
_BATCH_ROWS = 8192
_BATCH_CHARACTERS = 8 << 20
_HOPELESS = 1000  # rejects at the start after which a source is given up
_EXAMPLES = 3  # places named for each reason of rejection


@dataclass
class SourceSummary:
    """What became of one source."""

    name: str
    understood: str = ""
    prompts: int = 0
    rejected: int = 0
    record: dict[str, Any] = field(default_factory=dict)


class Rejects:
    """Rows that cannot be used, written to a file as they come.

    Args:
        file: JSON lines; made with the first reject.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self._handle: TextIO | None = None

    def add(self, source: str, reject: Reject) -> None:
        """Keep a row with the reason."""
        self.counts[reject.reason] += 1
        places = self.examples.setdefault(reject.reason, [])
        if len(places) < _EXAMPLES:
            places.append(f"{source}:{reject.line} ({reject.detail})")
        if self._handle is None:
            self._handle = self.file.open("w", encoding="utf-8")
        self._handle.write(as_json({"source": source, **reject._asdict()}) + "\n")

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


@dataclass
class Ingested:
    """The pool after the first pass; arrays and byte strings have one entry a prompt, in the order read."""

    staging: Path
    near: NearDuplicates
    rejects: Rejects
    sources: list[SourceSummary] = field(default_factory=list)
    prompts: bytearray = field(default_factory=bytearray)
    rows: bytearray = field(default_factory=bytearray)
    lengths: array[int] = field(default_factory=lambda: array("i"))
    without_id: array[int] = field(default_factory=lambda: array("q"))
    ids: set[bytes] = field(default_factory=set)
    tasks: Counter[str] = field(default_factory=Counter)
    responses: int = 0


def staging_schema() -> Any:
    """Columns of the staging file: the pool's, before ids, groups and split are known."""
    import pyarrow as pa

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("messages", pa.list_(turn)),
            ("task", pa.string()),
            ("n_chars", pa.int32()),
            ("source", pa.string()),
            ("line", pa.int64()),
            ("meta", pa.string()),
            ("response", pa.string()),
        ]
    )


def ingest(sources: list[Source], config: InitConfig, directory: Path) -> Ingested:
    """Read all sources into ``directory``.

    Args:
        sources: where rows come from.
        config: columns, and whether rejects are fatal.
        directory: takes the staging file, the shingles and the rejects.

    Returns:
        What is known of the pool.

    Raises:
        PoolError: a source cannot be read or holds nothing usable, a named column is nowhere, or there are rejects
            although ``config.strict``.
    """
    import pyarrow.parquet as pq

    rejects = Rejects(directory / "rejects.jsonl")
    pool = Ingested(directory / "staging.parquet", NearDuplicates(directory / "shingles.bin"), rejects)
    with (
        contextlib.closing(rejects),
        contextlib.closing(pool.near),
        pq.ParquetWriter(pool.staging, staging_schema(), compression="zstd", compression_level=1) as writer,
    ):
        batch = _Batch(pool, writer)
        layouts = [_ingest_source(source, config, pool, batch) for source in sources]
        batch.flush()
    _check(pool, config, [layout for layout in layouts if layout is not None])
    return pool


def _ingest_source(source: Source, config: InitConfig, pool: Ingested, batch: _Batch) -> Layout | None:
    summary = SourceSummary(source.name)
    pool.sources.append(summary)
    items = read_source(source, summary.record)
    first: list[Row | Reject] = []
    rows: list[dict[str, Any]] = []
    for item in items:
        first.append(item)
        if isinstance(item, Row):
            rows.append(item.values)
        if len(rows) == SAMPLE or len(first) == _HOPELESS:
            break
    if not rows:
        summary.understood = "no rows"
        for item in first:
            if isinstance(item, Reject):
                raise PoolError(
                    f"{source.name}:{item.line}: {item.reason} ({item.detail}), and no row before or after it is "
                    "readable: check that the file is what its name says"
                )
        return None
    layout = Layout(rows, config, source.name)
    for item in itertools.chain(first, items):
        reject = item if isinstance(item, Reject) else _accept(item, layout, source, pool, batch)
        if reject is None:
            summary.prompts += 1
        else:
            summary.rejected += 1
            pool.rejects.add(source.name, reject)
    summary.understood = layout.described()
    if not summary.prompts:
        reasons = "; ".join(f"{reason}: {places[0]}" for reason, places in pool.rejects.examples.items())
        hint = f" (--id-column {NO_COLUMN} makes ids from the content)" if "duplicate id" in reasons else ""
        raise PoolError(
            f"{source.name}: none of its {summary.rejected:,} rows is usable: {reasons}{hint}: mend the file"
        )
    return layout


def _accept(row: Row, layout: Layout, source: Source, pool: Ingested, batch: _Batch) -> Reject | None:
    """Put a row into the batch; the reject if it is unusable."""
    try:
        draft = layout.draft(row.values)
        if draft.id is not None:
            key = digest(draft.id)
            if key in pool.ids:
                raise Unusable("duplicate id", f"{draft.id!r} was used before")
            pool.ids.add(key)
    except Unusable as error:
        return Reject(row.line, error.reason, error.detail, row.values)
    batch.add(draft, source.name, row.line)
    return None


class _Batch:
    """Prompts on their way to the staging file."""

    def __init__(self, pool: Ingested, writer: Any) -> None:
        self.pool, self.writer = pool, writer
        self.rows: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.characters = 0

    def add(self, draft: Draft, source: str, line: int) -> None:
        pool, text = self.pool, readable(draft.turns)
        if draft.id is None:
            pool.without_id.append(len(pool.lengths))
        pool.prompts += digest_turns(draft.turns)
        pool.rows += digest(repr((draft.id, draft.response, draft.task, draft.meta)))
        pool.lengths.append(len(text))
        pool.responses += draft.response is not None
        if draft.task is not None:
            pool.tasks[draft.task] += 1
        self.rows.append(
            {
                "id": draft.id,
                "text": text,
                "messages": None if len(draft.turns) == 1 and draft.turns[0]["role"] == "user" else draft.turns,
                "task": draft.task,
                "n_chars": len(text),
                "source": source,
                "line": line,
                "meta": draft.meta,
                "response": draft.response,
            }
        )
        # A system prompt that the whole pool shares would make everything a near duplicate of everything.
        self.asked.append("\n".join(t["content"] for t in draft.turns if t["role"] != "system"))
        self.characters += len(text)
        if len(self.rows) == _BATCH_ROWS or self.characters >= _BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=staging_schema()))
            self.pool.near.add(self.asked)
        self.rows, self.asked, self.characters = [], [], 0


def _check(pool: Ingested, config: InitConfig, layouts: list[Layout]) -> None:
    if not layouts:
        raise PoolError(f"no row in {', '.join(s.name for s in pool.sources)}: give files that hold prompts")
    for option in ("response", "task", "id"):
        columns = [getattr(layout, option) for layout in layouts]
        if not any(column.seen for column in columns):
            there = listed(dict.fromkeys(c for layout in layouts for c in layout.columns))
            raise PoolError(
                f"no row has the column {columns[0].name!r} of --{option}-column (columns: {there}): name one of these"
            )
    if config.strict and pool.rejects.counts:
        places = "; ".join(f"{reason}: {', '.join(p)}" for reason, p in pool.rejects.examples.items())
        total = pool.rejects.counts.total()
        raise PoolError(
            f"{total:,} unusable rows, and --strict allows none; nothing was written: {places}; mend them, or leave "
            "--strict out"
        )
