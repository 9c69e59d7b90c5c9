"""From verdicts in both orders to a win rate with an interval, and what the judge may have been swayed by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import copysign, inf
from statistics import NormalDist

from thriftune.evaluation.judge_prompt import Verdict

_SCORE: dict[Verdict, int] = {"first": 1, "tie": 0, "second": -1}
LEVEL = 0.95
_STRONGER = " (see what it said in the file of judgements; take a stronger judge, or more --max-tokens)"


@dataclass(frozen=True)
class Item:
    """A prompt that both models answered, with the judge's verdicts.

    Args:
        forward: when a's answer stood first; None where it was not asked.
        backward: when b's answer stood first.
        length_a: characters of a's answer.
        length_b: characters of b's answer.
        identical: the answers are the same text, which needs no judge.
    """

    forward: Verdict | None
    backward: Verdict | None
    length_a: int
    length_b: int
    identical: bool = False

    @property
    def outcome(self) -> int | None:
        """1: a is preferred in one order and not beaten in the other; -1: b; 0: tie; None: a verdict is missing."""
        if self.identical:
            return 0
        if self.forward not in _SCORE or self.backward not in _SCORE:
            return None
        score = _SCORE[self.forward] - _SCORE[self.backward]
        return (score > 0) - (score < 0)


@dataclass(frozen=True)
class Comparison:
    """How a fared against b.

    Args:
        a: name of the first evaluation.
        b: name of the second.
        judge: the judge's model name.
        items: prompts with an outcome.
        wins: prompts on which a is preferred.
        ties: prompts without a preference, or with one that changed with the order.
        losses: prompts on which b is preferred.
        win_rate: (wins + ties / 2) / items; None without items.
        low: lower end of its 95 % interval.
        high: upper end.
        identical: ties that needed no judge.
        no_verdict: judgements in which no verdict could be found.
        left_out: prompts without an outcome, because a verdict is missing or was never asked.
        judgements: verdicts found.
        first_won: verdicts for the answer that stood first.
        second_won: verdicts for the answer that stood second.
        agreeing: prompts judged alike in both orders.
        both_first: prompts on which the first place won twice, whoever stood there.
        both_second: prompts on which the second place won twice.
        longer_won: decided prompts won by the longer answer.
        longer_of: decided prompts with answers of different length.
    """

    a: str
    b: str
    judge: str
    items: int
    wins: int
    ties: int
    losses: int
    win_rate: float | None
    low: float
    high: float
    identical: int
    no_verdict: int
    left_out: int
    judgements: int
    first_won: int
    second_won: int
    agreeing: int
    both_first: int
    both_second: int
    longer_won: int
    longer_of: int


def compare(a: str, b: str, judge: str, items: Sequence[Item]) -> Comparison:
    """Count.

    Args:
        a: name of the first evaluation.
        b: name of the second.
        judge: the judge's model name.
        items: a prompt each.

    Returns:
        The comparison, from a's side.
    """
    outcomes = [item.outcome for item in items]
    wins, ties, losses = (outcomes.count(value) for value in (1, 0, -1))
    n = wins + ties + losses
    low, high = win_rate_interval(wins, losses, n)
    judged = [item for item in items if not item.identical]
    verdicts = [v for item in judged for v in (item.forward, item.backward) if v is not None]
    both = [(i.forward, i.backward) for i in judged if i.outcome is not None]
    agreeing = {("first", "second"), ("second", "first"), ("tie", "tie")}
    decided = [
        (item.length_a > item.length_b) == (outcome == 1)
        for item, outcome in zip(items, outcomes, strict=True)
        if outcome and item.length_a != item.length_b
    ]
    return Comparison(
        a=a,
        b=b,
        judge=judge,
        items=n,
        wins=wins,
        ties=ties,
        losses=losses,
        win_rate=(wins + ties / 2) / n if n else None,
        low=low,
        high=high,
        identical=sum(item.identical for item in items),
        no_verdict=verdicts.count("none"),
        left_out=outcomes.count(None),
        judgements=sum(v != "none" for v in verdicts),
        first_won=verdicts.count("first"),
        second_won=verdicts.count("second"),
        agreeing=sum(pair in agreeing for pair in both),
        both_first=both.count(("first", "first")),
        both_second=both.count(("second", "second")),
        longer_won=sum(decided),
        longer_of=len(decided),
    )


def win_rate_interval(wins: int, losses: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a win rate in which ties count half, over prompts.

    The win rate is (1 + d) / 2 with d the difference of the shares of wins and losses among the same prompts. Its score
    interval (Tango 1998, Statistics in Medicine 17, 891-908) is Wilson's where there are no ties, grows narrower with
    ties, and does not collapse, as a bootstrap would, when one side wins every time.

    Args:
        wins: prompts won.
        losses: prompts lost.
        n: prompts, ties included.
        level: of confidence.

    Returns:
        Lower and upper end, within 0 and 1.
    """
    if not n:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    # The score statistic falls as d grows; both ends are where it passes z.
    low = _bisect(lambda d: _score(wins, losses, n, d) > z, -1.0, (wins - losses) / n)
    high = _bisect(lambda d: _score(wins, losses, n, d) > -z, (wins - losses) / n, 1.0)
    return (1 + low) / 2, (1 + high) / 2


def _score(wins: int, losses: int, n: int, d: float) -> float:
    """How many standard errors the counts lie above a true difference ``d``."""
    # The share of losses that is likeliest if the difference is d, from a quadratic equation.
    a, b, c = 2.0 * n, -wins - losses + (2 * n - wins + losses) * d, -losses * d * (1 - d)
    lost = (max(b * b - 4 * a * c, 0.0) ** 0.5 - b) / (2 * a)
    variance = n * (2 * lost + d * (1 - d))
    above = wins - losses - n * d
    if variance < 1e-12:
        return 0.0 if abs(above) < 1e-9 else copysign(inf, above)
    return above / variance**0.5


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where ``holds``, true on the left, stops."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def describe(c: Comparison) -> list[str]:
    """The comparison in words, with what speaks against trusting it."""
    if c.win_rate is None:
        return [f"{c.judge} gave no usable verdict on any prompt: {c.no_verdict} judgements without one{_STRONGER}"]
    verdict = "no difference shown"
    if c.low > 0.5:
        verdict = f"{c.a} is preferred"
    elif c.high < 0.5:
        verdict = f"{c.b} is preferred"
    lines = [
        f"{c.a} against {c.b}, judged by {c.judge} on {c.items:,} prompts, each in both orders: {verdict}",
        f"  wins {c.wins:,}, ties {c.ties:,}, losses {c.losses:,}; win rate {c.win_rate:.1%} "
        f"[{c.low:.1%}, {c.high:.1%}] (ties count half; 95 % over prompts, Tango's score interval)",
    ]
    if c.identical:
        lines.append(f"  {c.identical:,} of the ties are identical answers, which no judge was asked about")
    asked = c.items - c.identical
    if c.judgements and asked:
        placed = c.first_won + c.second_won
        share = f"the first answer won {c.first_won / placed:.0%} of {placed:,} decided judgements; " if placed else ""
        lines.append(f"  order: {share}both orders agree on {c.agreeing / asked:.0%} of {asked:,} prompts")
    swayed = _sign_test(c.both_first, c.both_second)
    if swayed:
        place = "first" if c.both_first > c.both_second else "second"
        lines.append(
            f"  caution: the judge favours the {place} place (it won in both orders on "
            f"{max(c.both_first, c.both_second):,} prompts, the other on {min(c.both_first, c.both_second):,}); "
            "these count as ties, which hides differences"
        )
    if c.longer_of:
        lines.append(
            f"  length: the longer answer won {c.longer_won / c.longer_of:.0%} of {c.longer_of:,} decided prompts; "
            "judges tend to favour length, so a win by length alone proves little"
        )
    if c.no_verdict:
        total = c.judgements + c.no_verdict
        hint = _STRONGER if c.no_verdict > total / 10 else ""
        lines.append(f"  {c.no_verdict:,} of {total:,} judgements have no verdict that could be read{hint}")
    if c.left_out:
        lines.append(f"  {c.left_out:,} prompts are left out for want of a verdict in both orders")
    lines.append("  answers stand between numbered markers, but no marker makes a judge immune to what is in them")
    return lines


def _sign_test(one: int, other: int) -> bool:
    """Whether two counts differ more than chance (Wilson's 95 % interval of the share excludes one half)."""
    n = one + other
    if not n:
        return False
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    # Wilson's interval excludes 1/2 exactly when the score statistic of the hypothesis passes z.
    return abs(one / n - 0.5) > z * (0.25 / n) ** 0.5
