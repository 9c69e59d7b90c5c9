"""What an engine that reports only the k largest log-probabilities of each step says of a prompt, and its columns."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.scoring.topk import bounds
from thriftune.scoring.uncertainty import aggregate
from thriftune.types import FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa


def _none() -> FloatArray:
    return np.empty((0, 2))


@dataclass
class Served:
    """One prompt's greedy answer as an engine reported it.

    Args:
        response: the draft.
        chosen: (t,) log-probability of each token taken, nats.
        top: (t, k) log-probabilities of the most probable tokens, -inf where there are fewer than k.
        ends: (t,) where in ``response`` each step's token ends, in characters.
        tokens: (t,) token ids, or None where the engine does not tell.
        prompt_tokens: what the model read.
        truncated: the prompt was cut.
        hit_limit: the answer was cut.
        end_scored: the step that ended the answer is among the steps.
        prompt_nll: nats a token, where known.
    """

    response: str
    chosen: FloatArray = field(default_factory=lambda: np.empty(0))
    top: FloatArray = field(default_factory=_none)
    ends: list[int] = field(default_factory=list)
    tokens: list[int] | None = None
    prompt_tokens: int = 0
    truncated: bool = False
    hit_limit: bool = False
    end_scored: bool = False
    prompt_nll: float | None = None


def served_table(rows: IntArray, answers: Sequence[Served], vocabulary: int) -> pa.Table:
    """Rows of a part: the columns of any score run, entropies as the middle of their bounds; and these.

    Args:
        rows: (m,) pool row of each prompt.
        answers: m answers. Of one without any step, which an empty answer is where the engine leaves out its end, all
            scores are 0, the least there is.
        vocabulary: tokens that the model knows, at most.

    Returns:
        One row a prompt.
    """
    import pyarrow as pa

    found = [bounds(a.chosen, a.top, vocabulary) for a in answers]
    nothing = aggregate(np.zeros(1), np.zeros(1), np.zeros(1))
    # Off by half the distance of the bounds at most; ranks prompts better than either of them (docs/backends.md).
    middle = [(b.lower + b.upper) / 2 for b in found]
    scores = [aggregate(h, b.nll, b.margin) if len(h) else nothing for h, b in zip(middle, found, strict=True)]
    columns: dict[str, Any] = {"row": pa.array(rows, pa.int64())}
    for name in scores[0]:
        columns[name] = pa.array([s[name] for s in scores], pa.float32())
    if any(a.prompt_nll is not None for a in answers):
        columns["prompt_nll"] = pa.array([a.prompt_nll for a in answers], pa.float32())
    columns |= {
        "n_prompt_tokens": pa.array([a.prompt_tokens for a in answers], pa.int32()),
        "n_steps": pa.array([len(b.nll) for b in found], pa.int32()),
        "truncated_prompt": pa.array([a.truncated for a in answers], pa.bool_()),
        "hit_limit": pa.array([a.hit_limit for a in answers], pa.bool_()),
        "response": pa.array([a.response for a in answers], pa.large_string()),
        "token_ids": pa.array([a.tokens for a in answers], pa.list_(pa.int32())),
        "token_ends": pa.array([a.ends for a in answers], pa.list_(pa.int32())),
        "token_entropies": pa.array(middle, pa.list_(pa.float32())),
        "token_margins": pa.array([b.margin for b in found], pa.list_(pa.float32())),
        "mean_entropy_lower": pa.array([_of(np.mean, b.lower) for b in found], pa.float32()),
        "max_entropy_lower": pa.array([_of(np.max, b.lower) for b in found], pa.float32()),
        "mean_entropy_upper": pa.array([_of(np.mean, b.upper) for b in found], pa.float32()),
        "max_entropy_upper": pa.array([_of(np.max, b.upper) for b in found], pa.float32()),
        "mean_tail": pa.array([_of(np.mean, b.tail) for b in found], pa.float32()),
        "token_tails": pa.array([b.tail for b in found], pa.list_(pa.float32())),
        "end_scored": pa.array([a.end_scored for a in answers], pa.bool_()),
    }
    return pa.table(columns)


def _of(reduce: Any, values: FloatArray) -> float:
    return float(reduce(values)) if len(values) else 0.0


def lay_out(pieces: Sequence[bytes], content: str, *, stopped: bool) -> tuple[str, list[int], bool]:
    """Where in an answer its tokens end.

    Args:
        pieces: the bytes of each token; a character may be shared by several.
        content: the answer as the server gives it, perhaps without white space or a reasoning before it.
        stopped: the model ended the answer itself.

    Returns:
        The answer; where each piece ends in it, in characters; and whether the last piece is the end-of-sequence token:
        it has no text, or text that is not in the answer.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ends, text, before = [], "", ""
    for piece in pieces:
        before = text
        text += decoder.decode(piece)
        ends.append(len(text))
    ended = stopped and bool(pieces) and (not pieces[-1] or _is_end(text, before, content))
    if ended:
        text, ends[-1] = before, len(before)
    offset = text.find(content)
    if offset < 0:
        return text, ends, ended
    return content, [min(max(end - offset, 0), len(content)) for end in ends], ended


def _is_end(text: str, before: str, content: str) -> bool:
    return text.strip() != before.strip() and content.strip() == before.strip()
