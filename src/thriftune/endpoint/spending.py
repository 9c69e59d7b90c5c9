"""What calls to a model server may cost and did cost: a limit that concurrent requests cannot overshoot."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

_MILLION = 1e6


@dataclass(frozen=True)
class Tokens:
    """Tokens that a model read and wrote."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt - other.prompt, self.completion - other.completion)


class Spending:
    """An account of tokens with a limit: what a call may cost at worst is set aside before the call is sent.

    Args:
        limit_tokens: the most tokens, read and written together; None for no limit.
        limit_money: the most money, in the unit of the prices; None for no limit.
        price_in: price of a million tokens read, or None where unknown.
        price_out: price of a million tokens written, or None where unknown.
    """

    def __init__(
        self,
        *,
        limit_tokens: int | None = None,
        limit_money: float | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        self.limit_tokens, self.limit_money = limit_tokens, limit_money
        self.price_in, self.price_out = price_in, price_out
        self.reported = Tokens()  # what the server said
        self.assumed = Tokens()  # the worst case of calls that may have been billed and were not reported
        self.refused: Tokens | None = None  # the first call that the limit forbade, at its worst
        self._reserved = Tokens()
        self._in_flight = 0
        self._freed: asyncio.Event | None = None

    @property
    def spent(self) -> Tokens:
        """Tokens counted against the limit."""
        return self.reported + self.assumed

    def money(self, tokens: Tokens) -> float | None:
        """What ``tokens`` cost; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (tokens.prompt * self.price_in + tokens.completion * self.price_out) / _MILLION

    def allows(self, tokens: Tokens) -> bool:
        """Whether a call of at most ``tokens`` fits beside what is spent and under way."""
        after = self.spent + self._reserved + tokens
        cost = self.money(after)
        return (self.limit_tokens is None or after.total <= self.limit_tokens) and (
            self.limit_money is None or cost is None or cost <= self.limit_money
        )

    async def reserve(self, worst: Tokens) -> bool:
        """Set a call's worst case aside; waits for calls under way, which mostly cost less than theirs.

        Args:
            worst: the most that the call can cost.

        Returns:
            False when the call must not be sent: even with nothing under way it could pass the limit.
        """
        while not self.allows(worst):
            if not self._in_flight:
                self.refused = self.refused or worst
                return False
            # Made here: an event belongs to the loop in which it is first waited for.
            self._freed = self._freed or asyncio.Event()
            await self._freed.wait()
        self._reserved += worst
        self._in_flight += 1
        return True

    def settle(self, worst: Tokens, cost: Tokens | None) -> None:
        """Replace what was set aside for a call by what it cost.

        Args:
            worst: as reserved.
            cost: as the server reported; None when it may have been billed and nobody knows: the worst is counted.
        """
        self._reserved -= worst
        self._in_flight -= 1
        if cost is None:
            self.assumed += worst
        else:
            self.reported += cost
        if self._freed is not None:
            self._freed.set()
            self._freed = None

    def describe(self) -> str:
        """What was spent, for people."""
        text = f"{self.spent.total:,} tokens ({self.spent.prompt:,} read, {self.spent.completion:,} written)"
        money = self.money(self.spent)
        if money is not None:
            text += f", {money:,.4f} at the prices given"
        if self.assumed.total:
            text += f"; {self.assumed.total:,} of them are the worst case of calls whose cost the server did not report"
        return text

    def limit(self) -> str:
        """The limits, as flags."""
        tokens = None if self.limit_tokens is None else f"--budget-tokens {self.limit_tokens}"
        money = None if self.limit_money is None else f"--budget-money {self.limit_money:g}"
        return " and ".join(part for part in (tokens, money) if part)
