"""What a caller hands to `select`, as checked columns over one index space."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from thriftune.errors import StrategyError
from thriftune.selection.registry import COLUMNS, Strategy
from thriftune.types import Candidates, FloatArray, ObjectArray

_CELLS = 2**22


def from_arrays(
    *,
    embeddings: Any = None,
    scores: Any = None,
    ids: Any = None,
    tasks: Any = None,
    annotated: Any = None,
    lengths: Any = None,
    costs: Any = None,
    weights: Any = None,
    groups: Any = None,
) -> Candidates:
    """Candidates out of a caller's own arrays (or lists); shapes and types are checked, nothing is copied needlessly.

    Args:
        embeddings: (n, d) numbers.
        scores: name -> (n,) numbers.
        ids: (n,) unique strings or whole numbers, which become strings; default: row numbers.
        tasks: (n,) labels.
        annotated: (n,) bool.
        lengths: (n,) numbers.
        costs: (n,) numbers > 0.
        weights: (n,) numbers >= 0.
        groups: (n,) whole numbers; the same number means the same prompt.

    Returns:
        The candidates.

    Raises:
        StrategyError: a shape or a type is wrong, or nothing was given.
    """
    columns: dict[str, npt.NDArray[Any]] = {}
    if embeddings is not None:
        columns["embeddings"] = _numbers(embeddings, "embeddings", 2)
    if scores is not None:
        if not isinstance(scores, Mapping):
            raise StrategyError("scores must map names to values, e.g. scores={'mine': values}")
        for name, values in scores.items():
            column = _numbers(values, f"scores[{name!r}]", 1)
            # Strategies negate scores, which whole numbers without a sign and booleans do not survive.
            columns[f"scores[{name!r}]"] = column if column.dtype.kind == "f" else column.astype(np.float64)
    for name, given in (("lengths", lengths), ("costs", costs), ("weights", weights), ("groups", groups)):
        if given is not None:
            columns[name] = _numbers(given, name, 1)
    if "groups" in columns and columns["groups"].dtype.kind not in "iu":
        raise StrategyError(f"groups are {columns['groups'].dtype}: give whole numbers")
    if ids is not None:
        columns["ids"] = _ids(ids)
    if tasks is not None:
        columns["tasks"] = np.array([t if isinstance(t, str) else "" if t is None else str(t) for t in tasks], object)
    if annotated is not None:
        mask = np.asarray(annotated)
        if mask.dtype != np.bool_:
            raise StrategyError(f"annotated is {mask.dtype}: give a boolean mask with one value per prompt")
        columns["annotated"] = mask
    if not columns:
        raise StrategyError("nothing to select from: give a study, or embeddings=, scores=, tasks= or ids=")
    first, n = next((name, len(column)) for name, column in columns.items())
    for name, column in columns.items():
        if column.ndim != (2 if name == "embeddings" else 1) or len(column) != n:
            raise StrategyError(f"{name} has shape {column.shape} but {first} has {n} rows: give one row per prompt")
    if n == 0:
        raise StrategyError(f"{first} has no rows: there is nothing to select from")
    if "ids" not in columns:
        # Zero-padded, so that their order as strings is the order of the rows.
        width = len(str(n - 1))
        columns["ids"] = np.array([f"{row:0{width}d}" for row in range(n)], object)
    named = {name: column for name, column in columns.items() if not name.startswith("scores[")}
    # The names as given: "scores['x']" is only for messages.
    kept = {name: columns[f"scores[{name!r}]"] for name in scores} if scores is not None else {}
    return Candidates(scores=kept, **named)


def _numbers(values: Any, name: str, dimensions: int) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise StrategyError(f"{name} cannot be read as an array ({error})") from None
    if array.dtype.kind not in "biuf":
        raise StrategyError(f"{name} holds {array.dtype}: give numbers")
    if array.ndim != dimensions:
        wanted = "(prompts, dimensions)" if dimensions == 2 else "(prompts,)"
        raise StrategyError(f"{name} has shape {array.shape}: give an array of shape {wanted}")
    if dimensions == 2 and array.shape[1] == 0:
        raise StrategyError(f"{name} has shape {array.shape}: give at least one dimension")
    return array


def _ids(values: Any) -> ObjectArray:
    found = [str(i) if isinstance(i, (int, np.integer)) else i for i in values]
    wrong = next((i for i in found if not isinstance(i, str)), None)
    if wrong is not None:
        raise StrategyError(f"id {wrong!r} is not a string: give ids as strings")
    return np.array(found, object)


def check_ids(ids: ObjectArray) -> None:
    """Refuse ids that are not unique.

    Raises:
        StrategyError: naming the first that comes twice.
    """
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    for i in ids:
        if i in seen:
            raise StrategyError(f"id {i!r} comes more than once: ids must be unique")
        seen.add(i)


def visible(candidates: Candidates, strategy: Strategy, params: Mapping[str, Any], advice: str = "") -> Candidates:
    """What a strategy gets to see: the columns it declared and no others, checked.

    Args:
        candidates: everything there is.
        strategy: who asks.
        params: its resolved parameters.
        advice: what a user does about a column that is missing.

    Returns:
        Candidates without the undeclared columns and without groups.

    Raises:
        StrategyError: a needed column is missing, holds NaN or infinity or an impossible value, an embedding has no
            direction where directions count, or prices were given that the strategy would ignore.
    """
    needed = strategy.needed(params)
    declared = {need.partition(":")[0] for need in (*needed, *strategy.uses)}
    for need in needed:
        column, _, score = need.partition(":")
        if column != "scores":
            if getattr(candidates, column) is None:
                hint = advice or f"give {column}="
                raise StrategyError(f"{strategy.name} needs {column}, which are not there: {hint}")
        elif not candidates.scores or (score and score not in candidates.scores):
            known = ", ".join(candidates.scores) or "none"
            missing = f"score {score!r}" if score else "scores"
            near = difflib.get_close_matches(score, candidates.scores, 1)
            advice = f"did you mean {near[0]}?" if near else advice
            raise StrategyError(f"{strategy.name} needs {missing} (there: {known}): {advice or 'give scores='}")
    for column in ("costs", "weights"):
        if getattr(candidates, column) is not None and column not in declared:
            raise StrategyError(f"{strategy.name} takes no {column} and would ignore them: leave {column}= out")
    all_scores = any(need == "scores" for need in (*needed, *strategy.uses))
    wanted = {need.partition(":")[2] for need in needed if need.startswith("scores:")}
    scores = {name: values for name, values in candidates.scores.items() if all_scores or name in wanted}
    hidden: dict[str, Any] = {column: None for column in COLUMNS if column != "scores" and column not in declared}
    shown = replace(candidates, scores=scores, groups=None, **hidden)
    for name, values in scores.items():
        finite(values, f"score {name!r}", shown.ids)
    for column in ("embeddings", "lengths", "weights"):
        values = getattr(shown, column)
        if values is not None:
            finite(values, column, shown.ids)
    if shown.embeddings is not None and (
        strategy.by_angle or params.get("kernel") == "cosine" or params.get("transform", "none") != "none"
    ):
        instead = (
            f"take another strategy than {strategy.name}" if strategy.by_angle else "use transform none, kernel rbf"
        )
        _have_directions(shown.embeddings, shown.ids, instead)
    if shown.costs is not None:
        # What is annotated is not paid again.
        free = np.flatnonzero(~shown.annotated)
        finite(shown.costs[free], "costs", shown.ids[free])
        wrong = free[shown.costs[free] <= 0]
        if len(wrong):
            row = wrong[0]
            raise StrategyError(
                f"costs of prompt {shown.ids[row]!r} is {shown.costs[row]:g}: a price must be greater than 0"
            )
    if shown.weights is not None and ((shown.weights < 0).any() or not (shown.weights > 0).any()):
        raise StrategyError(f"weights go from {shown.weights.min()} to {shown.weights.max()}: give some > 0, none < 0")
    return shown


def finite(values: FloatArray, name: str, ids: ObjectArray) -> None:
    """Refuse NaN and infinity.

    Args:
        values: (n, ...) numbers, perhaps memory-mapped; read in blocks.
        name: of the column, for the message.
        ids: (n,).

    Raises:
        StrategyError: naming the first prompt that holds one.
    """
    limit = np.finfo(np.float32).max
    step = max(1, _CELLS // max(1, math.prod(values.shape[1:])))
    for begin in range(0, len(values), step):
        block = values[begin : begin + step]
        good = np.isfinite(block)
        if block.dtype.kind != "f" or block.dtype.itemsize > 4:
            # Beyond float32 counts as infinite: that is what distances are computed in.
            good &= np.abs(block.astype(np.float64, copy=False)) <= limit
        if not good.all():
            row = begin + int(np.flatnonzero(~good.reshape(len(block), -1).all(axis=1))[0])
            seen = "NaN" if np.isnan(values[row]).any() else "infinity"
            raise StrategyError(f"{name} of prompt {ids[row]!r} holds {seen}: mend it, or leave that prompt out")


def _have_directions(embeddings: FloatArray, ids: ObjectArray, instead: str) -> None:
    """Refuse embeddings that are all zero; (n, d), perhaps memory-mapped."""
    zero = np.flatnonzero(np.asarray(embeddings[:, 0]) == 0)
    step = max(1, _CELLS // embeddings.shape[1])
    parts = [zero[begin : begin + step] for begin in range(0, len(zero), step)]
    zero = np.concatenate([zero[:0], *(part[~np.any(embeddings[part], axis=1)] for part in parts)])
    if len(zero):
        who = f"prompt {ids[zero[0]]!r}" + (f" and {len(zero) - 1} more" if len(zero) > 1 else "")
        raise StrategyError(
            f"the embedding of {who} is all zero and points nowhere: make it again, leave that prompt out, or {instead}"
        )


def rows_of(value: Any, ids: ObjectArray, name: str) -> npt.NDArray[np.int64]:
    """Rows of prompts that a caller names by id, or by row where they are whole numbers.

    Args:
        value: a Selection, or a sequence of ids or of rows.
        ids: (n,) ids by row.
        name: the parameter, for messages.

    Returns:
        (m,) rows, m >= 1.

    Raises:
        StrategyError: one is unknown, or there are none.
    """
    given: Sequence[Any] = list(getattr(value, "ids", value)) if not isinstance(value, str) else [value]
    if not given:
        raise StrategyError(f"{name} is empty: name at least one prompt")
    if all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in given):
        rows = np.array(given, np.int64)
        if rows.min() < 0 or rows.max() >= len(ids):
            raise StrategyError(f"{name} has row {rows.min() if rows.min() < 0 else rows.max()} of {len(ids)} prompts")
        return rows
    at = {i: row for row, i in enumerate(ids)}
    missing = [i for i in given if i not in at]
    if missing:
        raise StrategyError(f"{name}: no prompt {missing[0]!r} among the {len(ids)} candidates")
    return np.array([at[i] for i in given], np.int64)
