"""The batch plan: every prompt once, bounded batches, independent of the pool's order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thriftune.scoring.plan import groups, make_plan

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=200)


def plan_of(lengths, ids=None, rows=None, **changes):
    settings = {"new_tokens": 32, "batch_size": None, "batch_tokens": 4096, "most_prompts": 16} | changes
    count = len(lengths)
    ids = ids or [f"{i:04d}" for i in range(count)]
    rows = np.arange(count) if rows is None else rows
    return make_plan(rows, np.array(lengths), ids, **settings)


@given(LENGTHS)
def test_every_prompt_once_in_bounded_batches(lengths):
    plan = plan_of(lengths)
    assert sorted(plan.rows) == list(range(len(lengths)))
    covered = []
    for part in range(plan.parts):
        for batch in plan.batches(part):
            longest = max(lengths[r] for r in plan.rows[batch])
            assert len(batch) <= 16
            assert len(batch) == 1 or len(batch) * (longest + 32) <= 4096
            covered += batch.tolist()
    assert covered == list(range(len(lengths)))


@given(LENGTHS)
def test_longest_first(lengths):
    plan = plan_of(lengths)
    ordered = [lengths[r] for r in plan.rows]
    assert ordered == sorted(lengths, reverse=True)


@given(LENGTHS, st.randoms(use_true_random=False))
def test_shuffling_the_pool_keeps_the_company(lengths, random):
    ids = [f"{i:04d}" for i in range(len(lengths))]
    order = list(range(len(lengths)))
    random.shuffle(order)
    plain = plan_of(lengths, ids)
    shuffled = plan_of([lengths[i] for i in order], [ids[i] for i in order])
    assert [ids[r] for r in plain.rows] == [ids[order[r]] for r in shuffled.rows]
    assert plain.batch.tolist() == shuffled.batch.tolist()


def test_a_fixed_batch_size_is_kept():
    plan = plan_of([5] * 10, batch_size=4)
    assert np.bincount(plan.batch).tolist() == [4, 4, 2]


def test_large_pools_have_a_bounded_number_of_parts():
    plan = plan_of([100] * 300_000, most_prompts=64)
    assert 1000 <= plan.parts <= 2100


@given(LENGTHS, st.integers(1, 5000))
def test_groups_cover_a_batch_in_order_and_are_bounded(lengths, most):
    lengths = sorted(lengths, reverse=True)
    found = list(groups(lengths, most))
    assert [i for start, end in found for i in range(start, end)] == list(range(len(lengths)))
    assert all(end - start == 1 or (end - start) * lengths[start] <= most for start, end in found)
    assert list(groups(lengths, None)) == [(0, len(lengths))]


@given(LENGTHS, st.integers(1, 5000), st.data())
def test_what_all_begin_with_does_not_count_in_a_group(lengths, most, data):
    lengths = sorted(lengths, reverse=True)
    prefix = data.draw(st.integers(0, lengths[-1] - 1))
    found = list(groups(lengths, most, prefix))
    assert [i for start, end in found for i in range(start, end)] == list(range(len(lengths)))
    own = [sum(lengths[start:end]) - prefix * (end - start) for start, end in found]
    assert all(end - start == 1 or n <= most for n, (start, end) in zip(own, found, strict=True))
    # No group could have taken the next prompt as well.
    assert all(n + lengths[end] - prefix > most for n, (_, end) in zip(own, found[:-1], strict=False))
