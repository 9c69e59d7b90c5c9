"""Near duplicates against a comparison of all pairs written with Python's sets and regular expressions."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from thriftune.pool.deduplicate import NearDuplicates, first_rows
from thriftune.pool.shingles import BANDS, ROWS, sketch


def groups(texts: list[str], tmp_path: Path, batch: int = 7) -> list[int]:
    near = NearDuplicates(tmp_path / "shingles.bin")
    for start in range(0, len(texts), batch):
        near.add(texts[start : start + batch])
    near.close()
    return near.groups().tolist()


def shingle_set(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+|[^\w\s]", text.casefold())
    return frozenset(tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4)))


def all_pairs(texts: list[str]) -> list[int]:
    """The documented definition, pair by pair."""
    sets = [shingle_set(t) for t in texts]
    found_in = Counter(s for shingles in set(sets) for s in shingles)
    weight = {s: min(1.0, 5 / n) for s, n in found_in.items()}
    pairs = [
        (i, j)
        for i in range(len(texts))
        for j in range(i)
        if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])
        and sum(weight[s] for s in sets[i] & sets[j]) >= 0.8 * sum(weight[s] for s in sets[i] | sets[j]) - 1e-7
    ]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(texts), len(texts)))
    _, labels = connected_components(graph, directed=False)
    return [labels.tolist().index(label) for label in labels]


def random_words(rng: random.Random, n: int) -> list[str]:
    return [rng.choice("abcdefghijklmnop") + rng.choice("aeiou") + rng.choice("xyzrst") for _ in range(n)]


def edited(rng: random.Random, words: list[str], edits: int) -> list[str]:
    words = list(words)
    for _ in range(edits):
        at = rng.randrange(len(words))
        action = rng.randrange(3)
        if action == 0:
            words[at] = "edited"
        elif action == 1 and len(words) > 1:
            del words[at]
        else:
            words.insert(at, "added")
    return words


@pytest.mark.parametrize("seed", range(4))
def test_edited_texts_group_as_by_comparing_all_pairs(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    texts = []
    for _ in range(60):
        words = random_words(rng, rng.choice([3, 8, 30, 60, 120]))
        texts += [" ".join(edited(rng, words, edits)) for edits in (0, 0, 1, 2, 4)[: rng.randint(1, 5)]]
    rng.shuffle(texts)
    expected = all_pairs(texts)
    assert 0 < len(set(expected)) < len(set(texts))  # there is something to be found, and something to be kept apart
    assert groups(texts, tmp_path) == expected


def test_templates_group_as_by_comparing_all_pairs(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts = []
    for size in (2, 4, 7, 12, 25, 40):
        template = random_words(rng, rng.choice([40, 60, 90]))
        texts += [" ".join([*template, *random_words(rng, rng.choice([1, 2, 6]))]) for _ in range(size)]
    # The same content in two templates: alike by weight, not by what they consist of.
    frames = [random_words(rng, 12) for _ in range(2)]
    for _ in range(20):
        content = random_words(rng, 60)
        texts += [" ".join([*frame, *content]) for frame in frames]
    expected = all_pairs(texts)
    assert 46 < len(set(expected)) < len(texts)
    assert groups(texts, tmp_path) == expected


def test_one_question_in_a_template_that_many_share_is_no_duplicate(tmp_path: Path) -> None:
    instructions = " ".join(f"step{i} of the long instructions" for i in range(12))
    words = [f"word{i}" for i in range(50)]
    assert len(set(groups([f"{instructions} Spell this backward: {w}" for w in words], tmp_path))) == 50
    # Of two prompts only, the same texts are near duplicates: nothing says that it is a template.
    assert groups([f"{instructions} Spell this backward: {w}" for w in words[:2]], tmp_path) == [0, 0]


def test_case_and_white_space_do_not_count_but_signs_and_digits_do(tmp_path: Path) -> None:
    texts = ["What is 3 + 4 ?", "what  IS\n3 +\t4 ?", "What is 3 - 4 ?", "What is 3 + 5 ?", "What is 3\u00a0+ 4?"]
    assert groups(texts, tmp_path) == [0, 0, 2, 3, 0]


def test_short_texts_match_only_when_equal(tmp_path: Path) -> None:
    assert groups(["Why?", "why ?", "Why not?", "Who?", "!", "?", "  !"], tmp_path) == [0, 0, 2, 3, 4, 5, 4]


def test_scripts_without_spaces(tmp_path: Path) -> None:
    chinese = "请将下面这段关于春天和花园的文字翻译成英文并且解释其中每一个比喻的含义谢谢你的帮助"
    thai = "กรุณาแปลข้อความต่อไปนี้เป็นภาษาอังกฤษและอธิบายความหมายของแต่ละคำ"
    texts = [chinese, chinese + "。", "请问今天天气怎么样", thai, thai + "!", "สวัสดีครับ"]
    assert groups(texts, tmp_path) == [0, 0, 2, 3, 3, 5]


def test_shuffling_changes_no_group(tmp_path: Path) -> None:
    rng = random.Random(9)
    base = [" ".join(random_words(rng, 50)) for _ in range(40)]
    texts = [" ".join(edited(rng, rng.choice(base).split(), rng.randrange(3))) for _ in range(400)]

    def partition(order: list[int]) -> set[frozenset[int]]:
        label = groups([texts[i] for i in order], tmp_path, batch=64)
        return {frozenset(i for i, mine in zip(order, label, strict=True) if mine == each) for each in set(label)}

    order = list(range(len(texts)))
    first = partition(order)
    rng.shuffle(order)
    assert partition(order) == first


def test_twins_meet_in_buckets_larger_than_the_window(tmp_path: Path) -> None:
    rng = random.Random(3)
    template = random_words(rng, 150)
    texts = []
    for i in range(500):
        words = [*template, *(f"{w}{i}" for w in random_words(rng, 60))]
        texts += [" ".join(words), " ".join(edited(rng, words, 1))]
    bands = sketch(texts).bands
    assert max(np.unique(bands[:, b], return_counts=True)[1].max() for b in range(BANDS)) > 64
    assert groups(texts, tmp_path) == [i - i % 2 for i in range(1000)]


def test_bands_agree_as_often_as_the_jaccard_similarity_says() -> None:
    rng = random.Random(0)
    for kept, jaccard in ((84, 80 / 100), (94, 90 / 100), (64, 60 / 100)):
        agreed = []
        for _ in range(400):
            # Of 104 different words, hence 100 shingles, the second text has the first ones.
            words = [f"w{rng.getrandbits(60)}" for _ in range(104)]
            bands = sketch([" ".join(words), " ".join(words[:kept])]).bands
            agreed.append(np.mean(bands[0] == bands[1]))
        expected = jaccard**ROWS
        error = 4 * np.sqrt(expected * (1 - expected) / (400 * BANDS))
        assert np.mean(agreed) == pytest.approx(expected, abs=error)


def test_a_text_of_megabytes_and_an_empty_one() -> None:
    made = sketch(["word " * 500_000, "", "\U0001f600\U0001f601 é"])
    assert made.sizes.tolist() == [1, 1, 1]
    assert len(made.shingles) == 3


def test_first_rows() -> None:
    assert first_rows(np.array([5, 3, 5, 3, 1])).tolist() == [0, 1, 0, 1, 4]
    assert first_rows(np.array([1, 1, 1]), np.array([2, 3, 2])).tolist() == [0, 1, 0]
    assert first_rows(np.zeros(0, int)).tolist() == []
