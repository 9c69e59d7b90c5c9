"""What the page shows of a prompt: its turns, a draft answer, a line for lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from thriftune.errors import StudyError
from thriftune.study import Study
from thriftune.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

_SNIPPET = 160
_BLOCK = 4096


class _Part(NamedTuple):
    """What was read at once: from the first rank on, the row of each rank."""

    first: int
    prompts: pa.Table
    rows: IntArray
    drafts: pa.ChunkedArray
    drafted: pa.Array | None


class Material:
    """Prompts and drafts in the order of the ranking, as Arrow tables: Python objects only of what is asked for.

    Args:
        study: where they are.
        run: the score run that the picks were made from, whose drafts are shown.
        drafts: with models' answers.
    """

    def __init__(self, study: Study, run: str | None, *, drafts: bool) -> None:
        self._study, self._run, self._with_drafts = study, run, drafts
        self._parts: list[_Part] = []
        self._drafts: dict[str, dict[str, str]] = {}
        self._count = 0

    def add(self, ids: Sequence[str]) -> None:
        """Read further prompts, which come after those before them.

        Raises:
            StudyError: one is not in the study.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if not ids:
            return
        wanted = pa.array(ids, pa.string())
        columns = ["id", "text", "messages", "task"]
        # Nothing becomes a Python object before it is known to be wanted: a pool may have a million rows.
        table = _only(self._study.pool(columns, split=None), wanted)
        place = pc.index_in(wanted, value_set=table["id"])
        if place.null_count:
            first = ids[place.is_null().index(True).as_py()]
            raise StudyError(
                f"{place.null_count} prompts are not in {self._study.path}, the first: {first!r}; "
                "the pool or the selection was replaced: run thriftune select again"
            )
        runs = self._study.score_runs() if self._with_drafts else []
        scored, drafted = pa.table({"response": pa.array([], pa.string())}), None
        if runs:
            name = self._run if self._run in runs else None
            scored = _only(self._study.scores(name, ["id", "response"]), wanted)
            drafted = pc.index_in(wanted, value_set=scored["id"])
        self._parts.append(_Part(self._count + 1, table, place.to_numpy(), scored["response"], drafted))
        self._count += len(ids)
        if self._with_drafts:
            known = set(ids)
            for a in self._study.annotations.in_force():
                if a.source == "teacher" and a.status == "final" and a.prompt_id in known:
                    self._drafts[a.prompt_id] = {"text": a.response, "by": a.annotator or "the teacher"}
        pa.default_memory_pool().release_unused()

    def __call__(self, rank: int) -> dict[str, Any]:
        """``task``, ``turns`` and ``draft`` (``text`` and ``by``, or None) of the prompt of a rank."""
        row = self._row(rank)
        draft = self._drafts.get(row["id"]) or {"text": self._draft(rank) or "", "by": "the model"}
        return {"task": row["task"], "turns": _turns(row), "draft": draft if draft["text"].strip() else None}

    def snippet(self, rank: int) -> str:
        """A line that tells the prompt from others."""
        # What does stands in the last turn, not in a system turn that all of them share.
        return " ".join(_turns(self._row(rank))[-1]["content"][: 4 * _SNIPPET].split())[:_SNIPPET]

    def searchable(self, end: int) -> Iterator[str]:
        """Text and task of each prompt up to a rank, case folded."""
        for part in self._parts:
            inside = part.rows[: max(end - part.first + 1, 0)]
            for start in range(0, len(inside), _BLOCK):
                block = part.prompts.select(["text", "task"]).take(inside[start : start + _BLOCK])
                for text, task in zip(block["text"].to_pylist(), block["task"].to_pylist(), strict=True):
                    yield f"{text}\n{task or ''}".casefold()

    def _row(self, rank: int) -> dict[str, Any]:
        part = self._part(rank)
        found: dict[str, Any] = part.prompts.slice(int(part.rows[rank - part.first]), 1).to_pylist()[0]
        return found

    def _draft(self, rank: int) -> str | None:
        part = self._part(rank)
        row = None if part.drafted is None else part.drafted[rank - part.first].as_py()
        return None if row is None else part.drafts[row].as_py()

    def _part(self, rank: int) -> _Part:
        return next(part for part in reversed(self._parts) if part.first <= rank)


def _turns(row: dict[str, Any]) -> list[dict[str, str]]:
    return row["messages"] or [{"role": "user", "content": row["text"]}]


def _only(table: pa.Table, ids: pa.Array) -> pa.Table:
    """The rows of these ids, each text in one piece of memory."""
    import pyarrow.compute as pc

    if 2 * len(ids) < table.num_rows:
        table = table.filter(pc.is_in(table["id"], value_set=ids))
    return table.combine_chunks()
