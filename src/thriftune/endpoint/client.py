"""The client: many requests at once, tried again where that helps, each reply delivered as it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thriftune.config import EndpointConfig
from thriftune.endpoint.address import api_key, base_url, is_loopback, is_open
from thriftune.endpoint.completion import Completion
from thriftune.endpoint.connection import Connection, Request, Trouble
from thriftune.endpoint.spending import Spending, Tokens
from thriftune.errors import EndpointError
from thriftune.progress import progress

if TYPE_CHECKING:
    import httpx

Say = Callable[[str], None]
Agree = Callable[["Estimate"], bool]
Deliver = Callable[["Reply"], Request | None]
_FIRST_DELAY = 1.0  # seconds before the second try; doubles with each further one
_LONGEST_DELAY = 60.0
_ALLOWANCE = 256  # tokens of a chat template around all messages; raised when a server reports more
_IN_A_ROW = 8  # prompts that fail one after the other before the run is given up
_BYTES_A_TOKEN = 4  # for estimates only
_LARGE_TOKENS, _LARGE_MONEY = 1_000_000, 1.0


@dataclass(frozen=True)
class Reply:
    """What came back for a request, the moment it came.

    Args:
        key: of the request.
        completion: the answer, or None when there is none.
        error: why there is none.
    """

    key: str
    completion: Completion | None
    error: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a run would cost, before anything is sent.

    Args:
        calls: how many.
        tokens: to read (about: four bytes a token) and to write (at most).
        money: of those, where prices are known.
        limit: the limits set, as flags.
        large: True when a person had better be asked.
    """

    calls: int
    tokens: Tokens
    money: float | None
    limit: str
    large: bool

    def __str__(self) -> str:
        money = "" if self.money is None else f", at most about {self.money:,.2f} at the prices given"
        limit = f"; stops at {self.limit}" if self.limit else ""
        return (
            f"{self.calls:,} calls: about {self.tokens.prompt:,} tokens to read, "
            f"at most {self.tokens.completion:,} to write{money}{limit}"
        )


class Endpoint:
    """A model server and the account of what it is asked.

    Retries are our own because a client library hides them: a try that timed out may have been billed, and the limit
    must count it.

    Args:
        config: where the server is, how it is asked and what that may cost.

    Raises:
        EndpointError: the address is unusable or unsafe, or the key is not there.
        MissingDependency: httpx is not installed.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.url = base_url(config.endpoint, plain_http=config.plain_http)
        self._connection = Connection(config, self.url, api_key(self.url, config.api_key_env))
        self.spending = Spending(
            limit_tokens=config.budget_tokens,
            limit_money=config.budget_money,
            price_in=config.price_in,
            price_out=config.price_out,
        )
        self.retried: Counter[str] = Counter()
        self.seconds = 0.0
        self._allowance = _ALLOWANCE
        self._not_before = self._last_success = 0.0
        self._failed_in_a_row = 0

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What asking ``requests`` would cost."""
        read = sum(sum(len(m["content"].encode()) // _BYTES_A_TOKEN + 8 for m in r.messages) for r in requests)
        tokens = Tokens(read, len(requests) * self.config.max_tokens)
        money = self.spending.money(tokens)
        limited = min(tokens.total, self.config.budget_tokens or tokens.total)
        paid = min(money or 0.0, self.config.budget_money or money or 0.0)
        # A server on this machine costs patience only.
        large = paid > _LARGE_MONEY or (limited > _LARGE_TOKENS and not is_loopback(self.url))
        return Estimate(len(requests), tokens, money, self.spending.limit(), large)

    def ask(self, requests: Sequence[Request], deliver: Deliver, *, description: str, say: Say = print) -> int:
        """Ask all, several at a time, until done, stopped or at the limit.

        Args:
            requests: asked in this order.
            deliver: called with each reply as it arrives, one at a time; what it stored survives whatever follows. It
                may return a request to be sent instead, such as a shorter one.
            description: what the progress bar says.
            say: receives what is worth knowing before the first request.

        Returns:
            How many requests got no reply because the limit forbade to send them.

        Raises:
            EndpointError: the server is not there, refuses the key or the model, or fails again and again. Replies
                already delivered stay so; calls under way are dropped.
        """
        if not requests:
            return 0
        if is_open(self.url):
            say(f"warning: {self.url} is plain http: prompts, answers and key can be read on the way")
        began = time.monotonic()
        delivered = 0

        def count(reply: Reply) -> Request | None:
            nonlocal delivered
            instead = deliver(reply)
            if instead is None:
                delivered += 1
                advance(1)
            return instead

        try:
            with progress(description, len(requests), unit="answers") as advance:
                _run(self._all(iter(requests), count, say))
        finally:
            self.seconds += time.monotonic() - began
        return len(requests) - delivered

    def summary(self) -> list[str]:
        """What was spent, how fast, and what went wrong on the way."""
        rate = self.spending.spent.total / max(self.seconds, 1e-9) * 60
        lines = [f"{self.spending.describe()}; {self.seconds:,.1f} s, {rate:,.0f} tokens/min"]
        if self.retried:
            lines.append("tried again: " + ", ".join(f"{n} x {what}" for what, n in self.retried.most_common()))
        return [*lines, *self._connection.notes]

    async def _all(self, pending: Iterator[Request], deliver: Deliver, say: Say) -> None:
        async with self._connection.open() as client:
            remark = await self._connection.greet(client)
            if remark:
                say(remark)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.config.concurrency):
                        group.create_task(self._work(client, pending, deliver))
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None

    async def _work(self, client: httpx.AsyncClient, pending: Iterator[Request], deliver: Deliver) -> None:
        for request in pending:
            asked: Request | None = request
            while asked is not None:
                reply = await self._answer(client, asked)
                if reply is None:
                    return
                asked = deliver(reply)
                self._failed_in_a_row = 0 if reply.completion or asked else self._failed_in_a_row + 1
                if self._failed_in_a_row >= _IN_A_ROW:
                    what = f"{_IN_A_ROW} prompts in a row failed at {self.url}, the last: {reply.error}"
                    raise EndpointError(what)
            if self.spending.refused:
                return

    async def _answer(self, client: httpx.AsyncClient, request: Request) -> Reply | None:
        """The reply, with as many tries as it takes; None when the limit forbids a try."""
        began, tries = time.monotonic(), 0
        while True:
            while (pause := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            worst = Tokens(request.size + self._allowance, self.config.max_tokens)
            if not await self.spending.reserve(worst):
                return None
            cost: Tokens | None = None  # unless we learn it: a call that is cut off may be billed
            try:
                completion = await self._connection.complete(client, request)
                cost = completion.tokens
                self._learn(request, cost, worst)
                self._last_success = time.monotonic()
                return Reply(request.key, completion)
            except Trouble as trouble:
                cost = None if trouble.billed else Tokens()
                failure = trouble
            except EndpointError:
                cost = Tokens()  # refused outright
                raise
            finally:
                self.spending.settle(worst, cost)
            if tries >= failure.tries:
                if failure.down and self._last_success < began:
                    raise EndpointError(f"{self.url} serves nothing after {tries + 1} tries: {failure}")
                return Reply(request.key, None, str(failure))
            self.retried[str(failure).partition(":")[0]] += 1
            delay = min(_FIRST_DELAY * 2**tries, _LONGEST_DELAY) * random.uniform(0.5, 1)
            tries += 1
            if failure.wait is not None:
                # The server's word holds for every request; jitter comes after it, never before.
                self._not_before = max(self._not_before, time.monotonic() + failure.wait)
                delay = failure.wait + delay / 4
            await asyncio.sleep(delay)

    def _learn(self, request: Request, cost: Tokens | None, worst: Tokens) -> None:
        notes = self._connection.notes
        if cost is None:
            notes["the server does not report usage: every call counts with its worst case"] = None
            return
        if cost.prompt > worst.prompt:
            self._allowance = max(self._allowance, cost.prompt - request.size)
            notes["the server puts a long template around each prompt: the limit was reckoned anew with it"] = None
        if cost.completion > worst.completion:
            notes[f"the server wrote more than --max-tokens {worst.completion}: no limit can be kept with it"] = None


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, or to Ctrl-C; inside a notebook, whose own loop is busy, in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with contextlib.closing(loop), ThreadPoolExecutor(1) as apart:
        try:
            apart.submit(loop.run_until_complete, task).result()
        except BaseException:
            loop.call_soon_threadsafe(task.cancel)
            raise
