"""What the report is about, read from a study once: the pool, one score run and the selections, all in pool rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune import geometry
from thriftune.artifacts import read_record
from thriftune.errors import StudyError
from thriftune.study import SCORE_COLUMNS, Study
from thriftune.types import BoolArray, FloatArray, IntArray, Message, ObjectArray, Prompt

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Chosen:
    """A stored selection.

    Args:
        name: its name in the study.
        rows: (k,) pool rows in pick order.
        gains: (k,) float or None, in the strategy's unit.
        record: what made it.
    """

    name: str
    rows: IntArray
    gains: FloatArray | None
    record: Mapping[str, Any]

    @property
    def strategy(self) -> str:
        return str(self.record.get("strategy", "unknown"))

    @property
    def params(self) -> Mapping[str, Any]:
        return self.record.get("params") or {}

    @property
    def score(self) -> str | None:
        """The score column it ranks by, where it is plain uncertainty sampling."""
        named = self.params.get("score") if self.strategy == "top_k" else self.strategy
        return str(named) if named in SCORE_COLUMNS else None


@dataclass(frozen=True, eq=False)
class Material:
    """A study as the report sees it; n prompts of the pool, held-out ones left out.

    Args:
        study: where it lies.
        run: the score run shown, or None where there is none.
        run_record: what made the run.
        held_out: prompts set aside for evaluation.
        ids: (n,) object.
        tasks: (n,) object with '' for none, or None where no prompt has a task.
        n_chars: (n,) int.
        groups: (n,) int, equal for the same prompt text.
        near_groups: (n,) int, equal for near-duplicates.
        annotated: (n,) bool, prompts with a final answer.
        scores: name -> (n,) float.
        tokens: (n,) int prompt lengths in tokens, or None without scores.
        truncated: (n,) bool, prompts cut to the model's context, or None.
        hit_limit: (n,) bool, drafts that ended at the limit of new tokens, or None.
        chosen: the selections.
    """

    study: Study
    run: str | None
    run_record: Mapping[str, Any]
    held_out: int
    ids: ObjectArray
    tasks: ObjectArray | None
    n_chars: IntArray
    groups: IntArray
    near_groups: IntArray
    annotated: BoolArray
    scores: Mapping[str, FloatArray] = field(default_factory=dict)
    tokens: IntArray | None = None
    truncated: BoolArray | None = None
    hit_limit: BoolArray | None = None
    chosen: Sequence[Chosen] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> IntArray:
        """(n,) prompt lengths, in `length_unit`."""
        return self.n_chars if self.tokens is None else self.tokens

    @property
    def length_unit(self) -> str:
        return "characters" if self.tokens is None else "tokens"

    @property
    def picks(self) -> dict[str, IntArray]:
        """Rows in pick order by name of selection."""
        return {c.name: c.rows for c in self.chosen}

    @functools.cached_property
    def covered(self) -> BoolArray:
        """(n,) bool, answered prompts that no selection shown picked: covered whatever is picked."""
        mask = np.array(self.annotated)
        for c in self.chosen:
            mask[c.rows] = False
        return mask

    @functools.cached_property
    def embeddings(self) -> FloatArray | None:
        """(n, d) float32 embeddings as distances on the page see them, or None where the run has none."""
        return self.space(geometry.HIDDEN_STATES)

    @functools.cached_property
    def _spaces(self) -> dict[str, FloatArray]:
        return {}

    def space(self, transform: geometry.Transform) -> FloatArray | None:
        """(n, d) float32 embeddings under ``transform``, or None where the run has none.

        Raises:
            StudyError: they are not finite.
        """
        if self.run is None or not len(self) or not (self.study.score_directory(self.run) / "embeddings.npy").exists():
            return None
        if transform in self._spaces:
            return self._spaces[transform]
        x = geometry.transform(self.study.embeddings(self.run), transform)
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(bad):
            raise StudyError(
                f"the embedding of prompt {self.ids[bad[0]]!r} in score run {self.run!r} is not finite: "
                f"score again with --dtype float32 under another --name"
            )
        self._spaces[transform] = x
        return x

    def starts(self, rows: IntArray, length: int) -> list[str]:
        """The first ``length`` characters of the prompts at ``rows``, on one line each."""
        import pyarrow.compute as pc

        texts = pc.utf8_slice_codeunits(self._texts["text"].take(rows), 0, length + 1).to_pylist()
        return [f"{t[:length]}…" if len(t) > length else t for t in (" ".join(str(t).split()) for t in texts)]

    def turns(self, rows: IntArray) -> list[list[Message]]:
        """The chats that the model was asked to continue, for the prompts at ``rows``."""
        table = self._texts.take(rows).to_pylist()
        return [Prompt(r["id"], r["text"], messages=r["messages"] and tuple(r["messages"])).turns for r in table]

    def drafts(self, rows: IntArray) -> list[dict[str, Any]]:
        """The model's draft answers to the prompts at ``rows``; empty dictionaries without scores."""
        if self.run is None:
            return [{} for _ in rows]
        columns = ["response", "n_steps", "hit_limit", "token_ends", "token_entropies", "token_margins"]
        drafts: list[dict[str, Any]] = self.study.scores(self.run, columns).take(rows).to_pylist()
        return drafts

    @functools.cached_property
    def _texts(self) -> pa.Table:
        return self.study.pool(["id", "text", "messages"])


def load(study: Study, run: str | None = None, selections: Sequence[str] | None = None) -> Material:
    """Read what the report needs.

    Args:
        study: an existing study.
        run: a finished score run; None for the latest, or for none where there is none.
        selections: names; None for all.

    Returns:
        The material.

    Raises:
        StudyError: something asked for is not there, or artifacts do not fit together.
    """
    table = study.pool(["id", "task", "n_chars", "group", "near_group"])
    ids = np.array(table["id"].to_pylist(), dtype=object)
    tasks = table["task"].to_pylist()
    answered = study.annotations.answered()
    scored: dict[str, Any] = {"run": None, "run_record": {}}
    if run is not None or study.score_runs():
        scored = _scored(study, study.score_run(run), ids)
    return Material(
        study=study,
        held_out=study.pool(["id"], split="holdout").num_rows,
        ids=ids,
        tasks=None if all(t is None for t in tasks) else np.array([t or "" for t in tasks], dtype=object),
        n_chars=table["n_chars"].to_numpy(),
        groups=table["group"].to_numpy(),
        near_groups=table["near_group"].to_numpy(),
        annotated=np.fromiter((i in answered for i in ids), bool, len(ids)),
        chosen=_chosen(study, ids, study.selections() if selections is None else selections),
        **scored,
    )


def _scored(study: Study, run: str, ids: ObjectArray) -> dict[str, Any]:
    import pyarrow.parquet as pq

    file = study.score_directory(run) / "scores.parquet"
    wanted = ["id", "n_prompt_tokens", "truncated_prompt", "hit_limit"]
    there = set(pq.read_schema(file).names)
    table = study.scores(run, [*wanted, *(c for c in SCORE_COLUMNS if c in there)])
    if table["id"].to_pylist() != ids.tolist():
        raise StudyError(f"score run {run!r} belongs to another pool: rerun: thriftune score {study.quoted}")
    scores = {c: table[c].to_numpy().astype(np.float64) for c in SCORE_COLUMNS if c in there}
    return {
        "run": run,
        "run_record": read_record(file),
        # A column that the run left out (prompt_nll is optional) may be there without values.
        "scores": {c: values for c, values in scores.items() if np.isfinite(values).any()},
        "tokens": table["n_prompt_tokens"].to_numpy(),
        "truncated": np.asarray(table["truncated_prompt"].to_pylist(), bool),
        "hit_limit": np.asarray(table["hit_limit"].to_pylist(), bool) if "mean_nll" in there else None,
    }


def _chosen(study: Study, ids: ObjectArray, names: Sequence[str]) -> list[Chosen]:
    row = {prompt: i for i, prompt in enumerate(ids)}
    found = []
    for name in dict.fromkeys(names):
        picked, gains, record = study.selection(name)
        missing = next((i for i in picked if i not in row), None)
        if missing is not None:
            raise StudyError(
                f"selection {name!r} holds prompt {missing!r}, which is not in the pool of {study.path}: "
                f"make it again with thriftune select, or name the selections to show with --selections"
            )
        found.append(Chosen(name, np.array([row[i] for i in picked], np.int64), gains, record))
    return found
