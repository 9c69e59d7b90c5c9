"""Scores from any OpenAI-compatible server: greedy answers with the log-probabilities it reports."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from thriftune.config import EndpointConfig, ScoreConfig
from thriftune.endpoint import Agree, Completion, Endpoint, Reply, Request
from thriftune.errors import EndpointError, ScoreError
from thriftune.scoring.parts import Parts, Say
from thriftune.scoring.prompts import prompts_of
from thriftune.scoring.served import Served, lay_out
from thriftune.types import IntArray, Message

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 4096  # prompts made into requests at once
_KEPT = 0.75  # of a user turn that was too long; what is refused costs nothing
_SHORTEST = 64  # characters; what is refused even so is not too long
_REFUSED = 0.05  # share of prompts that may be refused for good, by a content filter for one
_TOO_LONG = re.compile(
    r"context|too long|too large|too many (input )?tokens|max\w* .{0,20}(length|tokens)|exceed", re.I
)
_LOGPROBS = re.compile(r"log_?prob", re.I)
_BYTES_A_TOKEN = 4
_IMPOSSIBLE = 1e4  # nats; a token taken is more probable
_MOST_INT = 2**31 - 1  # what is sent is not trusted


class NoLogprobs(ValueError):
    """An answer without the log-probabilities that were asked for."""


class _Requests(Sequence[Request]):
    """Requests for rows of the pool, made when they are needed: all at once would not fit."""

    def __init__(self, pool: pa.Table, rows: IntArray, extra: dict[str, Any]) -> None:
        self.pool, self.rows, self.extra = pool, rows, extra

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Request]:
        for start in range(0, len(self.rows), _BLOCK):
            rows = self.rows[start : start + _BLOCK]
            for row, prompt in zip(rows, prompts_of(self.pool.take(rows)), strict=True):
                yield Request(str(row), prompt.turns, self.extra)

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> _Requests: ...
    def __getitem__(self, index: int | slice) -> Request | _Requests:
        if isinstance(index, slice):
            return _Requests(self.pool, self.rows[index], self.extra)
        return next(iter(self[index : index + 1]))


@dataclass
class _Run:
    """What became of the prompts asked in this run."""

    cut: dict[str, Sequence[Message]] = field(default_factory=dict)  # as they were asked
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    scored: int = 0
    other: int = 0  # answers that were not the most probable tokens
    uncounted: bool = False


def ask_pool(
    config: ScoreConfig, pool: pa.Table, rows: IntArray, parts: Parts[Served], *, agree: Agree, say: Say
) -> dict[str, Any]:
    """Ask the server for all prompts that have no scores yet; each reply is on disk within seconds.

    Args:
        config: which server and model, and what it may cost.
        pool: ``id``, ``text`` and ``messages`` of the prompts.
        rows: (m,) rows of it to score.
        parts: takes the answers.
        agree: is shown the cost in advance and may say no.
        say: receives the lines meant for people.

    Returns:
        What it took, for the manifest; empty where nothing was left to ask.

    Raises:
        EndpointError: the server cannot be used, or some prompts have no scores yet; what came is stored.
        ScoreError: it gives no log-probabilities, or does not answer greedily.
    """
    left = parts.missing(rows)
    if not len(left):
        return {}
    endpoint = Endpoint(server(config, config.model, config.max_new_tokens))
    extra = {"logprobs": True, "top_logprobs": config.top_logprobs}
    requests = _Requests(pool, left, extra)
    estimate = endpoint.estimate(requests)
    say(str(estimate))
    if not agree(estimate):
        raise EndpointError("nothing was sent")
    run = _Run()

    def deliver(reply: Reply) -> Request | None:
        return _take(reply, config, endpoint, pool, extra, parts, run)

    unasked, greeting = 0, say
    began = time.monotonic()
    try:
        first = min(len(left), 2 * config.concurrency)
        if len(left) > 4 * first:  # how long it will take, from prompts of all over the pool
            sample = np.unique(np.linspace(0, len(left) - 1, first).astype(np.int64))
            unasked += endpoint.ask(_Requests(pool, left[sample], extra), deliver, description="first prompts", say=say)
            greeting = _silent
            minutes = (time.monotonic() - began) / len(sample) * (len(left) - len(sample)) / 60
            say(f"about {minutes:.1f} min at the rate of the first {len(sample)} prompts")
            requests = _Requests(pool, np.delete(left, sample), extra)
        if not unasked:
            unasked = endpoint.ask(requests, deliver, description=f"scoring with {config.model}", say=greeting)
    finally:
        parts.flush()
        seconds = time.monotonic() - began
        if endpoint.spending.spent.total:
            for line in [f"{run.scored:,} of {len(left):,} prompts scored", *endpoint.summary()]:
                say(line)
    _complain(run, len(left), len(rows), unasked, endpoint)
    if run.refused:
        for key in run.refused:
            parts.add(int(key), Served("", truncated=key in run.cut))
        parts.flush()
        key, why = next(iter(run.refused.items()))
        say(f"{len(run.refused):,} prompts are refused and count as certain, the first {_id(pool, key)!r}: {why}")
    if run.uncounted:
        say("the server does not report usage: n_prompt_tokens are estimates, four bytes a token")
    return {
        "seconds": round(seconds, 2),
        "prompts_scored": run.scored,
        "prompts_per_minute": round(run.scored / max(seconds, 1e-9) * 60, 1),
        "prompt_tokens": endpoint.spending.spent.prompt,
        "completion_tokens": endpoint.spending.spent.completion,
        "refused": len(run.refused),
    }


def server(config: Any, model: str, most: int) -> EndpointConfig:
    """How the server of a score or embed run is asked for ``model``, for at most ``most`` tokens."""
    shared = {name: getattr(config, name) for name in EndpointConfig.model_fields if hasattr(config, name)}
    return EndpointConfig.model_validate({**shared, "model": model, "max_tokens": most, "temperature": 0.0})


def _take(
    reply: Reply,
    config: ScoreConfig,
    endpoint: Endpoint,
    pool: pa.Table,
    extra: dict[str, Any],
    parts: Parts[Served],
    run: _Run,
) -> Request | None:
    if reply.completion is None:
        if _LOGPROBS.search(reply.error):
            raise ScoreError(
                f"{endpoint.url} gives no {config.top_logprobs} log-probabilities a token ({reply.error}): try a "
                "smaller --top-logprobs, or start the server so that it does"
            )
        if not reply.error.startswith("refused"):
            run.failed[reply.key] = reply.error
            return None
        turns = run.cut.get(reply.key) or prompts_of(pool.slice(int(reply.key), 1))[0].turns
        shorter = shortened(turns) if _TOO_LONG.search(reply.error) else None
        if shorter is None:
            run.refused[reply.key] = reply.error
            return None
        run.cut[reply.key] = shorter
        return Request(reply.key, shorter, extra)
    try:
        answer = read_answer(reply.completion)
    except NoLogprobs as error:
        raise ScoreError(
            f"{endpoint.url} answers without log-probabilities ({error}), which scores are made of: serve the model "
            "with vLLM, SGLang or llama.cpp, or score with --backend transformers"
        ) from None
    run.scored += 1
    # Equal logits may be told apart by rounding; another token is no greedy answer.
    run.other += bool(len(answer.chosen)) and bool((answer.chosen < answer.top.max(axis=1) - 0.05).any())
    if run.other >= 8 and run.other > run.scored / 2:
        raise ScoreError(
            f"{endpoint.url} does not answer greedily: in {run.other} of {run.scored} answers it took less probable "
            "tokens; see that nothing overrides temperature 0"
        )
    if not answer.prompt_tokens:
        run.uncounted = True
        asked = run.cut.get(reply.key) or prompts_of(pool.slice(int(reply.key), 1))[0].turns
        answer.prompt_tokens = max(1, sum(len(t["content"].encode()) for t in asked) // _BYTES_A_TOKEN)
    answer.truncated = reply.key in run.cut
    parts.add(int(reply.key), answer)
    return None


def read_answer(completion: Completion) -> Served:
    """An answer and its log-probabilities.

    Raises:
        NoLogprobs: they are not there, or not what they should be.
    """
    stopped, limit = completion.finish == "stop", completion.cut
    read = min(completion.tokens.prompt, _MOST_INT) if completion.tokens else 0
    steps = completion.data.get("content") if isinstance(completion.data, dict) else None
    if not steps:
        if completion.text:
            raise NoLogprobs("none")
        return Served("", prompt_tokens=read, hit_limit=limit)
    try:
        chosen = np.array([float(s["logprob"]) for s in steps])
        reported = [[float(t["logprob"]) for t in s["top_logprobs"]] for s in steps]
        ids = [s.get("id") for s in steps]
        pieces = [_bytes(s) for s in steps]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoLogprobs(f"{type(error).__name__}: {error}") from None
    # The token taken belongs to the most probable ones, but some servers list only the others.
    reported = [
        [*top, own] if own > max(top, default=-math.inf) else top for own, top in zip(chosen, reported, strict=True)
    ]
    if min(map(len, reported)) < 2:
        raise NoLogprobs("fewer than two a token")
    top = np.full((len(steps), max(map(len, reported))), -np.inf)
    for row, values in enumerate(reported):
        top[row, : len(values)] = values
    if not (np.abs(chosen) < _IMPOSSIBLE).all() or np.isnan(top).any() or (top > 1).any():
        raise NoLogprobs("they are no log-probabilities")
    response, ends, end_scored = lay_out(pieces, completion.text, stopped=stopped)
    return Served(
        response=response,
        chosen=chosen,
        top=top,
        ends=ends,
        tokens=ids if all(type(i) is int and 0 <= i <= _MOST_INT for i in ids) else None,
        prompt_tokens=read,
        hit_limit=limit,
        end_scored=end_scored,
    )


def _bytes(step: dict[str, Any]) -> bytes:
    raw = step.get("bytes")
    return bytes(raw) if isinstance(raw, list) else str(step["token"]).encode("utf-8", "replace")


def shortened(turns: Sequence[Message]) -> Sequence[Message] | None:
    """A chat without the middle of its longest user turn; None where nothing is left to cut."""
    users = [i for i, t in enumerate(turns) if t["role"] == "user"]
    longest = max(users, key=lambda i: len(turns[i]["content"]), default=None)
    if longest is None or len(turns[longest]["content"]) < _SHORTEST:
        return None
    text = turns[longest]["content"]
    half = int(len(text) * _KEPT / 2)
    cut = Message(role="user", content=text[:half] + text[len(text) - half :])
    return [cut if i == longest else t for i, t in enumerate(turns)]


def _complain(run: _Run, asked: int, pool: int, unasked: int, endpoint: Endpoint) -> None:
    if unasked:
        raise EndpointError(
            f"{unasked:,} of {asked:,} prompts were not asked: {endpoint.spending.limit()} is used up; the same "
            "command with a new limit asks them"
        )
    if run.failed:
        reason = next(iter(run.failed.values()))
        raise EndpointError(
            f"{len(run.failed):,} of {asked:,} prompts got no scores, the first: {reason}; the same command asks them"
        )
    if len(run.refused) > max(1, _REFUSED * pool):
        reason = next(iter(run.refused.values()))
        raise EndpointError(f"{endpoint.url} refuses {len(run.refused):,} of {asked:,} prompts, the first: {reason}")


def _silent(_line: str) -> None:
    pass


def _id(pool: pa.Table, key: str) -> str:
    return str(pool["id"][int(key)].as_py())
