"""The records that stages exchange. Shapes are part of the contract: n prompts, d embedding dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]
ObjectArray = npt.NDArray[np.object_]


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the pool.

    Args:
        id: unique in the study.
        text: what a person reads: the user's turn; for a chat of several turns, the turns joined.
        task: the label of the kind of prompt, where the pool has one.
        messages: the turns that lead to the response, last one the user's; None means one user turn, ``text``.
        meta: whatever else the pool's row held.
    """

    id: str
    text: str
    task: str | None = None
    messages: tuple[Message, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def turns(self) -> list[Message]:
        """The chat that the model is asked to continue."""
        if self.messages is None:
            return [Message(role="user", content=self.text)]
        return list(self.messages)


@dataclass(frozen=True)
class Candidates:
    """Immutable columns over one index space, rows ``0..n-1``; every array is read-only.

    Args:
        ids: (n,) object, unique strings.
        embeddings: (n, d) float, or None.
        scores: name -> (n,) float, higher = more uncertain.
        annotated: (n,) bool, prompts that already have a final answer.
        tasks: (n,) object, task labels, or None.
        lengths: (n,) number, prompt length in tokens (or characters where no model has seen the pool), or None.
        costs: (n,) float > 0, price of annotating the prompt, or None.
        weights: (n,) float >= 0, how much the prompt counts as something to be covered, or None.
        groups: (n,) integer; rows with the same number are the same prompt text; or None: all distinct.
    """

    ids: ObjectArray
    embeddings: FloatArray | None = None
    scores: Mapping[str, FloatArray] = field(default_factory=dict)
    annotated: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    tasks: ObjectArray | None = None
    lengths: FloatArray | IntArray | None = None
    costs: FloatArray | None = None
    weights: FloatArray | None = None
    groups: IntArray | None = None

    def __post_init__(self) -> None:
        if self.annotated.size == 0 and len(self.ids):
            object.__setattr__(self, "annotated", np.zeros(len(self.ids), bool))
        # Views, so that marking them read-only does not touch the caller's arrays.
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, f.name, _read_only(value))
        object.__setattr__(self, "scores", {k: _read_only(v) for k, v in self.scores.items()})

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: IntArray) -> Candidates:
        """The candidates at ``rows`` (m,), in that order, as a new index space."""
        columns: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            columns[f.name] = value[rows] if isinstance(value, np.ndarray) else value
        columns["scores"] = {name: column[rows] for name, column in self.scores.items()}
        return Candidates(**columns)

    def with_annotated(self, annotated: BoolArray) -> Candidates:
        """The same candidates with another ``annotated`` (n,) mask."""
        return replace(self, annotated=annotated)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class Picks:
    """What a strategy returns, in rows of the Candidates it was given.

    Args:
        rows: (budget,) integer, in pick order.
        gains: (budget,) float, what each pick added in the strategy's own unit, or None.
        certificate: a proven statement about the quality of the picks, or None.
        notes: what the strategy decided by itself (an automatic width, an engine), for the record.
        partial: True when the strategy was interrupted and ``rows`` is a valid shorter prefix.
    """

    rows: IntArray
    gains: FloatArray | None = None
    certificate: Mapping[str, Any] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False


@dataclass(frozen=True)
class Selection:
    """Prompts chosen for annotation, in pick order.

    Args:
        ids: (k,) object, prompt ids.
        rows: (k,) integer, positions in what ``select`` was given.
        gains: (k,) float or None, see the strategy.
        strategy: its name.
        budget: how many were asked for.
        seed: the seed of randomised strategies.
        params: the strategy's parameters as resolved.
        certificate: a proven statement about quality, or None.
        notes: what was decided automatically.
        partial: True when interrupted before ``budget`` was reached.
    """

    ids: ObjectArray
    rows: IntArray
    gains: FloatArray | None
    strategy: str
    budget: int
    seed: int
    params: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False

    def __len__(self) -> int:
        return len(self.ids)


Source = Literal["human", "teacher", "imported"]
Status = Literal["draft", "final", "skipped"]


@dataclass(frozen=True, slots=True)
class Annotation:
    """A response to a prompt.

    Args:
        prompt_id: the prompt answered.
        response: the answer, as text.
        annotator: who answered; empty where unknown.
        source: ``human``, ``teacher`` (a model) or ``imported`` (came with the pool).
        seconds: time spent answering, or None where it was not measured.
        status: ``draft``, ``final`` or ``skipped``.
    """

    prompt_id: str
    response: str
    annotator: str = ""
    source: Source = "human"
    seconds: float | None = None
    status: Status = "final"
