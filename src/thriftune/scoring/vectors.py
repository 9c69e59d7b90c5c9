"""Embeddings of the pool's texts by another model than the one scored: run here, or asked of a server."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.config import EmbedConfig
from thriftune.endpoint import Agree, Endpoint, Reply, Request
from thriftune.errors import EndpointError
from thriftune.progress import progress
from thriftune.scoring.columns import vector_columns
from thriftune.scoring.embedder import Embedder, load_embedder
from thriftune.scoring.openai import server, shortened
from thriftune.scoring.parts import Gathered, Parts, Say
from thriftune.types import FloatArray, IntArray, Message

if TYPE_CHECKING:
    import pyarrow as pa

_SERVED = "endpoint:"
_BATCH = 32  # texts a batch or a request
_BATCH_CHARS = 32_768  # of a batch's longest text times their number
_REQUEST_CHARS = 8_192  # the same of a request: even a server short of cores must answer before the timeout
_TOO_LONG = re.compile(r"context|too long|too large|batch size|tokens|exceed", re.I)
Vector = tuple[FloatArray, bool]


def vector_table(rows: IntArray, vectors: Sequence[Vector]) -> pa.Table:
    """Rows of a part: pool row, embedding, its scale, and whether the text was cut."""
    import pyarrow as pa

    columns = vector_columns(np.stack([v for v, _ in vectors]))
    return pa.table({"row": pa.array(rows, pa.int64()), **columns, "cut": pa.array([bool(c) for _, c in vectors])})


def load_for(config: EmbedConfig, say: Say) -> Embedder | None:
    """The embedder that runs here; None where a server is asked."""
    if config.embedder.startswith(_SERVED):
        return None
    return load_embedder(
        config.embedder,
        revision=config.revision,
        prefix=config.prefix,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
        say=say,
    )


def embed_pool(
    directory: Path,
    pool: pa.Table,
    rows: IntArray,
    config: EmbedConfig,
    here: Embedder | None,
    *,
    agree: Agree,
    say: Say,
) -> Gathered:
    """Embed the texts that have no embedding yet; what is done is on disk within seconds.

    Args:
        directory: of the parts.
        pool: ``text`` of the prompts.
        rows: (m,) rows of it, one for each text.
        config: the embedder.
        here: as `load_for` gave it.
        agree: is shown the cost in advance and may say no, where a server is asked.
        say: receives the lines meant for people.

    Returns:
        The parts, with ``embedding``, ``embedding_scale`` and ``cut``.

    Raises:
        EndpointError: the server cannot be used, or some texts have no embedding yet.
        ScoreError: memory does not suffice.
    """
    parts = Parts[Vector](directory, vector_table, say)
    left = parts.missing(rows)
    if len(left):
        import pyarrow.compute as pc

        # Long texts first: what does not fit is found at once, and little is padded.
        lengths = pc.utf8_length(pool["text"].take(left)).to_numpy()
        left = left[np.argsort(-lengths, kind="stable")]
        try:
            if here is None:
                _ask(parts, pool, left, config, agree=agree, say=say)
            else:
                _run(parts, pool, left, here, say=say)
        finally:
            parts.flush()
    return parts.gathered()


def _batches(pool: pa.Table, rows: IntArray, chars: int) -> list[IntArray]:
    import pyarrow.compute as pc

    lengths = pc.utf8_length(pool["text"].take(rows)).to_numpy()
    batches, start = [], 0
    while start < len(rows):
        size = int(min(_BATCH, max(1, chars // max(int(lengths[start]), 1))))
        batches.append(rows[start : start + size])
        start += size
    return batches


def _texts(pool: pa.Table, rows: IntArray) -> list[str]:
    texts: list[str] = pool["text"].take(rows).to_pylist()
    return texts


def _run(parts: Parts[Vector], pool: pa.Table, rows: IntArray, embedder: Embedder, *, say: Say) -> None:
    batches = _batches(pool, rows, _BATCH_CHARS)
    if len(batches) > 8:
        sample = rows[np.linspace(0, len(rows) - 1, _BATCH).astype(np.int64)]
        embedder.encode(_texts(pool, sample[:2]))  # the first call warms up
        began = time.monotonic()
        for batch in _batches(pool, sample, _BATCH_CHARS):
            embedder.encode(_texts(pool, batch))
        minutes = (time.monotonic() - began) / len(sample) * len(rows) / 60
        say(f"to do: {len(rows):,} distinct texts; about {minutes:.1f} min with {embedder.spec} on {embedder.device}")
    with progress("embedding", len(rows), "texts") as advance:
        for batch in batches:
            for row, vector in zip(batch, embedder.encode(_texts(pool, batch)), strict=True):
                parts.add(int(row), vector)
            advance(len(batch))


def _ask(parts: Parts[Vector], pool: pa.Table, rows: IntArray, config: EmbedConfig, *, agree: Agree, say: Say) -> None:
    endpoint = Endpoint(server(config, config.embedder.removeprefix(_SERVED), 1))
    batches = dict(enumerate(_batches(pool, rows, _REQUEST_CHARS)))
    shorter: dict[str, list[str]] = {}
    failed: list[str] = []
    widths: set[int] = set()

    def request(number: int) -> Request:
        texts = shorter.get(str(number)) or [config.prefix + t for t in _texts(pool, batches[number])]
        turns = [Message(role="user", content=t) for t in texts]
        return Request(str(number), turns, {"encoding_format": "float"}, "embeddings")

    def deliver(reply: Reply) -> Request | None:
        number = int(reply.key)
        if reply.completion is None:
            cut = shortened(request(number).messages)
            if cut is None or not (reply.error.startswith("refused") and _TOO_LONG.search(reply.error)):
                failed.append(reply.error)
                return None
            shorter[reply.key] = [t["content"] for t in cut]
            return request(number)
        texts, asked = _texts(pool, batches[number]), shorter.get(reply.key)
        for at, (row, vector) in enumerate(zip(batches[number], reply.completion.data, strict=True)):
            found = np.array(vector, np.float32)
            widths.add(len(found))
            if not np.isfinite(found).all() or len(widths) > 1:
                raise EndpointError(f"{endpoint.url} sent embeddings of several lengths, or one that is not finite")
            parts.add(int(row), (found, asked is not None and asked[at] != config.prefix + texts[at]))
        return None

    requests = [request(number) for number in batches]
    estimate = endpoint.estimate(requests)
    say(f"{len(rows):,} distinct texts in {estimate}")
    if not agree(estimate):
        raise EndpointError("nothing was sent")
    unasked = endpoint.ask(requests, deliver, description="embedding", say=say)
    for line in endpoint.summary():
        say(line)
    if unasked or failed:
        why = failed[0] if failed else f"{endpoint.spending.limit()} is used up"
        raise EndpointError(
            f"{unasked + len(failed):,} of {len(batches):,} requests brought no embeddings ({why}); the same command "
            "asks again"
        )


def count_cut(vectors: Gathered) -> int:
    """How many texts were cut."""
    from thriftune.artifacts import read_table

    return sum(sum(read_table(f, ["cut"])["cut"].to_pylist()) for f in vectors.files)


def described(config: EmbedConfig, here: Embedder | None) -> dict[str, Any]:
    """What made the embeddings, for the manifest; a run goes on only with the same."""
    if here is None:
        return {"embedder": config.embedder, "prefix": config.prefix}
    return {
        "embedder": here.spec,
        "revision": here.revision,
        "pooling": here.pooling,
        "normalised": here.normalise,
        "max_tokens": here.limit,
        "prefix": here.prefix,
    }
