"""One try of one request: an answer, trouble that may pass, or an error that will not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from thriftune.config import EndpointConfig
from thriftune.endpoint.address import is_loopback, key_hint
from thriftune.endpoint.completion import (
    Completion,
    listed_models,
    message_of,
    read_completion,
    read_embeddings,
    retry_after,
)
from thriftune.errors import EndpointError, require
from thriftune.types import Message

if TYPE_CHECKING:
    import httpx

_PATIENCE = 600.0  # a server that asks for a longer pause ends the run
_TIMEOUT_RETRIES = 2  # a call that timed out may have been billed, and took long
_TURN = 16  # tokens of a chat template around one message
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_DOWN = {429, 502, 503, 504}  # of these: nobody is served, not only this prompt
_MAYBE_BILLED = {502, 504, 520, 524}  # of these: a gateway lost what a server may have written


@dataclass(frozen=True)
class Request:
    """A chat to be continued, or texts to be embedded.

    Args:
        key: the caller's name for it.
        messages: the turns; of embeddings the texts, a turn each.
        extra: further fields of the body.
        route: what is asked of the server.
    """

    key: str
    messages: Sequence[Message]
    extra: Mapping[str, Any] = field(default_factory=dict)
    route: Literal["chat/completions", "embeddings"] = "chat/completions"

    @property
    def size(self) -> int:
        """The most tokens that the messages can be: a token is at least one byte of UTF-8."""
        return sum(len(m["content"].encode()) + _TURN for m in self.messages)


class Trouble(Exception):
    """A try that failed for this prompt or this moment.

    Args:
        what: the reason; what stands before a colon names the kind.
        tries: how often to try again, 0 for never.
        billed: whether it may have cost tokens.
        down: whether it says that nobody is served.
        wait: seconds that the server asked to wait, or None.
    """

    def __init__(
        self, what: str, *, tries: int, billed: bool = False, down: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(what)
        self.tries, self.billed, self.down, self.wait = tries, billed, down, wait


class Connection:
    """How a server is spoken to.

    Args:
        config: the settings.
        url: as `address.base_url` gives it.
        key: the API key, or empty.
    """

    def __init__(self, config: EndpointConfig, url: str, key: str) -> None:
        self._httpx = require("httpx", command="asking a model server", install="'thriftune[endpoint]'")
        self.config, self.url, self._key = config, url, key
        self.notes: dict[str, None] = {}  # each once, in order
        self._limit_name = "max_tokens"
        self._temperature = None if config.temperature == "server" else config.temperature

    def open(self) -> httpx.AsyncClient:
        """A client for one run."""
        many = self.config.concurrency + 1
        return self._httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=self._httpx.Limits(max_connections=many, max_keepalive_connections=many),
            timeout=self._httpx.Timeout(None, connect=30),  # the deadline of a whole call is ours
            trust_env=not is_loopback(self.url),  # a proxy of the environment would break loopback
            follow_redirects=False,
        )

    async def complete(self, client: httpx.AsyncClient, request: Request) -> Completion:
        """Ask once.

        Raises:
            Trouble: no answer for this prompt or at this moment.
            EndpointError: there will be none for any.
        """
        again = self.config.retries
        body = self._body(request)
        try:
            async with asyncio.timeout(self.config.timeout):
                response = await client.post(f"{self.url}/{request.route}", json=body)
        except (self._httpx.ConnectError, self._httpx.ConnectTimeout) as error:
            raise Trouble(f"no connection: {_plain(error)}", tries=again, down=True) from None
        except TimeoutError:
            what = f"no answer within --timeout {self.config.timeout:g} s"
            raise Trouble(what, tries=min(again, _TIMEOUT_RETRIES), billed=True) from None
        except self._httpx.HTTPError as error:
            raise Trouble(f"connection lost: {_plain(error)}", tries=again, billed=True) from None
        status = response.status_code
        if status == 200:
            chat = request.route == "chat/completions"
            try:
                if chat:
                    return read_completion(response.content, self._key)
                return read_embeddings(response.content, len(request.messages), self._key)
            except ValueError as error:
                what = "not a chat completion" if chat else "not embeddings"
                raise Trouble(f"{what}: {error}", tries=again, billed=True) from None
        text = message_of(response.content, self._key)
        if status == 429 and "insufficient_quota" in response.text:
            raise EndpointError(f"{self.url} says that the account is empty: {text}")
        # llama.cpp's word for a text that is too long to be embedded; no retry makes it shorter.
        unfit = status in {400, 413, 422} or (status == 500 and "too large to process" in text)
        if status in _BUSY and not unfit:
            wait = retry_after(response.headers)
            if wait is not None and wait > _PATIENCE:
                raise EndpointError(f"{self.url} asks to wait {wait / 60:.0f} minutes ({text}): run this again then")
            billed, down = status in _MAYBE_BILLED, status in _DOWN
            raise Trouble(f"status {status}: {text}", tries=again, billed=billed, down=down, wait=wait)
        if status in {400, 422} and (self._adapt(text) or body != self._body(request)):
            return await self.complete(client, request)
        if unfit:
            raise Trouble(f"refused (status {status}): {text}", tries=0)
        raise EndpointError(await self._refusal(client, response, text, request.route))

    def _body(self, request: Request) -> dict[str, Any]:
        if request.route == "embeddings":
            return {"model": self.config.model, "input": [m["content"] for m in request.messages], **request.extra}
        body: dict[str, Any] = {"model": self.config.model, "messages": list(request.messages), "stream": False}
        body[self._limit_name] = self.config.max_tokens
        if self._temperature is not None:
            body["temperature"] = self._temperature
        return {**body, **request.extra}

    def _adapt(self, text: str) -> bool:
        """Whether the server told us to say it otherwise, as OpenAI's reasoning models do."""
        if "max_completion_tokens" in text and self._limit_name == "max_tokens":
            self._limit_name = "max_completion_tokens"
            return True
        if "temperature" in text and "support" in text.lower() and self._temperature is not None:
            self._temperature = None
            self.notes["the model takes no temperature: it was left to the server"] = None
            return True
        return False

    async def greet(self, client: httpx.AsyncClient) -> str:
        """Meet the server before the work begins, so that what no retry mends is said at once.

        Returns:
            A remark for the user, or nothing.

        Raises:
            EndpointError: nobody is there, or the key is wrong.
        """
        try:
            async with asyncio.timeout(min(self.config.timeout, 15)):
                response = await client.get(f"{self.url}/models")
        except (self._httpx.ConnectError, self._httpx.ConnectTimeout) as error:
            raise EndpointError(f"no server answers at {self.url} ({_plain(error)}): is it running?") from None
        except (TimeoutError, self._httpx.HTTPError):
            return ""  # a busy server may be slow; the requests have their own patience
        if response.status_code in {401, 403} or response.is_redirect:
            raise EndpointError(await self._refusal(client, response, message_of(response.content, self._key)))
        known = listed_models(response.content) if response.status_code == 200 else []
        if not known or self.config.model in known:
            return ""
        return (
            f"note: the server lists {', '.join(known[:5])}, not {self.config.model!r}; "
            "if it answers nevertheless, see that it is the model you mean"
        )

    async def _refusal(
        self, client: httpx.AsyncClient, response: httpx.Response, text: str, route: str = "chat/completions"
    ) -> str:
        status = response.status_code
        if status in {401, 403}:
            return f"{self.url} refuses us (status {status}: {text}): {key_hint(self._key, self.config.api_key_env)}"
        if status == 404:
            known = await self._models(client)
            if known and self.config.model not in known:
                return f"{self.url} has no model {self.config.model!r} (there: {', '.join(known[:10])})"
            what = "chat completions" if route == "chat/completions" else route
            return f"{self.url} has no {what} or no model {self.config.model!r} (status 404: {text})"
        if response.is_redirect:
            place = message_of(response.headers.get("location", "").encode(), self._key)
            return f"{self.url} sends us on to {place}: give that address if you trust it"
        return f"{self.url} refuses us (status {status}: {text})"

    async def _models(self, client: httpx.AsyncClient) -> list[str]:
        with contextlib.suppress(TimeoutError, self._httpx.HTTPError):
            async with asyncio.timeout(15):
                response = await client.get(f"{self.url}/models")
            return listed_models(response.content) if response.status_code == 200 else []
        return []


def _plain(error: Exception) -> str:
    return message_of(str(error).encode(), "") if str(error) else type(error).__name__
