"""Why each prompt was picked, in words, from what is known about the strategy that picked it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftune import geometry
from thriftune.report.figures import nearest_pick
from thriftune.report.material import Chosen, Material
from thriftune.types import FloatArray, IntArray

SCORE_WORDS = {
    "mean_entropy": ("mean entropy", "nats", "how undecided the model was at each token of its draft, on average"),
    "max_entropy": ("highest entropy", "nats", "how undecided it was at the least certain token of its draft"),
    "least_confidence": (
        "least confidence",
        "nats",
        "how improbable its whole draft was; grows with its length",
    ),
    "mean_nll": ("mean negative log-likelihood", "nats", "how improbable its draft was per token"),
    "mean_margin": ("mean margin score", "", "how close its two best tokens were, on average: 1 is a tie"),
    "min_margin": (
        "closest margin score",
        "",
        "how close its two best tokens were at their closest: 1 is a tie",
    ),
    "prompt_nll": ("prompt surprise", "nats", "how improbable the prompt's own text was to the model, per token"),
}
_ASSIGNMENT_FLOPS = 1e11  # for all selections together
_LOOKED_AT = 100
_EXAMPLES = 3


def number(value: float) -> str:
    """A score or distance as the page writes it."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(share: float, digits: int = 0) -> str:
    """A share of one as a percentage that never rounds to 0 or 100 what is not."""
    if share in (0, 1):
        return f"{100 * share:.0f}\u00a0%"
    for more in range(digits, 4):
        text = f"{100 * share:.{more}f}"
        if 0 < float(text) < 100:
            break
    return f"{text}\u00a0%"  # no line break before the sign


def standing(column: FloatArray, value: float) -> tuple[int, float]:
    """Rank of ``value`` in ``column`` (n,), 1 for the highest, and the share of finite values below it."""
    finite = column[np.isfinite(column)]
    return int((finite > value).sum()) + 1, float((finite < value).mean()) if len(finite) else 0.0


@dataclass(frozen=True)
class Neighbourhood:
    """What a pick stands for.

    Args:
        count: prompts of the pool nearest to this pick, itself included; an estimate when ``sampled``.
        share: the same as a share of the pool.
        sampled: whether only a sample of the pool was looked at.
        examples: rows of the nearest ones with other texts.
    """

    count: int
    share: float
    sampled: bool
    examples: list[int]


def space_of(material: Material, chosen: Chosen) -> FloatArray | None:
    """The embeddings as this selection saw them, or None where they are not on the page."""
    if chosen.record.get("run", material.run) != material.run:
        return None
    how = chosen.params.get("transform", geometry.HIDDEN_STATES)
    return material.space(how) if how in geometry.TRANSFORMS else material.embeddings


def neighbourhoods(material: Material, chosen: Chosen, first: int) -> list[Neighbourhood]:
    """What the first picks stand for among all picks of their selection; empty without embeddings."""
    x = space_of(material, chosen)
    if x is None or not len(chosen.rows):
        return []
    affordable = int(_ASSIGNMENT_FLOPS / (2 * x.shape[1] * len(chosen.rows) * len(material.chosen)))
    rows = np.arange(len(x))
    if affordable < len(x):
        rows = np.sort(np.random.default_rng(0).choice(len(x), max(affordable, min(len(x), 1000)), replace=False))
    counts = np.bincount(nearest_pick(x, chosen.rows, rows), minlength=len(chosen.rows))
    scale = len(x) / len(rows)
    half = 0.5 * np.einsum("ij,ij->i", x, x)
    closeness = x @ x[chosen.rows[:first]].T - half[:, None]
    found = []
    for position in range(min(first, len(chosen.rows))):
        count = round(float(counts[position]) * scale)
        close = np.argsort(-closeness[:, position], kind="stable")[:_LOOKED_AT]
        examples = _examples(material, x, chosen.rows, position, close)
        found.append(Neighbourhood(max(count, 1), count / len(x), scale > 1, examples))
    return found


def _examples(material: Material, x: FloatArray, picks: IntArray, position: int, close: IntArray) -> list[int]:
    """Those of the rows ``close`` to a pick that no other pick is nearer to, each text once."""
    close = close[material.groups[close] != material.groups[picks[position]]]
    close = close[nearest_pick(x, picks, close) == position]
    _, first = np.unique(material.groups[close], return_index=True)
    return [int(row) for row in close[np.sort(first)][:_EXAMPLES]]


def reasons(material: Material, chosen: Chosen, first: int) -> list[str]:
    """Why each of the first picks was picked, a sentence or two each."""
    positions = range(min(first, len(chosen.rows)))
    run = chosen.record.get("run", material.run)
    if chosen.score is not None and run != material.run:
        return [f"Ranked by {chosen.score} of score run {run!r}; make the report with --run {run} to see it."] * len(
            positions
        )
    if chosen.score in material.scores:
        return [_by_score(material, chosen, chosen.score or "", p) for p in positions]
    if _quotas(chosen):
        # What a strategy goes by it goes by within the limits only.
        return [f"{_by_other(chosen, p)}. The selection's limits by task had their say, too." for p in positions]
    if chosen.strategy == "random":
        return ["By chance: every prompt had the same chance of being drawn, once per distinct text."] * len(positions)
    if chosen.strategy == "random_within_task":
        return [
            f"By chance within its task ({_task(material, chosen.rows[p])}): every task gives the same number of picks."
            for p in positions
        ]
    if chosen.strategy == "length_matched_random":
        other = chosen.params.get("reference")
        matched = f"selection {other!r}" if isinstance(other, str) else "a reference selection"
        return [f"By chance among prompts as long as those of {matched}."] * len(positions)
    if chosen.strategy == "k_center":
        return _by_distance(material, chosen, positions)
    if chosen.strategy == "facility_location":
        return [_by_gain(chosen, p) for p in positions]
    return [_by_other(chosen, p) for p in positions]


def _quotas(chosen: Chosen) -> bool:
    return bool(chosen.params.get("at_least") or chosen.params.get("at_most"))


def _task(material: Material, row: int) -> str:
    return "none" if material.tasks is None else str(material.tasks[row]) or "none"


def _by_score(material: Material, chosen: Chosen, name: str, position: int) -> str:
    column = material.scores[name]
    value = float(column[chosen.rows[position]])
    rank, below = standing(column, value)
    label, unit, meaning = SCORE_WORDS[name]
    text = (
        f"Its {label} is {number(value)}{' ' + unit if unit else ''}, {_ordinal(rank)} of the {len(material):,} "
        f"prompts and above {percent(below, 1)} of them: {meaning}."
    )
    if rank > position + 1 and _quotas(chosen):
        text += (
            " Prompts that score higher were left out by the selection's limits by task, have an answer or repeat one."
        )
    elif rank > position + 1:
        text += " Prompts that score higher have an answer already or repeat the text of another."
    return text


def _ordinal(rank: int) -> str:
    if rank == 1:
        return "the highest"
    suffix = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{suffix} highest"


def _by_distance(material: Material, chosen: Chosen, positions: range) -> list[str]:
    x = space_of(material, chosen)
    texts = []
    answered = np.setdiff1d(np.flatnonzero(material.annotated), chosen.rows)
    for p in positions:
        earlier = np.concatenate([answered, chosen.rows[:p]])
        if x is None or not len(earlier):
            how = (
                "drawn at random" if chosen.params.get("start") == "random" else "the prompt nearest the pool's centre"
            )
            texts.append(f"The starting point: {how}." if p == 0 else "The prompt farthest from all picks before it.")
            continue
        near, distance = _nearest(x, earlier, int(chosen.rows[p]))
        if chosen.gains is not None and not np.isclose(chosen.gains[p], distance, rtol=0.01):
            # Other prompts were answered when it was picked than are now.
            then = number(float(chosen.gains[p]))
            texts.append(f"Farthest from everything answered or picked by then, at distance {then}.")
            continue
        known = f"pick {near - len(answered) + 1}" if near >= len(answered) else "the answered prompt"
        texts.append(
            f"Farthest from everything answered or picked before it: its nearest is {known} "
            f"({material.ids[earlier[near]]}), at distance {number(distance)}."
        )
    return texts


def _nearest(x: FloatArray, among: IntArray, row: int) -> tuple[int, float]:
    distances = np.linalg.norm(x[among].astype(np.float64) - x[row], axis=1)
    best = int(distances.argmin())
    return best, float(distances[best])


def _by_gain(chosen: Chosen, position: int) -> str:
    text = "Given the picks before it, this prompt added most to how well the pool is represented"
    if position == 0:
        text = "No other single prompt adds as much to how well the pool is represented"
    if (chosen.record.get("notes") or {}).get("greedy_by") == "gain per cost":
        text = "Given the picks before it, this prompt added most for its cost to how well the pool is represented"
    if chosen.gains is None:
        return f"{text}."
    gain, total = float(chosen.gains[position]), float(chosen.gains.sum())
    share = f", {percent(gain / total, 1)} of what all {len(chosen.rows):,} picks add" if total > 0 else ""
    return f"{text}: a gain of {number(gain)}{share}."


def _by_other(chosen: Chosen, position: int) -> str:
    text = f"Pick {position + 1:,} of strategy {chosen.strategy}"
    if chosen.gains is not None:
        text += f", with a gain of {number(float(chosen.gains[position]))} in its own unit"
    return f"{text}. See: thriftune strategies {chosen.strategy}"


def certificate(chosen: Chosen) -> str:
    """The proven statement about a selection's quality, in words; empty where there is none."""
    stated: dict[str, Any] = dict(chosen.record.get("certificate") or {})
    kind = stated.get("kind")
    if kind in ("facility_location", "priced_facility_location") and "ratio" in stated:
        best = f"the best possible {len(chosen.rows):,} picks"
        if "budget_cost" in stated:
            best = f"the best picks that {number(float(stated['budget_cost']))} buys"
        graph = ", as far as the graph of neighbours holds everyone's nearest" if stated.get("on_graph") else ""
        return (
            f"Adds at least {percent(float(stated['ratio']), 1)} of what {best} "
            f"could add to how well the pool is represented{graph}."
        )
    if kind == "k_center" and "radius" in stated:
        return (
            f"No prompt is farther than {number(float(stated['radius']))} from a pick or an answered prompt; no other "
            f"{len(chosen.rows):,} picks can bring that below {number(float(stated['lower_bound']))}."
        )
    return "; ".join(f"{k}: {number(v) if isinstance(v, float) else v}" for k, v in stated.items())
