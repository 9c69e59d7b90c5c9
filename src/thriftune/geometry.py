"""Geometry of embeddings that selection and the report share: transforms, clusters, a plane, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from thriftune.errors import StrategyError
from thriftune.types import FloatArray, IntArray

Transform = Literal["none", "l2", "centre_l2", "whiten"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)
# What selection and report do with a language model's hidden states unless told otherwise: their mean vector is
# common to all prompts and would dominate every distance.
HIDDEN_STATES: Transform = "centre_l2"
_BLOCK = 4096


def transform(embeddings: FloatArray, how: Transform, *, overwrite: bool = False) -> FloatArray:
    """Embeddings as distances should see them.

    Args:
        embeddings: (n, d) float.
        how: ``none``; ``l2`` (unit length); ``centre_l2`` (mean subtracted, then unit length); ``whiten`` (mean
            subtracted, principal components scaled to unit variance, then unit length). Vectors of length zero stay.
        overwrite: work in ``embeddings`` itself, float32 in C order, instead of a copy.

    Returns:
        (n, d) float32; for ``whiten`` (n, r) with the r components that have variance.

    Raises:
        StrategyError: unknown ``how``.
    """
    if how not in TRANSFORMS:
        raise StrategyError(f"unknown transform {how!r}: choose one of {', '.join(TRANSFORMS)}")
    x = embeddings if overwrite else np.array(embeddings, np.float32, order="C")
    if how == "none":
        return x
    if how != "l2":
        x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
    if how == "whiten":
        x = _white(x)
    lengths = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    lengths[lengths == 0] = 1
    x /= lengths[:, None].astype(np.float32)
    return x


def _white(centred: FloatArray) -> FloatArray:
    """(n, r) float32 coordinates on the principal components that have variance, scaled to unit variance."""
    n, d = centred.shape
    if n < d:
        # The components of few rows come from their products, at n^3 instead of d^3.
        values, vectors = np.linalg.eigh(centred.astype(np.float64) @ centred.T.astype(np.float64))
        kept = values > max(values[-1] * 1e-6, 1e-300)
        return np.ascontiguousarray(vectors[:, kept] * np.sqrt(n), np.float32) if kept.any() else centred[:, :1]
    values, vectors = np.linalg.eigh(_covariance(centred))
    kept = values > max(values[-1] * 1e-6, 1e-300)
    if not kept.any():
        return centred[:, :1]  # all rows alike
    return np.asarray(centred @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32))


def _covariance(centred: FloatArray) -> FloatArray:
    d = centred.shape[1]
    total = np.zeros((d, d))
    for start in range(0, len(centred), _BLOCK):
        block = centred[start : start + _BLOCK].astype(np.float64)
        total += block.T @ block
    return total / max(len(centred), 1)


def plane(embeddings: FloatArray) -> FloatArray:
    """(n, 2) float32 coordinates on the first two principal components, signs fixed so that reruns agree."""
    x = np.array(embeddings, np.float32)
    x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
    if x.shape[1] < 2:
        x = np.pad(x, ((0, 0), (0, 2 - x.shape[1])))
    _, vectors = np.linalg.eigh(_covariance(x))
    axes = vectors[:, ::-1][:, :2]
    strongest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[strongest, [0, 1]] < 0, -1.0, 1.0)
    return np.asarray(x @ axes.astype(np.float32), np.float32)


def cluster(embeddings: FloatArray, k: int, *, seed: int = 0, iterations: int = 10, sample: int = 20_000) -> IntArray:
    """Cluster labels for description (not for selection): Lloyd's algorithm on a sample, then one assignment.

    Args:
        embeddings: (n, d) float.
        k: how many clusters at most.
        seed: of the sample and the starting centres.
        iterations: of Lloyd's algorithm.
        sample: how many rows the centres are fitted to.

    Returns:
        (n,) int64 labels in ``0..k-1``; some may be unused.
    """
    rng = np.random.default_rng(seed)
    n = len(embeddings)
    rows = np.sort(rng.choice(n, min(n, sample), replace=False))
    x = np.asarray(embeddings[rows], np.float32)
    centres = x[rng.choice(len(x), min(k, len(x)), replace=False)].copy()
    for _ in range(iterations):
        labels = _nearest(x, centres)
        counts = np.bincount(labels, minlength=len(centres))
        used = np.flatnonzero(counts)
        starts = np.cumsum(counts[used]) - counts[used]
        centres[used] = np.add.reduceat(x[np.argsort(labels, kind="stable")], starts, axis=0) / counts[used, None]
    return _nearest(embeddings, centres)


def _nearest(x: FloatArray, centres: FloatArray) -> IntArray:
    half = 0.5 * np.einsum("ij,ij->i", centres, centres)
    labels = np.empty(len(x), np.int64)
    for start in range(0, len(x), _BLOCK):
        block = np.asarray(x[start : start + _BLOCK], np.float32)
        labels[start : start + _BLOCK] = (block @ centres.T - half).argmax(axis=1)
    return labels


def coverage(embeddings: FloatArray, picks: IntArray, at: Sequence[int], *, sample: int = 4000) -> FloatArray:
    """Mean Euclidean distance from a prompt of the pool to its nearest pick, for prefixes of a selection.

    Args:
        embeddings: (n, d) float, transformed as selection saw them.
        picks: (k,) rows in pick order.
        at: increasing prefix lengths, each in ``1..k``.
        sample: at most so many prompts, drawn once with a fixed seed, are measured.

    Returns:
        (len(at),) float64; lower covers better.
    """
    n = len(embeddings)
    rows = np.sort(np.random.default_rng(0).choice(n, min(n, sample), replace=False))
    x = np.asarray(embeddings[rows], np.float32)
    squared = np.einsum("ij,ij->i", x, x)
    nearest = np.full(len(x), np.inf, np.float32)
    result = np.empty(len(at))
    begin = 0
    for i, end in enumerate(at):
        for start in range(begin, end, _BLOCK):
            chosen = np.asarray(embeddings[picks[start : min(start + _BLOCK, end)]], np.float32)
            distance = squared[:, None] + np.einsum("ij,ij->i", chosen, chosen)[None, :] - 2 * (x @ chosen.T)
            np.minimum(nearest, distance.min(axis=1), out=nearest)
        begin = end
        result[i] = np.sqrt(np.maximum(nearest, 0), dtype=np.float64).mean()
    return result
