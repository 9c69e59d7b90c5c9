"""`select`: the one place where ids become rows, a strategy runs, its answer is verified, and rows become ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thriftune import meta
from thriftune.errors import StrategyError
from thriftune.selection import registry
from thriftune.selection.columns import check_ids, finite, from_arrays, rows_of, visible
from thriftune.selection.distinct import Ask, distinct_first
from thriftune.selection.prices import check_affordable, money_of, prices
from thriftune.selection.quotas import Pass, groups_of, quotas, with_quotas
from thriftune.selection.registry import Strategy
from thriftune.selection.request import TRANSFORM, budget_of, resolve, seed_of
from thriftune.selection.vectors import in_order
from thriftune.study import SCORE_COLUMNS, Study
from thriftune.types import Candidates, FloatArray, IntArray, Picks, Selection

DUPLICATES = ("last", "keep")


def select(
    source: Study | str | Path | Candidates | None = None,
    strategy: str | None = None,
    budget: int | str | None = None,
    *,
    seed: int = 0,
    run: str | None = None,
    embeddings: Any = None,
    scores: Any = None,
    ids: Any = None,
    tasks: Any = None,
    annotated: Any = None,
    lengths: Any = None,
    costs: Any = None,
    weights: Any = None,
    groups: Any = None,
    budget_cost: float | str | None = None,
    duplicates: str = "last",
    at_least: Any = None,
    at_most: Any = None,
    **params: Any,
) -> Selection:
    """Choose which prompts to annotate.

    Prompts are put in the order of their ids before the strategy sees them, so neither the order of the pool nor the
    number of threads changes what is picked, and ties go to the lower id.

    Args:
        source: a study or its directory, or Candidates; None when arrays are given.
        strategy: its name, see ``thriftune strategies``; None for `default_strategy`.
        budget: how many prompts, at most as many as are not annotated; or a share of the pool such as ``"10%"``.
        seed: of randomised strategies.
        run: which score run of a study, the latest if None.
        embeddings: (n, d) float.
        scores: name -> (n,) float, higher = more uncertain.
        ids: (n,) unique strings; default: row numbers.
        tasks: (n,) labels.
        annotated: (n,) bool, prompts that have an answer: never picked, but covered by what is picked.
        lengths: (n,) number, in tokens or characters.
        costs: (n,) float > 0, price of each annotation; or a column of a study, see `prices.prices`.
        weights: (n,) float >= 0, how much a prompt counts as something to be covered.
        groups: (n,) integer; the same number means the same prompt text.
        budget_cost: what the picks may cost together, in the unit of ``costs``; then there is no ``budget``, and
            ``Selection.budget`` says how many were picked.
        duplicates: ``last``: a text that was picked or annotated is picked again only when all others are used up
            (with ``budget_cost`` never); ``keep``: each row for itself.
        at_least: ``{"task": 5}``: so many picks of every task that has as many, served first; ``{"poetry": 20}``: of
            the task of that label, which goes before ``task``.
        at_most: ``{"task": 50}``: no more picks of any task; by label as well.
        params: the strategy's own; and ``transform`` (see `geometry.transform`) for those that need embeddings,
            by default ``centre_l2`` for a study's hidden states and ``none`` for your own arrays.

    Returns:
        The selection, ids and rows in pick order; marked partial when it was interrupted (Ctrl-C).

    Raises:
        StrategyError: the request is impossible, or the strategy broke its contract.
        StudyError: the study lacks what is asked for.
    """
    given = {
        "embeddings": embeddings,
        "scores": scores,
        "ids": ids,
        "tasks": tasks,
        "annotated": annotated,
        "lengths": lengths,
        "costs": costs,
        "weights": weights,
        "groups": groups,
    }
    arrays = {name: value for name, value in given.items() if value is not None}
    if isinstance(source, (str, Path)):
        source = Study(source)
    column = arrays.pop("costs") if isinstance(source, Study) and isinstance(costs, str) else None
    if isinstance(costs, str) and column is None:
        raise StrategyError(f"costs={costs!r} names a column of a study: give an array of numbers")
    if source is not None and arrays:
        raise StrategyError(f"both a pool and {', '.join(arrays)}= were given: give one of them")
    if duplicates not in DUPLICATES:
        raise StrategyError(f"duplicates is {duplicates!r}: choose one of {', '.join(DUPLICATES)}")
    if run is not None and not isinstance(source, Study):
        raise StrategyError(f"run={run!r} names a score run of a study: leave it out")
    seed = seed_of(seed)
    limits = quotas(at_least, at_most)

    if source is None:
        source = from_arrays(**arrays)
    chosen, resolved, why = resolve(source, strategy, params, run)
    priced = column or (source.costs if isinstance(source, Candidates) else None)
    money = money_of(budget_cost, chosen, budget, priced, limits)
    candidates, scale, advice = _candidates(source, chosen, resolved, run, column)
    named = _named_prompts(source, chosen, resolved, candidates)
    check_ids(candidates.ids)
    all_ids, known = candidates.ids, candidates.groups
    order = np.argsort(all_ids, kind="stable")
    count = int((~candidates.annotated).sum()) if money is not None else budget_of(budget, candidates.annotated)
    view = visible(candidates, chosen, resolved, advice)
    if money is not None:
        check_affordable(view, money)
        resolved.update(**({"costs": column} if column else {}), budget_cost=money)
    tasks, groups = groups_of(candidates.tasks, limits) if limits else (order, order)
    del candidates
    # The one copy of the embeddings: they may be most of the memory there is.
    x = view.embeddings if view.embeddings is None else in_order(view.embeddings, scale, order, resolved[TRANSFORM])
    view = replace(replace(view, embeddings=None).take(order), embeddings=x)

    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    named = {name: place[rows] for name, rows in named.items()}
    ask = _asker(chosen, {name: resolved[name] for name in chosen.parameters if name not in named}, seed, money)
    if known is not None:
        resolved["duplicates"] = duplicates
    texts = None if known is None or duplicates == "keep" else known[order]
    if not limits:
        # An answer is not paid for twice.
        once = money is not None
        picks = (
            ask(view, count, named, 0) if texts is None else distinct_first(ask, view, texts, count, named, once=once)
        )
    else:
        if named:
            raise StrategyError(f"{chosen.name} takes prompts as a parameter, which does not go with quotas")
        resolved.update(limits)
        picks = with_quotas(_by_passes(ask, texts), view, tasks, groups[order], count, limits)
    if picks.partial and len(picks.rows) == 0:
        raise KeyboardInterrupt
    if money is not None:
        count = len(picks.rows)
        if count == 0:
            raise StrategyError(f"nothing that {money:g} buys adds anything to what is annotated: leave it at that")
    rows = order[picks.rows]
    return Selection(
        ids=all_ids[rows],
        rows=rows,
        gains=picks.gains,
        strategy=chosen.name,
        budget=count,
        seed=seed,
        params=resolved,
        certificate=picks.certificate,
        notes={**picks.notes, **({"default": why} if why else {})},
        partial=picks.partial,
    )


def _candidates(
    source: Study | Candidates, strategy: Strategy, resolved: Mapping[str, Any], run: str | None, costs: str | None
) -> tuple[Candidates, FloatArray | None, str]:
    """The columns, checked; what embeddings on disk are to be multiplied by; and advice about a missing column."""
    if isinstance(source, Candidates):
        columns = {name: getattr(source, name) for name in (*registry.COLUMNS, "ids", "annotated", "groups")}
        return from_arrays(**columns), None, ""
    ranked = strategy.score(resolved)
    candidates = source.candidates(run, embeddings=False, score=ranked)
    if len(candidates) == 0:
        raise StrategyError(f"the pool of {source.path} is empty: there is nothing to select from")
    candidates = replace(
        candidates, scores={k: _missing_last(v) if k == "prompt_nll" else v for k, v in candidates.scores.items()}
    )
    name = source.score_run(run) if run is not None or source.score_runs() else None
    scale = None
    wanted = name is not None and "embeddings" in (*strategy.needs, *strategy.uses)
    if wanted and (source.score_directory(name or "") / "embeddings.npy").exists():
        stored, scale = source.stored_embeddings(name)
        finite(scale, "embedding_scale", candidates.ids)
        candidates = replace(candidates, embeddings=stored)
    if costs is not None:
        candidates = replace(candidates, costs=prices(source, name, costs))
    if "tasks" in strategy.needs and candidates.tasks is None:
        again = f"make the study again with: thriftune init {source.quoted} --task-column NAME --pool FILE"
        return candidates, scale, again
    again = f"run: thriftune score {source.quoted}"
    if ranked not in (None, *SCORE_COLUMNS, *candidates.scores):
        own = ", ".join(meta.numeric(source.pool(["meta"])["meta"])[:12]) or "it has none"
        return candidates, scale, f"name one, or a column of numbers of the pool file ({own})"
    if name is not None and "mean_nll" not in candidates.scores:
        again = f"run {name!r} read prompts without answering; run: thriftune score {source.quoted} --name NAME"
    if wanted and scale is None:
        again = f"run: thriftune embed {source.quoted} --run {name} --embedder MODEL"
    return candidates, scale, again


def _missing_last(scores: FloatArray) -> FloatArray:
    """A study's scores (n,), those of prompts that could not be scored set to the lowest that there is."""
    missing = np.isnan(scores)
    if not missing.any() or missing.all():
        return scores
    return np.where(missing, scores[~missing].min(), scores)


def _named_prompts(
    source: Study | Candidates, strategy: Strategy, resolved: dict[str, Any], candidates: Candidates
) -> dict[str, IntArray]:
    """Rows of the parameters that hold prompts; ``resolved`` keeps what is fit for the record."""
    found: dict[str, IntArray] = {}
    for parameter in strategy.parameters.values():
        value = resolved[parameter.name]
        if not parameter.prompts or value is None:
            continue
        if isinstance(source, Study) and isinstance(value, str):
            value = source.selection(value)[0]
        rows = rows_of(value, candidates.ids, parameter.name)
        found[parameter.name] = rows
        if not isinstance(resolved[parameter.name], str):
            resolved[parameter.name] = candidates.ids[rows].tolist()
    return found


def _asker(strategy: Strategy, params: Mapping[str, Any], seed: int, money: float | None) -> Ask:
    """A function that runs the strategy on some candidates and verifies what it answers."""
    priced = {} if money is None else {"budget_cost": money}

    def ask(candidates: Candidates, budget: int, named: Mapping[str, IntArray], part: int) -> Picks:
        # Streams of their own, so that the first part of a selection does not depend on whether there is a second.
        rng = np.random.default_rng(seed if part == 0 else [seed, part])
        try:
            picks = strategy.function(candidates, budget, rng, **params, **named, **priced)
        except KeyboardInterrupt:
            picks = Picks(np.empty(0, np.int64), partial=True)
        return _verified(picks, strategy.name, candidates, budget, money)

    return ask


def _by_passes(ask: Ask, texts: IntArray | None) -> Pass:
    """A function that runs the strategy on some rows, repeated texts last, with a stream of its own for each pass."""

    def run(rows: IntArray, candidates: Candidates, budget: int, number: int) -> Picks:
        def numbered(some: Candidates, wanted: int, named: Mapping[str, IntArray], part: int) -> Picks:
            return ask(some, wanted, named, part + 2 * number)

        if texts is None:
            return numbered(candidates, budget, {}, 0)
        return distinct_first(numbered, candidates, texts[rows], budget, {})

    return run


def _verified(picks: Any, name: str, candidates: Candidates, budget: int, money: float | None) -> Picks:
    """``picks`` if they keep the contract of a strategy: exactly ``budget`` of them, or as many as ``money`` buys.

    Raises:
        StrategyError: naming the strategy and what it got wrong.
    """

    def broken(what: str) -> StrategyError:
        return StrategyError(f"strategy {name} broke its contract: {what}; this is a bug in the strategy")

    if not isinstance(picks, Picks):
        raise broken(f"it returned {type(picks).__name__} instead of Picks")
    rows = np.asarray(picks.rows)
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and len(rows)):
        raise broken(f"its rows are {rows.dtype} of shape {rows.shape} instead of whole numbers of shape (budget,)")
    rows = rows.astype(np.int64)
    if len(rows) > budget or (money is None and len(rows) < budget and not picks.partial):
        raise broken(f"it returned {len(rows)} rows for a budget of {budget}")
    if len(rows) and (rows.min() < 0 or rows.max() >= len(candidates)):
        raise broken(f"row {rows.min() if rows.min() < 0 else rows.max()} is not one of 0..{len(candidates) - 1}")
    if len(np.unique(rows)) != len(rows):
        raise broken("it picked a row twice")
    if candidates.annotated[rows].any():
        raise broken(f"it picked row {rows[candidates.annotated[rows]][0]}, which is annotated already")
    gains = None if picks.gains is None else np.asarray(picks.gains, np.float64)
    if gains is not None and (gains.shape != rows.shape or np.isnan(gains).any()):
        raise broken(f"its gains have shape {gains.shape} or hold NaN, for {len(rows)} rows")
    if money is not None:
        assert candidates.costs is not None
        cost = float(candidates.costs[rows].sum())
        if cost > money * (1 + 1e-8):
            raise broken(f"its picks cost {cost} and {money} was to be spent")
        return replace(picks, rows=rows, gains=gains, notes={**picks.notes, "cost": cost})
    return replace(picks, rows=rows, gains=gains)
