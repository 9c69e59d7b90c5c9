"""`thriftune teach`: a model server answers the selected prompts; its answers stay apart from people's."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thriftune.annotation.export import latest
from thriftune.artifacts import provenance
from thriftune.config import TeachConfig
from thriftune.endpoint import Agree, Endpoint, Reply, Request, Say
from thriftune.errors import AnnotationError, EndpointError
from thriftune.study import HOLDOUT, Study
from thriftune.types import Annotation, Message, Prompt


@dataclass
class Taught:
    """What `teach` did.

    Args:
        selection: whose prompts were asked.
        asked: prompts that needed an answer.
        answered: whole answers, stored as final.
        cut: answers that the token limit stopped, stored as drafts: half an answer is not to be trained on.
        empty: ids that got an empty answer, which is not stored.
        failed: reason by id of the prompts that got none.
        unasked: prompts that the spending limit left out.
        people: prompts left out because people have answered them.
        before: prompts left out because this model has answered them.
        cut_before: of these, the answers that were cut.
    """

    selection: str
    asked: int = 0
    answered: int = 0
    cut: int = 0
    empty: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unasked: int = 0
    people: int = 0
    before: int = 0
    cut_before: int = 0


def teach(study: Study, config: TeachConfig, *, agree: Agree = lambda _: True, say: Say = print) -> Taught:
    """Have a model server answer a selection; every answer is stored as it arrives, a rerun asks what is missing.

    Answers have the source ``teacher`` and the model's name as annotator. People's answers count before them, and
    training takes them only when asked to.

    Args:
        study: where the selection is.
        config: which prompts, which server, what it may cost.
        agree: is shown the cost in advance and may say no.
        say: receives the lines meant for people.

    Returns:
        What was stored, and what was not.

    Raises:
        EndpointError: the server cannot be used, or some prompts have no answer yet; what came is stored.
        AnnotationError: there is no selection, or it is empty.
        StudyError: no such selection, or another process is at it.
    """
    endpoint = Endpoint(config)
    name = config.selection or latest(study)
    with study.lock("teach"):
        done, requests, replaced = _plan(study, config, name)
        say(_preface(done, config))
        if not requests:
            return done
        estimate = endpoint.estimate(requests)
        say(str(estimate))
        if not agree(estimate):
            raise EndpointError("nothing was sent")
        settings = config.model_dump(exclude={"api_key_env", "endpoint"})
        _log(study, event="start", endpoint=endpoint.url, config={**settings, "selection": name}, prompts=done.asked)

        def store(reply: Reply) -> None:
            _store(study, config, reply, done, replace=reply.key in replaced)

        try:
            done.unasked = endpoint.ask(requests, store, description=f"asking {config.model}", say=say)
        finally:
            spent = endpoint.spending.spent
            counts = {"answered": done.answered, "cut": done.cut, "empty": len(done.empty), "failed": len(done.failed)}
            _log(study, event="end", **counts, prompt_tokens=spent.prompt, completion_tokens=spent.completion)
            if spent.total:
                for line in [*_outcome(done, config), *endpoint.summary()]:
                    say(line)
        _complain(done, endpoint, config)
    return done


def _plan(study: Study, config: TeachConfig, name: str) -> tuple[Taught, list[Request], set[str]]:
    """What is to be asked, and for which of these a cut answer of before gives way."""
    ids, _, _ = study.selection(name)
    if not ids:
        none = f"{study.path} has no held-out prompts" if name == HOLDOUT else f"selection {name!r} is empty"
        raise AnnotationError(f"{none}: there is nothing to ask")
    done = Taught(name)
    held = study.annotations.in_force()
    people = {a.prompt_id for a in held if a.status == "final" and a.source != "teacher"}
    own = {a.prompt_id: a for a in held if (a.source, a.annotator) == ("teacher", config.model)}
    cut = {i for i, a in own.items() if a.status == "draft"}
    wanted: list[str] = []
    for id_ in ids:
        if id_ in people and not config.answered_too:
            done.people += 1
        elif id_ in own and not (config.redo_cut and id_ in cut):
            done.before += 1
            done.cut_before += id_ in cut
        else:
            wanted.append(id_)
    done.asked = len(wanted)
    requests = [Request(p.id, _messages(p, config.system)) for p in study.prompts(wanted)]
    return done, requests, set(own)


def _messages(prompt: Prompt, system: str | None) -> Sequence[Message]:
    turns = prompt.turns
    if not system:
        return turns
    if turns[0]["role"] == "system":  # two of them are refused by many templates
        return [Message(role="system", content=f"{system}\n\n{turns[0]['content']}"), *turns[1:]]
    return [Message(role="system", content=system), *turns]


def _store(study: Study, config: TeachConfig, reply: Reply, done: Taught, *, replace: bool) -> None:
    completion = reply.completion
    if completion is None:
        done.failed[reply.key] = reply.error
        return
    if not completion.text.strip():
        done.empty.append(reply.key)
        return
    answer = Annotation(
        reply.key,
        completion.text,
        annotator=config.model,
        source="teacher",
        status="draft" if completion.cut else "final",
    )
    study.annotations.add([answer], replace=replace)
    if completion.cut:
        done.cut += 1
    else:
        done.answered += 1


def _preface(done: Taught, config: TeachConfig) -> str:
    left = []
    if done.people:
        left.append(f"{done.people} answered by people")
    if done.before:
        left.append(f"{done.before} by {config.model} before")
    reason = f" ({', '.join(left)})" if left else ""
    if not done.asked:
        cut = f"; {done.cut_before} of its answers were cut, --redo-cut asks them again" if done.cut_before else ""
        return f"{done.selection}: nothing to ask{reason}{cut}"
    return f"{done.selection}: {done.asked} prompts for {config.model}{reason}"


def _outcome(done: Taught, config: TeachConfig) -> list[str]:
    lines = [f"{done.answered} of {done.asked} prompts answered"]
    cut = done.cut + done.cut_before
    if cut:
        lines.append(
            f"{cut} answers were cut at --max-tokens and are kept as drafts, which nothing trains on: ask them again "
            f"with --redo-cut --max-tokens {config.max_tokens * 2}"
        )
    if done.empty:
        lines.append(
            f"{len(done.empty)} answers were empty and are not stored, the first for {done.empty[0]!r} (a model that "
            "reasons may need more --max-tokens); the same command asks again"
        )
    return lines


def _complain(done: Taught, endpoint: Endpoint, config: TeachConfig) -> None:
    if done.unasked:
        refused = endpoint.spending.refused
        need = f" (the next may cost {refused.total:,} tokens)" if refused else ""
        raise EndpointError(
            f"{done.unasked} of {done.asked} prompts were not asked: {endpoint.spending.limit()} is used up{need}; "
            "the same command with a new limit asks them"
        )
    if done.failed:
        id_, reason = next(iter(done.failed.items()))
        raise EndpointError(
            f"{len(done.failed)} of {done.asked} prompts got no answer from {config.model}, the first {id_!r}: "
            f"{reason}; the same command asks them again"
        )


def _log(study: Study, **details: Any) -> Path:
    """Add a line to ``teacher.jsonl``: what was asked of whom, and how it ended."""
    file = study.path / "teacher.jsonl"
    with file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(provenance(**details), ensure_ascii=False) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    return file
