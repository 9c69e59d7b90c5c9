"""Scores from logits, against scipy, against lm-polygraph's own estimators, and by hand."""

import importlib
import sys
import types
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from thriftune.scoring.uncertainty import aggregate, reduce_logits


@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.floats(0.01, 50))
def test_a_step_agrees_with_scipy(seed, vocabulary, scale):
    logits = np.random.default_rng(seed).normal(size=(3, vocabulary)) * scale
    step = reduce_logits(torch.from_numpy(logits))
    p = scipy.special.softmax(logits.astype(np.float32).astype(np.float64), axis=1)
    top = np.sort(p, axis=1)[:, ::-1]
    assert step.token.tolist() == logits.argmax(axis=1).tolist()
    np.testing.assert_allclose(step.entropy, scipy.stats.entropy(p, axis=1), atol=2e-5)
    np.testing.assert_allclose(step.nll, -np.log(top[:, 0]), atol=2e-5)
    np.testing.assert_allclose(step.margin, 1 - (top[:, 0] - top[:, 1]), atol=1e-5)


def test_a_step_by_hand():
    # p = (1/2, 1/4, 1/4): H = 1.5 bits.
    step = reduce_logits(torch.tensor([[np.log(2.0), 0.0, 0.0]]))
    assert step.entropy.item() == pytest.approx(1.5 * np.log(2))
    assert step.nll.item() == pytest.approx(np.log(2))
    assert step.margin.item() == pytest.approx(0.75)


def test_impossible_tokens_and_ties():
    step = reduce_logits(torch.tensor([[0.0, -torch.inf, -torch.inf], [3.0, 3.0, -torch.inf]]))
    np.testing.assert_allclose(step.entropy, [0, np.log(2)], atol=1e-6)
    np.testing.assert_allclose(step.margin, [0, 1], atol=1e-6)
    assert step.token.tolist() == [0, 0]


def test_reduction_is_in_float32_whatever_comes_in():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    for ours, exact in zip(reduce_logits(logits), reduce_logits(logits.double()), strict=True):
        assert ours.dtype in (torch.float32, torch.int64)
        torch.testing.assert_close(ours, exact)


def test_inputs_are_not_changed():
    logits = torch.randn(2, 10)
    before = logits.clone()
    reduce_logits(logits)
    assert torch.equal(logits, before)


def test_aggregate_by_hand():
    columns = aggregate(np.array([1.0, 3.0]), np.array([0.5, 0.25]), np.array([0.2, 0.9]))
    assert columns == {
        "mean_entropy": 2.0,
        "max_entropy": 3.0,
        "least_confidence": 0.75,
        "mean_nll": 0.375,
        "mean_margin": pytest.approx(0.55),
        "min_margin": 0.9,
    }


def test_least_confidence_keeps_the_order_where_the_probability_would_round():
    sure, unsure = (aggregate(np.zeros(1), np.array([nll]), np.zeros(1))["least_confidence"] for nll in (40.0, 41.0))
    assert unsure > sure
    assert 1 - np.exp(-np.float32(sure)) == 1 - np.exp(-np.float32(unsure))


def _polygraph(module: str):
    """A module of lm-polygraph without the packages' __init__, which import every estimator and its dependencies."""
    if "lm_polygraph" not in sys.modules:
        found = util.find_spec("lm_polygraph")
        if found is None or not found.submodule_search_locations:
            pytest.skip("lm-polygraph is not installed")
        root = Path(next(iter(found.submodule_search_locations)))
        for name in ("", "estimators", "stat_calculators", "utils"):
            package = types.ModuleType(f"lm_polygraph.{name}".rstrip("."))
            package.__path__ = [str(root / name)]
            sys.modules[package.__name__] = package
        # The classes that would run a model; the estimators import them for type annotations only.
        model = types.ModuleType("lm_polygraph.utils.model")
        model.WhiteboxModel = model.Model = object
        sys.modules[model.__name__] = model
    return importlib.import_module(f"lm_polygraph.{module}")


def test_agrees_with_lm_polygraph():
    rng = np.random.default_rng(5)
    answers = [rng.normal(size=(steps, 50)) * 3 for steps in (1, 4, 9)]
    log_p = [scipy.special.log_softmax(a, axis=1) for a in answers]
    entropy = _polygraph("stat_calculators.entropy").EntropyCalculator()({"greedy_log_probs": log_p})["entropy"]
    stats = {"greedy_log_likelihoods": [lp.max(axis=1) for lp in log_p], "entropy": entropy}
    ours = []
    for answer in answers:
        step = reduce_logits(torch.from_numpy(answer))
        ours.append(aggregate(step.entropy.numpy(), step.nll.numpy(), step.margin.numpy()))
    theirs = {
        "mean_entropy": _polygraph("estimators.token_entropy").MeanTokenEntropy()(stats),
        "mean_nll": _polygraph("estimators.perplexity").Perplexity()(stats),
        "least_confidence": _polygraph("estimators.max_probability").MaximumSequenceProbability()(stats),
    }
    for name, values in theirs.items():
        np.testing.assert_allclose([o[name] for o in ours], values, rtol=1e-5)
