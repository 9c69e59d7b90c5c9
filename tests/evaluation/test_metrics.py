"""Metrics of answers against worked examples, brute force and the rouge-score package; intervals against theory."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from thriftune.evaluation.metrics import exact_match, higher_is_better, oriented, rouge_l, words
from thriftune.evaluation.summary import changes, columns, paired, summarise, summary_of

pytest.importorskip("rouge_score")


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("Paris", "paris", True),
        ("  two\n words ", "Two words", True),
        ("Straße", "STRASSE", True),  # case folding, not lower-casing
        ("cafe\u0301", "café", True),  # an accent of its own, and one in the letter
        ("4.", "4", False),
        ("the cat", "cat", False),
        ("Paris, of course", "Paris", False),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_exact_match_ignores_case_space_and_unicode_form_only(answer: str, reference: str, same: bool) -> None:
    assert exact_match(answer, reference) is same


def test_rouge_l_of_lins_own_examples() -> None:
    # Lin 2004, section 3: S2 shares "police the gunman" of four words, S3 "the gunman".
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)


def test_rouge_l_is_the_harmonic_mean_of_precision_and_recall() -> None:
    # LCS "a c d": precision 3/4, recall 3/5.
    assert rouge_l("a c x d", "a b c d e") == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))


def _lcs(a: list[str], b: list[str]) -> int:
    def subsequences(x: list[str]) -> set[tuple[str, ...]]:
        return {c for n in range(len(x) + 1) for c in itertools.combinations(x, n)}

    return max(len(s) for s in subsequences(a) & subsequences(b))


_text = st.lists(st.sampled_from("uvw"), max_size=7).map(" ".join)


@given(_text, _text)
def test_rouge_l_by_brute_force(answer: str, reference: str) -> None:
    a, b = answer.split(), reference.split()
    shared = _lcs(a, b)
    expected = 2 * shared / (len(a) + len(b)) if shared else 0.0
    assert rouge_l(answer, reference) == pytest.approx(expected)


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_are_those_of_the_rouge_package(text: str) -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    assert words(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Москва — столица", ["москва", "столица"]),
        ("été 2024", ["été", "2024"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs stay in their word
        ("今天GPU很热。", ["今", "天", "gpu", "很", "热"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("a_b", ["a", "b"]),
        ("🙂 →", []),
    ],
)
def test_words_of_other_scripts(text: str, tokens: list[str]) -> None:
    assert words(text) == tokens


def test_rouge_l_of_chinese_counts_characters() -> None:
    assert rouge_l("我喜欢茶", "我喜欢水") == pytest.approx(3 / 4)


def test_which_way_metrics_point() -> None:
    assert oriented("nll", 2.0) == -2.0
    assert oriented("exact_match", 1.0) == 1.0
    assert not higher_is_better("nll")
    assert higher_is_better("acc_norm")


# --- summaries ------------------------------------------------------------------------------------------------------


def test_means_over_items_and_over_tasks() -> None:
    summary = summarise(["a", "a", "a", "b"], np.array([1.0, 2.0, 3.0, 10.0]))
    assert summary.items.mean == 4.0
    assert summary.tasks.mean == 6.0
    assert (summary.n_items, summary.n_tasks) == (4, 2)


def test_interval_has_the_width_of_a_stratified_mean() -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": 40, "b": 20, "c": 60}
    tasks = [t for t, n in sizes.items() for _ in range(n)]
    values = np.concatenate([rng.normal(i, 1 + i, n) for i, n in enumerate(sizes.values())])
    of = np.array(tasks)
    variances = {t: values[of == t].var(ddof=1) / n for t, n in sizes.items()}
    over_items = sum((n / 120) ** 2 * variances[t] for t, n in sizes.items()) ** 0.5
    over_tasks = sum(variances.values()) ** 0.5 / 3
    summary = summarise(tasks, values)
    for estimate, error in ((summary.items, over_items), (summary.tasks, over_tasks)):
        assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.08)
        assert (estimate.high + estimate.low) / 2 == pytest.approx(estimate.mean, abs=error / 4)


def test_pairs_of_items_do_not_understate_the_variance() -> None:
    # Resampling two of two items would halve it.
    rng = np.random.default_rng(1)
    values = rng.normal(size=400)
    tasks = [f"t{i // 2}" for i in range(400)]
    within = np.mean([values[i : i + 2].var(ddof=1) for i in range(0, 400, 2)])
    summary = summarise(tasks, values)
    assert summary.items.high - summary.items.low == pytest.approx(2 * 1.96 * (within / 400) ** 0.5, rel=0.08)


def test_tasks_of_one_item_are_drawn_together() -> None:
    values = np.random.default_rng(2).normal(size=200)
    alone = summarise([f"t{i}" for i in range(200)], values)
    error = values.std(ddof=1) / 200**0.5
    assert alone.items.high - alone.items.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_a_lone_item_has_the_spread_of_the_others() -> None:
    rng = np.random.default_rng(5)
    values = np.append(rng.normal(size=2000), 7.0)
    found = summarise(["many"] * 2000 + ["lone"], values).tasks
    # The mean of two tasks, of which one is known to a standard error of 1, the other to 1/sqrt(2000).
    assert found.high - found.low == pytest.approx(2 * 1.96 * (1 + 1 / 2000) ** 0.5 / 2, rel=0.08)


def test_coverage_over_new_items_of_the_same_tasks() -> None:
    rng = np.random.default_rng(3)
    means = {"a": 0.2, "b": 0.5, "c": 0.8}
    tasks = [t for t in means for _ in range(40)]
    p = np.array([means[t] for t in tasks])
    hits = 0
    for seed in range(300):
        found = summarise(tasks, (rng.random(len(p)) < p).astype(float), share=True, seed=seed).items
        hits += found.low <= 0.5 <= found.high
    assert 0.91 <= hits / 300 <= 0.985  # three standard errors around 0.95


@pytest.mark.parametrize(("value", "n"), [(0.0, 60), (1.0, 5)])
def test_all_right_or_all_wrong_has_the_exact_binomial_interval(value: float, n: int) -> None:
    summary = summarise(["a"] * n, np.full(n, value), share=True)
    exact = stats.binomtest(int(value * n), n).proportion_ci(0.95, method="exact")
    assert (summary.items.low, summary.items.high) == pytest.approx((exact.low, exact.high))
    assert summary.tasks.low is None


def test_no_interval_where_nothing_varies() -> None:
    summary = summarise(["a"], np.array([2.5]))
    assert (summary.items.mean, summary.items.low, summary.items.high) == (2.5, None, None)


def _rows(values: dict[str, float], metric: str = "nll") -> pa.Table:
    n = len(values)
    return pa.table(
        {
            "suite": ["heldout"] * n,
            "task": ["t"] * n,
            "item": list(values),
            "metric": [metric] * n,
            "value": list(values.values()),
        }
    )


def test_differences_are_paired_by_item() -> None:
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 100, 50)  # the items differ a lot, the models by one
    ours = {f"i{n}": h - 1 + 0.01 * e for n, (h, e) in enumerate(zip(hard, rng.normal(size=50), strict=True))}
    theirs = {f"i{n}": h for n, h in reversed(list(enumerate(hard)))} | {"other": 7.0}
    key = ("heldout", "nll")
    a, b = columns(_rows(ours))[key], columns(_rows(theirs))[key]
    difference = paired(a, b)
    assert difference is not None
    assert difference.n_items == 50
    assert -1.01 < difference.items.low < difference.items.mean < difference.items.high < -0.99
    assert changes(a, b) == {"down": 50}
    assert paired(a, {("heldout", "t", "other"): 1.0}) is None


def test_a_share_is_told_from_its_values() -> None:
    found = columns(_rows({f"i{n}": 0.0 for n in range(20)}, "exact_match"))["heldout", "exact_match"]
    assert summary_of(found).items.high == pytest.approx(1 - 0.025 ** (1 / 20))
