"""Pools of vectors for benchmarks/select.py: friendly and unfriendly ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

BLOCK = 2048


def clusters(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Points on the sphere in clusters of uneven size and spread, themselves in 40 groups."""

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    count = max(50, n // 60)
    groups = unit(rng.standard_normal((40, d)))
    centres = unit(groups[rng.integers(0, 40, count)] + rng.standard_normal((count, d)) * 0.9 / np.sqrt(d))
    sizes = np.arange(1, count + 1) ** -0.7
    label = rng.choice(count, n, p=sizes / sizes.sum())
    spread = rng.uniform(0.25, 1.2, count)
    x = np.empty((n, d), np.float32)
    for begin in range(0, n, BLOCK):
        part = label[begin : begin + BLOCK]
        x[begin : begin + BLOCK] = unit(
            centres[part] + rng.standard_normal((len(part), d)) * spread[part, None] / np.sqrt(d)
        )
    return x


def sphere(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform on the sphere: no structure at all."""
    x = rng.standard_normal((n, d), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def copies(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Clusters in which nine rows in ten are copies or near copies of the tenth."""
    few = clusters(max(1, n // 10), d, rng)
    x = few[rng.integers(0, len(few), n)]
    near = rng.random(n) < 0.5
    x[near] += rng.standard_normal((int(near.sum()), d), dtype=np.float32) * np.float32(0.01 / np.sqrt(d))
    return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def prompts(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Prompts of T0 (../shared/data/t0-pool.parquet): words and pairs of words, hashed, weighted, projected."""
    import pyarrow.parquet as pq
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    file = Path(__file__).parents[2] / "shared" / "data" / "t0-pool.parquet"
    texts = pq.read_table(file, columns=["prompt"]).column("prompt").to_pylist()[:n]
    counts = HashingVectorizer(n_features=2**16, ngram_range=(1, 2), norm=None, alternate_sign=False).transform(texts)
    x = TfidfTransformer(sublinear_tf=True).fit_transform(counts) @ rng.standard_normal((2**16, d), dtype=np.float32)
    return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


DATA = {"clusters": clusters, "sphere": sphere, "copies": copies, "prompts": prompts}
