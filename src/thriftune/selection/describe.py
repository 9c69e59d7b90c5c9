"""How a selection covers its pool, in figures, and what about it should make its owner look twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from thriftune import geometry
from thriftune.selection import registry
from thriftune.selection.scalar import effective, expected_touched, spearman
from thriftune.selection.vectors import clusters_of
from thriftune.study import Study
from thriftune.types import BoolArray, FloatArray, IntArray, ObjectArray, Selection

CLUSTERS = 100  # enough to tell kinds of prompts apart; more of them tell prompts of one kind apart
_TASKS_KEPT = 1000  # rows of the per-task table that are stored; a pool may use a label per prompt
_MOSTLY = 0.5
_MANY = 0.1
_STRONG = 0.5
_LESS = 0.9
_FOUND = 0.95  # of true neighbours, below which a graph of them is a doubtful one
_LONGEST = 0.2  # "the longest" are this share of the pool


def describe(study: Study, selection: Selection, run: str | None) -> dict[str, Any]:
    """How ``selection`` covers the pool of ``study``.

    Args:
        study: where it was made; ``selection.rows`` are rows of its pool.
        selection: the picks, at least one.
        run: the score run that it was made with; None where there is none.

    Returns:
        JSON values: ``picks`` and ``pool``, how many; ``lengths``, see `lengths`; ``repeats``, see `repeats`; and, each
        None where the study lacks what it takes, ``tasks``, see `share_by_task`; ``clusters``, see
        `touched_clusters`; ``cut``: shares of prompts beyond the context and of drafts stopped by the limit;
        ``score_length``: Spearman's correlation over the pool of the score that was ranked by with prompt length;
        ``ties``: of a strategy that ranks by a score and nothing else, see `ties`.
    """
    strategy = registry.get(selection.strategy)
    score = strategy.score(selection.params)
    candidates = study.candidates(run, embeddings=False, score=score)
    rows = np.asarray(selection.rows, np.int64)
    summary: dict[str, Any] = {"picks": len(rows), "pool": len(candidates)}
    summary["tasks"] = None if candidates.tasks is None else share_by_task(candidates.tasks, rows)
    summary["clusters"] = None
    if run is not None and (study.score_directory(run) / "embeddings.npy").exists():
        how = selection.params.get("transform", geometry.HIDDEN_STATES)
        sample, labels, picked = clusters_of(study, run, how, rows, min(CLUSTERS, max(2, len(rows))))
        free = ~candidates.annotated
        summary["clusters"] = touched_clusters(labels[free[sample]], picked, int(free.sum()))
    assert candidates.lengths is not None
    summary["lengths"] = {"unit": "characters" if run is None else "tokens", **lengths(candidates.lengths, rows)}
    groups = study.pool(["group", "near_group"])
    summary["repeats"] = repeats(groups["group"].to_numpy(), groups["near_group"].to_numpy(), rows)
    summary["cut"] = None
    if run is not None:
        flags = study.scores(run, ["truncated_prompt", "hit_limit"])
        summary["cut"] = {
            name: _shares(flags[column].to_numpy(zero_copy_only=False), rows)
            for name, column in (("prompt", "truncated_prompt"), ("draft", "hit_limit"))
        }
    summary["score_length"] = summary["ties"] = None
    if score is not None:
        values = candidates.scores[score]
        summary["score_length"] = {"score": score, "spearman": spearman(values, candidates.lengths)}
        if len(strategy.needed(selection.params)) == 1:
            summary["ties"] = {"score": score, **ties(values, rows, ~candidates.annotated)}
    return summary


def share_by_task(tasks: ObjectArray, rows: IntArray) -> dict[str, Any]:
    """Picks (k,) and pool (n,) by task label: how many tasks there are and were touched, and a row for each."""
    names, label = np.unique(tasks.astype(str), return_inverse=True)
    pool = np.bincount(label, minlength=len(names))
    picks = np.bincount(label[rows], minlength=len(names))
    order = np.lexsort((-pool, -picks))[:_TASKS_KEPT]
    table = [{"task": str(names[i]), "pool": int(pool[i]), "picks": int(picks[i])} for i in order]
    return {"tasks": len(names), "touched": int((picks > 0).sum()), "table": table}


def touched_clusters(labels: IntArray, picked: IntArray, free: int) -> dict[str, Any]:
    """How many clusters the picks touch and how evenly, and what as many random picks would do on average.

    Args:
        labels: (s,) of a sample of the ``free`` prompts that could be picked.
        picked: (k,) of the picks.
        free: how many there are.

    Returns:
        ``clusters``, how many there are; ``touched`` and ``random``, how many the picks and random ones touch;
        ``effective`` and ``effective_random``, as many clusters picked evenly from would be as varied, see
        `scalar.effective`; ``effective_least``, the least of 64 random draws.
    """
    sizes = np.bincount(labels)
    sizes = np.ceil(sizes[sizes > 0] * (free / max(len(labels), 1))).astype(np.int64)
    draws = np.random.default_rng(0).multivariate_hypergeometric(sizes, len(picked), size=64, method="marginals")
    random = [effective(draw) for draw in draws]
    return {
        "clusters": len(sizes),
        "touched": len(np.unique(picked)),
        "random": round(expected_touched(sizes, len(picked)), 2),
        "effective": round(effective(np.bincount(picked)), 2),
        "effective_random": round(float(np.mean(random)), 2),
        "effective_least": round(min(random), 2),
    }


def lengths(values: FloatArray | IntArray, rows: IntArray) -> dict[str, Any]:
    """Length quantiles of pool and picks, and which share of the picks is among the pool's longest."""
    quantiles = (0.1, 0.5, 0.9, 1.0)
    limit = np.quantile(values, 1 - _LONGEST)
    return {
        "quantiles": list(quantiles),
        "pool": [round(float(v), 1) for v in np.quantile(values, quantiles)],
        "picks": [round(float(v), 1) for v in np.quantile(values[rows], quantiles)],
        "longest_above": float(limit),
        "longest": _shares(values > limit, rows),
    }


def repeats(groups: IntArray, near: IntArray, rows: IntArray) -> dict[str, int]:
    """How many picks repeat an earlier pick: word for word, and nearly (the former included)."""
    return {
        "exact": len(rows) - len(np.unique(groups[rows])),
        "near": len(rows) - len(np.unique(near[rows])),
    }


def ties(scores: FloatArray, rows: IntArray, free: BoolArray) -> dict[str, int]:
    """How many of the picks, and of the ``free`` prompts (n,) they were chosen from, score as low as the lowest."""
    lowest = scores == scores[rows].min()
    return {"pool": int((lowest & free).sum()), "picks": int(lowest[rows].sum())}


def _shares(flag: BoolArray, rows: IntArray) -> dict[str, float]:
    return {"pool": round(float(flag.mean()), 4), "picks": round(float(flag[rows].mean()), 4)}


def warnings(summary: Mapping[str, Any], notes: Mapping[str, Any]) -> list[str]:
    """What about a selection should make its owner look twice, one sentence each.

    Args:
        summary: from `describe`.
        notes: of the selection.

    Returns:
        Sentences with the figures and what to try; none when nothing stands out.
    """
    found = []
    k = summary["picks"]
    cut = summary["cut"]
    if cut is not None and cut["prompt"]["picks"] > _MOSTLY:
        found.append(
            f"{cut['prompt']['picks']:.0%} of the picks are prompts too long for the model, scored by their beginning "
            f"({cut['prompt']['pool']:.0%} of the pool are): score with a model of longer context, or leave them out"
        )
    if cut is not None and cut["draft"]["picks"] > max(_MOSTLY, cut["draft"]["pool"] + 0.2):
        found.append(
            f"{cut['draft']['picks']:.0%} of the picks have a draft answer cut off at the limit "
            f"({cut['draft']['pool']:.0%} of the pool): score again with a larger --max-new-tokens, or compare with "
            "mean_nll"
        )
    longest = summary["lengths"]["longest"]
    if longest["picks"] > _MOSTLY:
        found.append(
            f"{longest['picks']:.0%} of the picks are among the longest {longest['pool']:.0%} of the pool: long "
            "prompts cost more to annotate; compare with length_matched_random"
        )
    tasks = summary["tasks"]
    if tasks is not None and tasks["tasks"] > 1:
        top = tasks["table"][0]
        share, usual = top["picks"] / k, top["pool"] / summary["pool"]
        if share > _MOSTLY and share > usual + 0.1:
            found.append(
                f"{share:.0%} of the picks are of one task, {top['task']!r} ({usual:.0%} of the pool): compare with "
                "random_within_task"
            )
    clusters = summary["clusters"]
    if clusters is not None and clusters["effective"] < min(
        _LESS * clusters["effective_random"], clusters["effective_least"]
    ):
        even = "" if notes.get("kernel") == "local" else "facility_location --param kernel=local, "
        found.append(
            f"the picks are less varied than as many random ones (effective number of clusters "
            f"{clusters['effective']:.0f}, random {clusters['effective_random']:.0f}): nothing like that was shown to "
            f"save annotations in our study (docs/results/study.md); compare with {even}fewer picks, random"
        )
    near = summary["repeats"]["near"] / k
    if near > _MANY:
        found.append(
            f"{near:.0%} of the picks are nearly the same text as an earlier pick: facility_location or k_center "
            "avoid repeats"
        )
    related = summary["score_length"]
    if related is not None and related["spearman"] is not None and abs(related["spearman"]) > _STRONG:
        found.append(
            f"{related['score']} goes with prompt length over the pool (Spearman {related['spearman']:+.2f}): part of "
            "what it finds is length; compare with length_matched_random"
        )
    tied = summary["ties"]
    if tied is not None and tied["picks"] > _MANY * k and tied["pool"] > 2 * tied["picks"]:
        found.append(
            f"{tied['picks']:,} of the picks are the first by id of {tied['pool']:,} prompts with the same "
            f"{tied['score']}, which cannot tell them apart: choose by another score"
        )
    if notes.get("recall", 1.0) < _FOUND:
        found.append(
            f"the graph of neighbours holds only {notes['recall']:.0%} of the nearest neighbours of some prompts: "
            "this pool has no clear clusters, and the picks may be well below the best; --param engine=exact does "
            "without the graph"
        )
    return found
