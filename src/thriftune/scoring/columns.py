"""The stored columns of a score run: a part's table, and the merge of all parts. docs/artifacts.md lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.artifacts import atomic_path, read_table, write_table
from thriftune.columns import checksum_of
from thriftune.errors import ScoreError
from thriftune.render import Rendered
from thriftune.scoring.parts import Gathered
from thriftune.scoring.transformers import Answer
from thriftune.scoring.uncertainty import aggregate
from thriftune.types import FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

_NOT_MERGED = ("row", "embedding", "embedding_scale")


def part_table(rows: IntArray, rendered: Sequence[Rendered], answers: Sequence[Answer], tokenizer: Any) -> pa.Table:
    """Rows of a part: scores, draft, per-step values and the embedding.

    Args:
        rows: (m,) pool row of each prompt.
        rendered: the prompts as the model read them.
        answers: what the pass yielded.
        tokenizer: to write the drafts as text.

    Returns:
        One row a prompt.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {"row": pa.array(rows, pa.int64())}
    if any(a.tokens for a in answers):  # prompts that were only read have empty drafts, and no scores of them
        scores = [aggregate(np.array(a.entropy), np.array(a.nll), np.array(a.margin)) for a in answers]
        columns |= {name: pa.array([s[name] for s in scores], pa.float32()) for name in scores[0]}
    if any(a.prompt_nll is not None for a in answers):
        columns["prompt_nll"] = pa.array([a.prompt_nll for a in answers], pa.float32())
    drafts = [draft(a.tokens[:-1] if a.finished else a.tokens, tokenizer) for a in answers]
    columns |= {
        "n_prompt_tokens": pa.array([len(r.ids) for r in rendered], pa.int32()),
        "n_steps": pa.array([len(a.tokens) for a in answers], pa.int32()),
        "truncated_prompt": pa.array([r.truncated for r in rendered], pa.bool_()),
        "hit_limit": pa.array([bool(a.tokens) and not a.finished for a in answers], pa.bool_()),
        "response": pa.array([text for text, _ in drafts], pa.large_string()),
        "token_ids": pa.array([a.tokens for a in answers], pa.list_(pa.int32())),
        "token_ends": pa.array(
            [
                [] if not a.tokens else [*ends, *ends[-1:]] if a.finished and ends else ends or [0]
                for a, (_, ends) in zip(answers, drafts, strict=True)
            ],
            pa.list_(pa.int32()),
        ),
        "token_entropies": pa.array([a.entropy for a in answers], pa.list_(pa.float32())),
        "token_margins": pa.array([a.margin for a in answers], pa.list_(pa.float32())),
    }
    return pa.table({**columns, **vector_columns(np.stack([a.embedding for a in answers]))})


def vector_columns(vectors: FloatArray) -> dict[str, Any]:
    """``embedding_scale`` and ``embedding`` of vectors (m, d): float16 of each over its largest magnitude."""
    import pyarrow as pa

    vectors = vectors.astype(np.float32, copy=False)
    scale = np.abs(vectors).max(axis=1)
    scale[scale == 0] = 1
    half = (vectors / scale[:, None]).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(half.ravel(), pa.float16()), half.shape[1])
    return {"embedding_scale": pa.array(scale, pa.float32()), "embedding": column}


def draft(tokens: list[int], tokenizer: Any) -> tuple[str, list[int]]:
    """The draft as text, and where in it each token ends, in characters."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    if not tokens:
        return "", []
    prefixes = tokenizer.batch_decode([tokens[: i + 1] for i in range(len(tokens))], **options)
    text = prefixes[-1]
    # A token that ends inside a character decodes to a replacement sign; its character belongs to the next token.
    ends = [min(len(p.rstrip("\ufffd")), len(text)) for p in prefixes[:-1]]
    return text, [int(e) for e in np.maximum.accumulate([*ends, len(text)])]


def merge(
    directory: Path,
    scored: Gathered,
    vectors: Gathered | None,
    ids: pa.ChunkedArray,
    groups: IntArray,
    record: dict[str, Any],
) -> None:
    """Parts into ``embeddings.npy`` and ``scores.parquet``, rows in pool order, equal prompts sharing one result.

    Args:
        directory: the score run.
        scored: its parts, each distinct prompt once.
        vectors: parts with ``embedding`` and ``embedding_scale``; None where there are none.
        ids: (n,) prompt ids of the pool.
        groups: (n,) exact-duplicate groups of the pool.
        record: what made it.
    """
    import pyarrow as pa

    # A part whose prompts are all one token long has no prompt_nll; the merged table then has nulls there.
    tables = [t.drop_columns([n for n in t.column_names if n in _NOT_MERGED]) for t in map(read_table, scored.files)]
    whole = pa.concat_tables(tables, promote_options="default").take(pa.array(_source(scored.rows, groups)))
    columns = {n: whole[n] for n in whole.column_names}
    if vectors is not None:
        columns["embedding_scale"] = write_embeddings(directory / "embeddings.npy", vectors, groups)
        record = {**record, "embeddings_crc32": checksum_of(directory / "embeddings.npy")}
    write_table(directory / "scores.parquet", pa.table({"id": ids, **columns}), record)


def _source(rows: IntArray, groups: IntArray) -> IntArray:
    """(n,) where among the gathered ``rows`` each row of the pool has its result."""
    _, inverse = np.unique(groups, return_inverse=True)
    place = np.empty(inverse.max() + 1, np.int64)
    place[inverse[rows]] = np.arange(len(rows))
    return place[inverse]


def write_embeddings(file: Path, vectors: Gathered, groups: IntArray) -> pa.ChunkedArray:
    """Gathered embeddings into one array, rows in pool order.

    Args:
        file: ``embeddings.npy``.
        vectors: parts with ``embedding`` and ``embedding_scale``.
        groups: (n,) exact-duplicate groups of the pool.

    Returns:
        (n,) float32, what each row is to be multiplied by.

    Raises:
        ScoreError: embeddings differ in length, which a server that was changed between two runs can cause.
    """
    import pyarrow as pa

    source = _source(vectors.rows, groups)
    width = read_table(vectors.files[0], ["embedding"]).schema.field("embedding").type.list_size
    order = np.argsort(source, kind="stable")
    sorted_source = source[order]
    start, scales = 0, []
    with atomic_path(file) as temporary:
        stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(len(groups), width))
        for part in vectors.files:
            table = read_table(part, ["embedding", "embedding_scale"])
            scales.append(table["embedding_scale"])
            if table.schema.field("embedding").type.list_size != width:
                raise ScoreError(f"the embeddings in {part.parent} have several lengths: remove it, and run this again")
            block = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            first, last = np.searchsorted(sorted_source, [start, start + len(block)])
            inside = order[first:last]
            stored[inside] = block[source[inside] - start]
            start += len(block)
        stored.flush()
        del stored
    return pa.chunked_array([c for s in scales for c in s.chunks], pa.float32()).take(pa.array(source))
