"""The stored columns of a score run: a part's table, and the merge of all parts. docs/artifacts.md lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.artifacts import atomic_path, read_table, write_table
from thriftune.columns import checksum_of
from thriftune.render import Rendered
from thriftune.scoring.plan import Plan
from thriftune.scoring.transformers import Answer
from thriftune.scoring.uncertainty import aggregate
from thriftune.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa


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

    scores = [aggregate(np.array(a.entropy), np.array(a.nll), np.array(a.margin)) for a in answers]
    columns: dict[str, Any] = {"row": pa.array(rows, pa.int64())}
    for name in scores[0]:
        columns[name] = pa.array([s[name] for s in scores], pa.float32())
    if any(a.prompt_nll is not None for a in answers):
        columns["prompt_nll"] = pa.array([a.prompt_nll for a in answers], pa.float32())
    drafts = [_draft(a.tokens[:-1] if a.finished else a.tokens, tokenizer) for a in answers]
    columns |= {
        "n_prompt_tokens": pa.array([len(r.ids) for r in rendered], pa.int32()),
        "n_steps": pa.array([len(a.tokens) for a in answers], pa.int32()),
        "truncated_prompt": pa.array([r.truncated for r in rendered], pa.bool_()),
        "hit_limit": pa.array([not a.finished for a in answers], pa.bool_()),
        "response": pa.array([text for text, _ in drafts], pa.large_string()),
        "token_ids": pa.array([a.tokens for a in answers], pa.list_(pa.int32())),
        "token_ends": pa.array(
            [
                [*ends, *ends[-1:]] if a.finished and ends else ends or [0]
                for a, (_, ends) in zip(answers, drafts, strict=True)
            ],
            pa.list_(pa.int32()),
        ),
        "token_entropies": pa.array([a.entropy for a in answers], pa.list_(pa.float32())),
        "token_margins": pa.array([a.margin for a in answers], pa.list_(pa.float32())),
    }
    vectors = np.stack([a.embedding for a in answers]).astype(np.float32)
    scale = np.abs(vectors).max(axis=1)
    scale[scale == 0] = 1
    columns["embedding_scale"] = pa.array(scale, pa.float32())
    half = (vectors / scale[:, None]).astype(np.float16)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(half.ravel(), pa.float16()), half.shape[1])
    return pa.table(columns)


def _draft(tokens: list[int], tokenizer: Any) -> tuple[str, list[int]]:
    """The draft as text, and where in it each token ends, in characters."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    if not tokens:
        return "", []
    prefixes = tokenizer.batch_decode([tokens[: i + 1] for i in range(len(tokens))], **options)
    text = prefixes[-1]
    # A token that ends inside a character decodes to a replacement sign; its character belongs to the next token.
    ends = [min(len(p.rstrip("\ufffd")), len(text)) for p in prefixes[:-1]]
    return text, [int(e) for e in np.maximum.accumulate([*ends, len(text)])]


def merge(directory: Path, plan: Plan, ids: pa.ChunkedArray, groups: IntArray, record: dict[str, Any]) -> None:
    """Parts into ``embeddings.npy`` and ``scores.parquet``, rows in pool order, equal prompts sharing one result.

    Args:
        directory: the score run.
        plan: its plan, all parts present.
        ids: (n,) prompt ids of the pool.
        groups: (n,) exact-duplicate groups of the pool.
        record: what made it.
    """
    import pyarrow as pa

    files = [directory / "parts" / f"{p:06d}.parquet" for p in range(plan.parts)]
    _, inverse = np.unique(groups, return_inverse=True)
    # position of each scored row in the concatenated parts, by group number
    place = np.empty(inverse.max() + 1, np.int64)
    place[inverse[plan.rows]] = np.arange(len(plan.rows))
    source = place[inverse]
    width = read_table(files[0], ["embedding"]).schema.field("embedding").type.list_size
    with atomic_path(directory / "embeddings.npy") as temporary:
        stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(len(groups), width))
        order = np.argsort(source, kind="stable")
        bounds = np.searchsorted(source[order], np.cumsum([0, *np.bincount(plan.part)]))
        start = 0
        for number, file in enumerate(files):
            column = read_table(file, ["embedding"])["embedding"].combine_chunks()
            block = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            inside = order[bounds[number] : bounds[number + 1]]
            stored[inside] = block[source[inside] - start]
            start += len(block)
        stored.flush()
        del stored
    names = [n for n in read_table(files[0]).column_names if n not in {"row", "embedding"}]
    # A part whose prompts are all one token long has no prompt_nll; the merged table then has nulls there.
    tables = [read_table(f).drop_columns(["embedding"]) for f in files]
    whole = pa.concat_tables(tables, promote_options="default").take(pa.array(source))
    names = [n for n in whole.column_names if n != "row"]
    table = pa.table({"id": ids, **{n: whole[n] for n in names}})
    checksum = checksum_of(directory / "embeddings.npy")
    write_table(directory / "scores.parquet", table, {**record, "embeddings_crc32": checksum})
