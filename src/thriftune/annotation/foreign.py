"""Answers in the layouts of other tools: Label Studio, Argilla, ShareGPT, prompt-completion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from thriftune.annotation.formats import NOBODY, SHAREGPT_ROLES
from thriftune.types import Source

_ROLES = {theirs: ours for ours, theirs in SHAREGPT_ROLES.items()} | {r: r for r in SHAREGPT_ROLES}
Turns = tuple[tuple[str, str], ...]


class Found(NamedTuple):
    """What a row says of one answer; None where it says nothing.

    Args:
        id: of the prompt.
        response: the answer as it stands there, text if all is well.
        prompt: the prompt as the row has it.
        annotator: who answered.
        seconds: time spent answering.
        source: what kind of annotator that is.
        over: annotator and text of the answer that this one is to replace.
    """

    id: Any
    response: Any
    prompt: str | Turns | None = None
    annotator: str | None = None
    seconds: float | None = None
    source: Source | None = None
    over: tuple[str, str] | None = None


class Unreadable(Exception):
    """A row that is no answer: why."""


def found_in(row: Mapping[str, Any]) -> list[Found] | None:
    """The answers in a row of another tool's layout, one without a response where nobody answered yet.

    Args:
        row: a JSON object.

    Returns:
        Answers, several where several people gave one; None when the layout is none of these.

    Raises:
        Unreadable: the layout is clear, the row is broken.
    """
    if isinstance(row.get("data"), dict):
        return _label_studio(row)
    if "thriftune_id" in row:
        return [label_studio_flat(row)]
    if isinstance(row.get("fields"), dict):
        return _argilla(row)
    if "conversations" in row:
        return [_sharegpt(row)]
    if "completion" in row:
        return [_prompt_completion(row)]
    return None


def _label_studio(row: Mapping[str, Any]) -> list[Found]:
    data = row["data"]
    identifier = data.get("thriftune_id")
    if identifier is None:
        raise Unreadable("no thriftune_id among the task's data: was it made by thriftune export or push?")
    told = _data_prompt(data)
    answers = []
    given = row.get("annotations") or []
    if not isinstance(given, list):
        raise Unreadable("annotations is not a list")
    for annotation in given:
        if not isinstance(annotation, dict):
            raise Unreadable("an annotation is not an object")
        if annotation.get("was_cancelled"):
            continue  # skipped there
        text = _written(annotation.get("result") or [])
        if text is not None:
            who, seconds = _annotator(annotation.get("completed_by")), _seconds(annotation.get("lead_time"))
            answers.append(Found(identifier, text, told, who, seconds))
    return answers or [Found(identifier, "", told)]


def _data_prompt(data: Mapping[str, Any]) -> str | Turns | None:
    told = turns(data["messages"]) if "messages" in data else data.get("prompt")
    return told if isinstance(told, str | tuple) else None


def _written(result: Any) -> str | None:
    for part in result if isinstance(result, list) else []:
        if (
            isinstance(part, dict)
            and part.get("type") == "textarea"
            and part.get("from_name", "response") == "response"
        ):
            value = part.get("value")
            text = value.get("text") if isinstance(value, dict) else None
            lines = [text] if isinstance(text, str) else text
            if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
                return "\n".join(lines)
            raise Unreadable("the text of an annotation is not text")
    return None


def _annotator(completed_by: Any) -> str | None:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return None if completed_by is None else str(completed_by)


def _seconds(lead_time: Any) -> float | None:
    try:
        seconds = float(lead_time)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def label_studio_flat(row: Mapping[str, Any]) -> Found:
    """A row of Label Studio's JSON_MIN or CSV: the task's data and the annotation side by side."""
    response = row.get("response")
    if isinstance(response, dict):
        lines = response.get("text")
        response = "\n".join(map(str, lines)) if isinstance(lines, list) else None
    told = row.get("prompt")
    return Found(
        row["thriftune_id"],
        response,
        told if isinstance(told, str) else None,
        _annotator(row.get("annotator")),
        _seconds(row.get("lead_time")),
    )


def _argilla(row: Mapping[str, Any]) -> list[Found]:
    fields, responses = row["fields"], row.get("responses") or {}
    told = _data_prompt(fields)
    given = responses.get("response", []) if isinstance(responses, dict) else None
    if not isinstance(given, list) or not all(isinstance(r, dict) for r in given):
        raise Unreadable("responses.response is not a list of {value, user_id}")
    # A record is pending until enough people submitted: what it holds may be a draft.
    if not given or row.get("status", "completed") != "completed":
        return [Found(row.get("id"), "", told)]
    return [Found(row.get("id"), r.get("value"), told, _user(r.get("user_id"))) for r in given]


def _user(number: Any) -> str | None:
    return None if number in (None, NOBODY) else str(number)


def _sharegpt(row: Mapping[str, Any]) -> Found:
    said = turns(row["conversations"], "from", "value")
    if said is None:
        raise Unreadable("conversations is not a list of {from, value} with text in both")
    told, response = split(tuple((_ROLES.get(role, role), text) for role, text in said))
    return Found(row.get("id"), response, told, **author(row))


def _prompt_completion(row: Mapping[str, Any]) -> Found:
    told: Any = row.get("prompt")
    if isinstance(told, list):
        told = turns(told)
        if told is None:
            raise Unreadable("prompt is not a list of {role, content} with text in both")
    completion = row["completion"]
    if isinstance(completion, list):
        answer = turns(completion)
        if answer is None or len(answer) > 1 or any(role != "assistant" for role, _ in answer):
            raise Unreadable("completion is not one {role: assistant, content}")
        completion = answer[0][1] if answer else ""
    return Found(row.get("id"), completion, told if isinstance(told, str | tuple) else None, **author(row))


def author(row: Mapping[str, Any]) -> dict[str, Any]:
    """`Found.annotator`, `Found.source` and `Found.seconds` as the row's fields of these names have them, else None.

    A source of no known kind is something else, such as the name of a data set.

    Raises:
        Unreadable: an annotator that is no name.
    """
    annotator, source = row.get("annotator"), row.get("source")
    if isinstance(annotator, float) and not math.isnan(annotator):
        annotator = int(annotator) if annotator.is_integer() else str(annotator)  # as tables with gaps have numbers
    if isinstance(annotator, int) and not isinstance(annotator, bool):
        annotator = str(annotator)
    if annotator is not None and not isinstance(annotator, str | float):
        raise Unreadable(f"annotator is a JSON {type(annotator).__name__}, not text")
    kind = source.strip().lower() if isinstance(source, str) else None
    return {
        "annotator": annotator if isinstance(annotator, str) and annotator.strip() else None,
        "source": kind if kind in get_args(Source) else None,
        "seconds": _seconds(row.get("seconds")),
    }


def turns(value: Any, role_key: str = "role", content_key: str = "content") -> Turns | None:
    """(role, content) pairs, or None where ``value`` is not a list of such turns."""
    if not isinstance(value, list):
        return None
    read = []
    for turn in value:
        role, content = (turn.get(role_key), turn.get(content_key)) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        read.append((role, content))
    return tuple(read)


def split(said: Turns) -> tuple[Turns, str]:
    """What was asked, and the final assistant turn, empty where there is none."""
    if said and said[-1][0] == "assistant":
        return said[:-1], said[-1][1]
    return said, ""
