"""Embeddings for strategies: float32, in order of id, transformed; never more than one copy of our own."""

from __future__ import annotations

import numpy as np

from thriftune import geometry
from thriftune.errors import StrategyError
from thriftune.study import Study
from thriftune.types import FloatArray, IntArray

_CELLS = 2**24  # of a block
_SAMPLE = 20_000  # prompts that clusters are found among
_ASSIGN = 4096
_LEAST, _MOST = 1e-15, 1e15  # magnitudes whose squares, added up, are far from the limits of float32


def in_order(embeddings: FloatArray, scale: FloatArray | None, order: IntArray, how: geometry.Transform) -> FloatArray:
    """Embeddings as a strategy sees them.

    Args:
        embeddings: (n, d) numbers, perhaps memory-mapped; read once, from front to back.
        scale: (n,) what each row is to be multiplied by; None: nothing.
        order: (n,) rows in the order wanted.
        how: see `geometry.transform`.

    Returns:
        (n, d) float32, C order; ``embeddings`` themselves where they are that already.

    Raises:
        StrategyError: numbers so large or small that their squares are lost.
    """
    n = len(order)
    sorted_already = bool((order[1:] > order[:-1]).all())
    if how == "none" and scale is None and sorted_already:
        return _in_range(np.ascontiguousarray(embeddings, np.float32))
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    x: FloatArray = np.empty(embeddings.shape, np.float32)
    step = max(1, _CELLS // embeddings.shape[1])
    for begin in range(0, n, step):
        block = slice(begin, min(begin + step, n))
        part = np.asarray(embeddings[block], np.float32)
        if scale is not None:
            part = part * scale[block, None].astype(np.float32)
        x[block if sorted_already else place[block]] = part
    return _in_range(x) if how == "none" else geometry.transform(x, how, overwrite=True)


def _in_range(x: FloatArray) -> FloatArray:
    """``x`` if the squares of its numbers are numbers of single precision, which distances are computed in."""
    largest = max(float(x.max(initial=0)), -float(x.min(initial=0)))
    if largest > 0 and not _LEAST < largest < _MOST:
        raise StrategyError(
            f"embeddings go up to {largest:.3g}, and the squares of such numbers are beyond single precision: "
            f"divide them by {largest:.1g}, or use transform l2"
        )
    return x


def clusters_of(
    study: Study, run: str, how: geometry.Transform, rows: IntArray, clusters: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Clusters of a pool, found among a sample where it is large, and those that some rows fall into.

    Args:
        study, run: where the embeddings are.
        how: see `geometry.transform`.
        rows: (k,) rows of the pool.
        clusters: how many.

    Returns:
        (s,) the sample's rows, (s,) their labels and (k,) the labels of ``rows``.
    """
    stored, scale = study.stored_embeddings(run)
    n = len(stored)
    sample = np.arange(n)
    if n > _SAMPLE:
        sample = np.sort(np.random.default_rng(0).choice(n, _SAMPLE, replace=False))
    others = np.setdiff1d(rows, sample)
    read = np.concatenate([sample, others])
    x = geometry.transform(stored[read] * scale[read, None].astype(np.float32), how, overwrite=True)
    labels = geometry.cluster(x[: len(sample)], clusters)
    found, label = np.unique(labels, return_inverse=True)
    centres = np.stack([x[: len(sample)][labels == c].mean(axis=0) for c in found])
    half = np.einsum("ij,ij->i", centres, centres) / 2
    label_of = np.full(n, -1, np.int64)
    label_of[sample] = label
    for begin in range(0, len(others), _ASSIGN):
        part = others[begin : begin + _ASSIGN]
        y = x[len(sample) + begin : len(sample) + begin + len(part)]
        label_of[part] = (y @ centres.T - half).argmax(axis=1)
    return sample, label, label_of[rows]
