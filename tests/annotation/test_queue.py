"""Who gets which prompt, and what counts as done: the rules, one at a time, on the database itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thriftune.annotation import answers, review, standing
from thriftune.annotation.agreement import agreement, word_f1
from thriftune.annotation.queue import Queue, Terms
from thriftune.annotation.writer import Writer
from thriftune.annotations import AnnotationStore, put
from thriftune.errors import AnnotationError, StudyError
from thriftune.types import Annotation

IDS = [f"p{i}" for i in range(8)]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = AnnotationStore(tmp_path / "annotations.sqlite").connect()
    yield opened
    opened.close()


@pytest.fixture
def make(connection: sqlite3.Connection) -> Callable[..., Queue]:
    def made(target: int = 4, overlap: int = 1, lease: float = 100) -> Queue:
        queue = Queue(IDS, Terms(target, overlap, lease))
        queue.refresh(connection)
        return queue

    return made


def answer(connection: sqlite3.Connection, queue: Queue, name: str, prompt_id: str, text: str = "an answer") -> None:
    answers.answer(connection, prompt_id, name, text, 10, answers.page(connection, prompt_id, name).revision)
    queue.release(connection, prompt_id, name)


def test_prompts_come_in_order_and_to_one_person_each(
    connection: sqlite3.Connection, make: Callable[..., Queue]
) -> None:
    queue = make()
    assert [queue.assign(connection, name, 0) for name in ("ann", "bob", "cy", "dan", "eve")] == [*IDS[:4], None]
    # Asking again is not asking for another.
    assert queue.assign(connection, "bob", 1) == "p1"


def test_a_lease_ends_and_typing_prolongs_it(connection: sqlite3.Connection, make: Callable[..., Queue]) -> None:
    queue = make()
    assert queue.assign(connection, "ann", 0) == "p0"
    assert queue.renew(connection, "p0", "ann", 90) == []
    assert queue.assign(connection, "bob", 189) == "p1"
    assert queue.assign(connection, "cy", 190) == "p0"
    # Ann comes back: she is told, and what she writes is kept all the same.
    assert queue.renew(connection, "p0", "ann", 191) == ["cy"]
    answers.save(connection, "p0", "ann", "hers", 5, 0)
    answer(connection, queue, "cy", "p0", "his")
    answer(connection, queue, "ann", "p0", "hers")
    assert connection.execute("SELECT response FROM annotations").fetchall() == [("his",), ("hers",)]


def test_moving_on_without_a_word_frees_the_prompt(connection: sqlite3.Connection, make: Callable[..., Queue]) -> None:
    queue = make()
    queue.assign(connection, "ann", 0)
    assert queue.assign(connection, "ann", 1, after="p0") == "p1"
    assert queue.assign(connection, "bob", 2) == "p0"
    answers.save(connection, "p1", "ann", "begun", 5, 0)
    assert queue.assign(connection, "ann", 3, after="p1") == "p2"
    assert queue.assign(connection, "cy", 4) == "p3"  # p1 is begun and stays with Ann
    assert queue.assign(connection, "ann", 5) == "p1"


def test_overlap_gives_each_prompt_to_so_many(connection: sqlite3.Connection, make: Callable[..., Queue]) -> None:
    queue = make(target=2, overlap=2)
    assert [queue.assign(connection, n, 0) for n in ("ann", "bob", "cy", "dan", "eve")] == [
        "p0",
        "p0",
        "p1",
        "p1",
        None,
    ]
    answer(connection, queue, "ann", "p0")
    assert queue.assign(connection, "ann", 1) is None  # both places of p1 are taken
    answer(connection, queue, "cy", "p1")
    answer(connection, queue, "dan", "p1")
    assert queue.assign(connection, "ann", 2) is None
    assert queue.assign(connection, "eve", 200) == "p0"  # Bob's lease has ended


def test_a_skip_is_ones_own_and_a_flag_is_everybodys(
    connection: sqlite3.Connection, make: Callable[..., Queue]
) -> None:
    queue = make()
    answers.skip(connection, "p0", "ann", 3, "not my field")
    answers.skip(connection, "p1", "ann", 3, "no picture", "unanswerable")
    assert queue.assign(connection, "ann", 0) == "p2"
    assert queue.assign(connection, "bob", 0) == "p0"
    assert queue.assign(connection, "cy", 0) == "p3"
    assert queue.assign(connection, "dan", 0) == "p4"  # in the place of p1
    assert queue.assign(connection, "eve", 0) is None


def test_the_budget_is_truly_answered(connection: sqlite3.Connection, make: Callable[..., Queue]) -> None:
    queue = make(target=3)
    for prompt_id in ("p1", "p3", "p4"):  # replacements are flagged as well
        answers.skip(connection, prompt_id, "ann", 1, "", "duplicate")
    given = []
    while (found := queue.assign(connection, "ann", 0)) is not None:
        answer(connection, queue, "ann", found)
        given.append(found)
    assert given == ["p0", "p2", "p5"]
    counted = queue.counts(connection)
    assert (counted["answered"], counted["target"], counted["flagged"], counted["open"]) == (3, 3, 3, 0)
    assert (counted["reserve"], counted["short"]) == (2, 0)


def test_without_a_reserve_it_says_how_many_are_missing(connection: sqlite3.Connection) -> None:
    queue = Queue(IDS, Terms(len(IDS)))
    queue.refresh(connection)
    answers.skip(connection, "p7", "ann", 1, "", "unanswerable")
    assert queue.counts(connection)["short"] == 1
    queue.extend(["p0", "late"])
    queue.refresh(connection)
    assert queue.ids[-2:] == ["p7", "late"]
    assert queue.counts(connection)["short"] == 0


def test_an_answer_beats_a_flag(connection: sqlite3.Connection, make: Callable[..., Queue]) -> None:
    queue = make(target=2, overlap=2)
    answers.skip(connection, "p0", "ann", 1, "", "unanswerable")
    assert queue.window(connection) == 3
    answer(connection, queue, "bob", "p0")
    assert queue.window(connection) == 2
    assert queue.assign(connection, "cy", 0) == "p1"  # two people had their say on p0
    answers.put_back(connection, "p0")
    assert queue.assign(connection, "dan", 0) == "p0"


def test_answers_of_others_close_a_prompt_and_models_do_not(
    connection: sqlite3.Connection, make: Callable[..., Queue]
) -> None:
    queue = make()
    put(connection, Annotation("p0", "x", source="imported"), "2026", replace=False)
    put(connection, Annotation("p1", "x", source="teacher"), "2026", replace=False)
    put(connection, Annotation("p2", "x", annotator="label studio"), "2026", replace=False)
    assert queue.assign(connection, "ann", 0) == "p1"
    assert queue.assign(connection, "bob", 0) == "p3"


def test_what_another_process_takes_back_is_open_again(
    tmp_path: Path, make: Callable[..., Queue], connection: sqlite3.Connection
) -> None:
    queue = make()
    answer(connection, queue, "ann", "p0")
    assert queue.assign(connection, "bob", 0) == "p1"
    other = AnnotationStore(tmp_path / "annotations.sqlite").connect()
    other.execute("UPDATE annotations SET replaced = 'now'")
    other.close()
    queue.refresh(connection)
    assert queue.assign(connection, "cy", 0) == "p0"


def test_a_change_that_is_rolled_back_takes_its_shortcut_along(
    make: Callable[..., Queue], connection: sqlite3.Connection
) -> None:
    queue = make()
    connection.execute("BEGIN")
    answer(connection, queue, "ann", "p0")
    assert queue.assign(connection, "ann", 0) == "p1"
    connection.execute("ROLLBACK")
    queue.refresh(connection)
    assert queue.assign(connection, "bob", 0) == "p0"


# --- answers ------------------------------------------------------------------------------------------------------


def test_a_second_window_cannot_overwrite_what_it_has_not_seen(connection: sqlite3.Connection) -> None:
    assert answers.save(connection, "p0", "ann", "one", 1, 0) == 1
    assert answers.save(connection, "p0", "ann", "one two", 2, 1) == 2
    with pytest.raises(answers.Conflict) as caught:
        answers.save(connection, "p0", "ann", "other", 3, 0)
    assert caught.value.page.text == "one two"
    with pytest.raises(answers.Conflict):
        answers.answer(connection, "p0", "ann", "other", 3, 1)
    # The same request twice (its reply was lost) is no conflict.
    assert answers.save(connection, "p0", "ann", "one two", 2, 1) == 2
    answers.answer(connection, "p0", "ann", "one two", 4, 2)
    answers.answer(connection, "p0", "ann", "one two", 4, 2)
    assert connection.execute("SELECT COUNT(*) FROM annotations").fetchone() == (1,)


def test_editing_an_answer_leaves_it_in_force_until_the_new_one(connection: sqlite3.Connection) -> None:
    answers.answer(connection, "p0", "ann", "first", 30, 0)
    answers.save(connection, "p0", "ann", "first, bet", 35, 1)
    page = answers.page(connection, "p0", "ann")
    assert (page.text, page.status, page.unsent, page.seconds) == ("first, bet", "final", True, 35)
    rows = "SELECT response, seconds FROM annotations WHERE replaced IS NULL"
    assert connection.execute(rows).fetchall() == [("first", 30)]
    answers.answer(connection, "p0", "ann", "first, better", 40, 2)
    assert connection.execute(rows).fetchall() == [("first, better", 40)]
    assert connection.execute("SELECT COUNT(*) FROM annotations").fetchone() == (2,)


def test_undo_goes_back_step_by_step(make: Callable[..., Queue], connection: sqlite3.Connection) -> None:
    queue = make()
    answer(connection, queue, "ann", "p0", "one")
    answers.skip(connection, "p1", "ann", 1, "hm", "duplicate")
    answer(connection, queue, "bob", "p2")
    answer(connection, queue, "ann", "p0", "two")
    in_force = "SELECT prompt_id, response FROM annotations WHERE replaced IS NULL AND annotator = 'ann' ORDER BY id"
    assert connection.execute(in_force).fetchall() == [("p1", ""), ("p0", "two")]
    assert answers.undo(connection, "ann", queue) == "p0"
    assert connection.execute(in_force).fetchall() == [("p0", "one"), ("p1", "")]
    assert answers.page(connection, "p0", "ann").text == "two"  # still in the editor
    assert answers.undo(connection, "ann", queue) == "p1"
    assert queue.window(connection) == 4
    assert answers.undo(connection, "ann", queue) == "p0"
    assert answers.undo(connection, "ann", queue) is None
    assert connection.execute(in_force).fetchall() == []
    assert connection.execute("SELECT COUNT(*) FROM annotations").fetchone() == (4,)  # nothing is deleted


def test_skipping_keeps_what_was_written(connection: sqlite3.Connection) -> None:
    answers.answer(connection, "p0", "ann", "an answer", 30, 0)
    answers.skip(connection, "p0", "ann", 31, "wrong after all")
    page = answers.page(connection, "p0", "ann")
    assert (page.text, page.status, page.reason) == ("an answer", "skipped", "wrong after all")


def test_an_empty_answer_is_none(connection: sqlite3.Connection) -> None:
    with pytest.raises(AnnotationError, match="empty"):
        answers.answer(connection, "p0", "ann", " \n", 1, 0)


ACTS = ["next", "off", "answer", "save", "skip", "flag", "undo", "later", "decide", "reopen", "back", "other"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from("abc"), st.sampled_from(["kept", "undone"])))


def defined(connection: sqlite3.Connection, queue: Queue) -> dict[str, int]:
    """What `Queue.counts` is to give, by its definition, from all that is stored."""
    rows = connection.execute(
        "SELECT prompt_id, annotator, source, status, flag, review FROM annotations WHERE replaced IS NULL"
    ).fetchall()
    target, overlap = queue.terms.target, queue.terms.overlap

    def people(prompt_id: str, *kinds: str) -> set[str]:
        return {
            who
            for p, who, source, status, flag, review in rows
            if p == prompt_id and source != "teacher"
            if ("final" in kinds and status == "final") or ("flag" in kinds and flag is not None)
            if "review" in kinds or not review
        }

    def settled(prompt_id: str) -> bool:
        reviewed = any(p == prompt_id and review for p, *_, review in rows)
        flagged = people(prompt_id, "flag") and not people(prompt_id, "final")
        return len(people(prompt_id, "final", "flag")) >= overlap or reviewed or bool(flagged)

    out = [bool(people(i, "flag") and not people(i, "final", "review")) for i in queue.ids]
    end = target
    while end < len(queue.ids) and sum(out[:end]) > end - target:
        end += 1
    inside = queue.ids[:end]
    given = [min(len(people(i, "final", "review")), overlap) for i in inside]
    return {
        "target": target,
        "answered": min(sum(n > 0 for n in given), target),
        "given": sum(given),
        "missing": sum(max(overlap - len(people(i, "final")), 1) for i in inside if not settled(i)),
        "open": sum(not settled(i) for i in inside),
        "overlap": overlap,
        "flagged": sum(bool(people(i, "flag")) for i in queue.ids),
        "reserve": len(queue.ids) - end,
        "short": target - (end - sum(out[:end])),
    }


@given(steps=STEPS, overlap=st.integers(1, 3))
@settings(max_examples=150)
def test_no_prompt_is_with_more_people_than_asked_for(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]], overlap: int
) -> None:
    store = AnnotationStore(tmp_path_factory.mktemp("db") / "a.sqlite")
    connection, other = store.connect(), store.connect()
    queue = Queue(IDS, Terms(5, overlap, 100))
    time, holds = 0.0, dict.fromkeys("abc")
    for number, (act, name, fate) in enumerate(steps):
        time += 500 if act == "later" else 1
        if act == "other":  # another process imports and takes back
            here = IDS[number % len(IDS)]
            put(other, Annotation(here, "x", annotator="d", source="imported"), "2026", replace=True)
            other.execute("UPDATE annotations SET replaced = '2026' WHERE id % 3 = 0")
        connection.execute("BEGIN IMMEDIATE")
        queue.refresh(connection)
        before = holds[name]
        one_step(connection, queue, act, name, holds, time, overlap)
        assert queue.counts(connection) == defined(connection, queue)
        if fate == "undone":
            holds[name] = before
            connection.execute("ROLLBACK")
        else:
            connection.execute("COMMIT")
    queue.refresh(connection)
    assert queue.counts(connection) == defined(connection, queue)
    connection.close()
    other.close()


def one_step(
    connection: sqlite3.Connection,
    queue: Queue,
    act: str,
    name: str,
    holds: dict[str, str | None],
    time: float,
    overlap: int,
) -> None:
    mine = holds[name]
    if act in ("next", "off") or mine is None:
        holds[name] = handed = queue.assign(connection, name, time, after=mine if act == "off" else None)
        if handed is None:
            return
        # By the definition: people who hold it and people who had their say, each once.
        others = connection.execute(
            "SELECT annotator FROM leases WHERE prompt_id = ?1 AND expires > ?2 AND annotator != ?3 UNION "
            "SELECT annotator FROM annotations WHERE prompt_id = ?1 AND annotator != ?3 AND replaced IS NULL "
            "AND review = 0 AND (status = 'final' OR flag IS NOT NULL)",
            (handed, time, name),
        ).fetchall()
        assert len(others) < overlap
        assert answers.page(connection, handed, name).status in ("new", "draft")
        flags = connection.execute(
            "SELECT SUM(flag IS NOT NULL), SUM(status = 'final'), SUM(review) FROM annotations "
            "WHERE prompt_id = ? AND replaced IS NULL",
            (handed,),
        ).fetchone()
        assert (not flags[0] or flags[1]) and not flags[2]
    elif act == "save":
        answers.save(connection, mine, name, f"{time}", time, answers.page(connection, mine, name).revision)
    elif act == "answer":
        answer(connection, queue, name, mine)
        holds[name] = None
    elif act in ("skip", "flag"):
        answers.skip(connection, mine, name, 1, "", "duplicate" if act == "flag" else None)
        queue.release(connection, mine, name)
        holds[name] = None
    elif act == "undo":
        answers.undo(connection, name, queue)
        holds[name] = None
    elif act == "decide":
        seen = review.side_by_side(connection, mine)["decision"]
        review.decide(connection, mine, name, f"at {time}", seen and seen["row"])
    elif act == "reopen":
        review.reopen(connection, mine)
    elif act == "back":
        answers.put_back(connection, mine)


def test_a_work_that_fails_among_others_leaves_no_trace_in_memory(tmp_path: Path) -> None:
    writer = Writer(AnnotationStore(tmp_path / "a.sqlite"))
    queue = Queue(IDS, Terms(4))

    def work(prompt_id: str, *, fail: bool = False) -> Callable[[sqlite3.Connection], dict[str, int]]:
        def done(connection: sqlite3.Connection) -> dict[str, int]:
            queue.refresh(connection)
            answer(connection, queue, "ann", prompt_id)
            counted = queue.counts(connection)
            if fail:
                raise AnnotationError("no")
            return counted

        return done

    futures = [writer.submit(work(f"p{i}", fail=i in (1, 2))) for i in range(4)]
    assert [f.result(10)["answered"] for f in (futures[0], futures[3])] == [1, 2]
    writer._connection.execute("PRAGMA query_only = ON")
    for future in [writer.submit(work("p1")), writer.submit(work("p2"))]:
        with pytest.raises(StudyError):
            future.result(10)
    writer._connection.execute("PRAGMA query_only = OFF")
    assert writer.submit(work("p0")).result(10)["answered"] == 2
    writer.close()


# --- pace, review, agreement ----------------------------------------------------------------------------------------


def test_hours_left_by_hand(make: Callable[..., Queue], connection: sqlite3.Connection) -> None:
    queue = make(target=4, overlap=2)
    for name, prompt_id, seconds in (("ann", "p0", 60), ("ann", "p1", 180), ("bob", "p0", 120)):
        answers.answer(connection, prompt_id, name, "x", seconds, 0)
    answers.skip(connection, "p2", "bob", 7, "")
    found = standing.standing(connection, queue, queue.counts(connection))
    assert (found["answered"], found["given"], found["missing"]) == (2, 3, 5)
    assert found["seconds"] == 120
    assert found["hours_left"] == pytest.approx(5 * 120 / 3600)
    assert [(p["name"], p["answers"], p["skipped"], p["seconds"], p["spent"]) for p in found["people"]] == [
        ("ann", 2, 0, 120, 240),
        ("bob", 1, 1, 120, 127),
    ]
    assert found["last_hour"] == 3


def test_a_review_counts_before_later_answers(
    tmp_path: Path, make: Callable[..., Queue], connection: sqlite3.Connection
) -> None:
    queue = make(overlap=2)
    answer(connection, queue, "ann", "p0", "hers")
    answer(connection, queue, "bob", "p0", "his")
    review.decide(connection, "p0", "ann", "merged", None)
    answer(connection, queue, "bob", "p0", "his, again")
    store = AnnotationStore(tmp_path / "annotations.sqlite")
    assert store.final()["p0"].response == "merged"
    assert {a.response for a in store.in_force()} == {"hers", "his, again", "merged"}
    with pytest.raises(AnnotationError, match="ann decided on this prompt meanwhile"):
        review.decide(connection, "p0", "cy", "mine", None)
    seen = review.side_by_side(connection, "p0")["decision"]["row"]
    review.decide(connection, "p0", "cy", "mine", seen)
    assert store.final()["p0"].response == "mine"
    review.reopen(connection, "p0")
    assert store.final()["p0"].response == "his, again"


def test_word_overlap_by_hand() -> None:
    assert word_f1("the cat sat", "The cat ran off") == pytest.approx(2 * 2 / 7)
    assert word_f1("a a b", "a b b") == pytest.approx(2 / 3)
    assert word_f1("", "") == 1
    assert word_f1("x", "") == 0
    assert word_f1("日本語", "日本") == pytest.approx(4 / 5)


def test_agreement_by_hand() -> None:
    found = agreement({"p": {"ann": "a b", "bob": "a c"}, "q": {"ann": "x  Y", "bob": "x y"}, "r": {"ann": "alone"}})
    assert (found.prompts, found.exact, found.overlap, found.chance) == (2, 0.5, 0.75, 0.0)
    assert found.alpha == 0.75
    assert found.pairs == {("ann", "bob"): (2, 0.75)}
    same = agreement({"p": {"ann": "yes", "bob": "yes"}, "q": {"ann": "yes", "bob": "yes"}})
    assert (same.exact, same.alpha) == (1, None)  # everybody always says the same: nothing to tell chance by
    assert agreement({}).prompts == 0


# --- the writer -----------------------------------------------------------------------------------------------------


def test_one_that_fails_does_not_take_the_others_along(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "a.sqlite")
    writer = Writer(store)

    def insert(name: str, *, fail: bool = False) -> Callable[[sqlite3.Connection], str]:
        def work(connection: sqlite3.Connection) -> str:
            put(connection, Annotation("p", "x", annotator=name), "2026", replace=False)
            if fail:
                raise AnnotationError("no")
            return name

        return work

    futures = [writer.submit(insert(f"n{i}", fail=i % 3 == 0)) for i in range(30)]
    for i, future in enumerate(futures):
        if i % 3 == 0:
            with pytest.raises(AnnotationError):
                future.result(10)
        else:
            assert future.result(10) == f"n{i}"
    assert len(store.in_force()) == 20
    writer.close()


def test_a_file_that_cannot_be_written_is_said_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "a.sqlite")
    writer = Writer(store)
    writer._connection.execute("PRAGMA query_only = ON")
    future = writer.submit(lambda c: put(c, Annotation("p", "x"), "2026", replace=False))
    with pytest.raises(StudyError, match="a.sqlite"):
        future.result(10)
    writer._connection.execute("PRAGMA query_only = OFF")
    writer.submit(lambda c: put(c, Annotation("p", "x"), "2026", replace=False)).result(10)
    writer.close()
    assert len(store.in_force()) == 1
