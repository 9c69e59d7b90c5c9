"""Reading what a model server sends back; nothing in it is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from thriftune.endpoint.spending import Tokens

_READ = 65536  # of an error body
_SHOWN = 300
_SECRET = 8  # a shorter "key" (EMPTY, none) is a placeholder; blotting it out would garble messages


@dataclass(frozen=True)
class Completion:
    """An answer of a model server.

    Args:
        text: the answer.
        finish: why it ended, in the server's words: ``stop``, ``length``, ``content_filter`` ...
        tokens: as the server counted them; None where it did not.
        data: of a chat its ``logprobs``, unchecked JSON; of embeddings a list of numbers for each text.
    """

    text: str
    finish: str
    tokens: Tokens | None
    data: Any = None

    @property
    def cut(self) -> bool:
        """The answer was stopped before its end."""
        return self.finish in {"length", "max_tokens", "content_filter", "abort"}


def read_completion(body: bytes, secret: str = "") -> Completion:
    """The first choice of a chat completion.

    Args:
        body: of a response with status 200.
        secret: blotted out in answer and error.

    Raises:
        ValueError: the body is not one.
    """
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        text = choice["message"].get("content")
        usage = data.get("usage")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(_printable(_blotted(body[:_READ], secret)) or "an empty body") from None
    if not isinstance(text, str | None):
        raise ValueError(f"its content is a JSON {type(text).__name__}, not text")
    # Half a Unicode character can be written in JSON and nowhere else.
    whole = (text or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(secret) >= _SECRET:  # a server that tells it back does not get it onto our disk
        whole = whole.replace(secret, "[key]")
    return Completion(whole, str(choice.get("finish_reason") or "stop"), _tokens(usage), choice.get("logprobs"))


def read_embeddings(body: bytes, count: int, secret: str = "") -> Completion:
    """The embeddings of ``count`` texts, in the texts' order.

    Args:
        body: of a response with status 200.
        count: how many there must be.
        secret: blotted out in the error.

    Raises:
        ValueError: the body holds something else.
    """
    try:
        data = json.loads(body)
        found = {row["index"]: row["embedding"] for row in data["data"]}
        vectors = [[float(x) for x in found[i]] for i in range(count)]
        usage = data.get("usage")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ValueError(_printable(_blotted(body[:_READ], secret)) or "an empty body") from None
    if not all(vectors) or len({len(v) for v in vectors}) != 1:
        raise ValueError("vectors of different lengths")
    return Completion(
        "", "stop", _tokens({"completion_tokens": 0, **usage} if isinstance(usage, dict) else None), vectors
    )


def _tokens(usage: Any) -> Tokens | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    # type() and not isinstance(): true is an int to Python.
    if type(prompt) is not int or type(completion) is not int or min(prompt, completion) < 0:
        return None
    return Tokens(prompt, completion)


def listed_models(body: bytes) -> list[str]:
    """Ids in what ``GET /models`` gives; none where it gives something else."""
    try:
        return [_printable(str(m["id"])) for m in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def message_of(body: bytes, secret: str) -> str:
    """What an error body says, in one printable line, without ``secret`` should the server repeat it."""
    text = _blotted(body[:_READ], secret)
    try:
        found = json.loads(text)
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and found.get(key):
                found = found[key]
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    return _printable(text) or "no reason given"


def _blotted(body: bytes, secret: str) -> str:
    text = body.decode("utf-8", "replace")
    return text.replace(secret, "***") if len(secret) >= _SECRET else text


def _printable(text: str) -> str:
    # Control characters could rewrite the terminal.
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3: seconds or a date); None where it does not say."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None
