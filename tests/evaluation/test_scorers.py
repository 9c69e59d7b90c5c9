"""Scorers that users supply, and reasoning-gym's verifiers."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from thriftune.errors import EvaluationError
from thriftune.evaluation.scorers import load_scorer, reasoning_gym, score_answer
from thriftune.study import Study
from thriftune.types import Prompt

PROMPT = Prompt("p1", "What is 2 + 2?")

OWN = """
def starts_alike(prompt, answer, reference):
    return answer[:1] == reference[:1]

def broken(prompt, answer, reference):
    raise KeyError("no such key")

def says(prompt, answer, reference):
    return {"nan": float("nan"), "text": "good", "none": None, "half": 0.5}[answer]

nll = starts_alike
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_scorers.py").write_text(OWN)
    (tmp_path / "broken_scorers.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("own")
def test_a_function_of_a_file_beside_the_user() -> None:
    metric, scorer = load_scorer("own_scorers:starts_alike")
    assert metric == "starts_alike"
    assert score_answer(metric, scorer, PROMPT, "four", "fünf") == 1.0
    assert score_answer(metric, scorer, PROMPT, "five", "vier") == 0.0


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("own_scorers:absent", "cannot be imported.*absent"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("broken_scorers:f", "no_such_module_anywhere"),
        ("own_scorers:number", "no function, but a int"),
        ("own_scorers:nll", "name of a built-in metric"),
        ("reasonning_gym", "did you mean 'reasoning_gym'"),
        ("zzz", "MODULE:FUNCTION"),
    ],
)
def test_what_cannot_be_a_scorer_is_said(spec: str, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        load_scorer(spec)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("answer", ["nan", "text", "none", "unheard of"])
def test_errors_name_the_prompt(answer: str) -> None:
    metric, scorer = load_scorer("own_scorers:says")
    assert score_answer(metric, scorer, PROMPT, "half", None) == 0.5
    with pytest.raises(EvaluationError, match="'says'.*'p1'"):
        score_answer(metric, scorer, PROMPT, answer, None)


@pytest.mark.usefixtures("own")
def test_scorers_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("alike", "own_scorers:starts_alike", "thriftune.scorers")
    gone = metadata.EntryPoint("gone", "own_scorers:gone", "thriftune.scorers")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry, gone] if group == entry.group else [])
    monkeypatch.syspath_prepend(".")
    metric, scorer = load_scorer("alike")
    assert metric == "alike"
    assert scorer(PROMPT, "a", "b") is False
    with pytest.raises(EvaluationError, match="'gone'.*cannot be loaded"):
        load_scorer("gone")


# --- reasoning-gym --------------------------------------------------------------------------------------------------


def _gym_prompt(task: str, number: int = 0) -> tuple[Prompt, str]:
    """A prompt as a study gives it back: the entry went through JSON."""
    gym = pytest.importorskip("reasoning_gym")
    entry = gym.create_dataset(task, size=number + 1, seed=0)[number]
    column = {"answer": entry["answer"], "metadata": entry["metadata"]}
    meta = {"reasoning_gym": json.loads(json.dumps(column, default=str))}
    return Prompt(f"{task}-{number:03d}", entry["question"], task, meta=meta), entry["answer"]


@pytest.mark.parametrize("task", ["chain_sum", "gsm_symbolic", "word_sorting", "knights_knaves", "prime_factorization"])
def test_verifiers_accept_their_own_answer_and_no_other(task: str) -> None:
    prompt, answer = _gym_prompt(task)
    assert reasoning_gym(prompt, f" {answer}\n", None) is True
    assert reasoning_gym(prompt, "I do not know", None) is False  # which some verifiers cannot even parse
    assert reasoning_gym(prompt, "", None) is False


def test_partial_credit_does_not_count() -> None:
    gym = pytest.importorskip("reasoning_gym")
    prompt, answer = _gym_prompt("spell_backward", 1)
    entry = gym.create_dataset("spell_backward", size=2, seed=0)[1]
    wrong = answer[:-1] + ("x" if answer[-1] != "x" else "y")
    assert 0 < gym.get_score_answer_fn("spell_backward")(wrong, entry) < 1
    assert reasoning_gym(prompt, wrong, None) is False


def test_a_verifier_may_accept_more_than_the_known_answer() -> None:
    # Exact match would refuse a number written another way.
    prompt, answer = _gym_prompt("decimal_arithmetic")
    assert reasoning_gym(prompt, f"{float(answer):.6f}0", None) is True


def test_a_pool_without_entries_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"'p1' has no reasoning-gym entry.*column"):
        reasoning_gym(PROMPT, "4", "4")


def test_a_damaged_entry_is_not_scored_as_wrong() -> None:
    prompt, answer = _gym_prompt("word_sorting")
    entry = {"answer": answer, "metadata": {"source_dataset": "word_sorting"}}  # the words themselves are lost
    with pytest.raises(EvaluationError, match=f"refuses the known answer of prompt '{prompt.id}'"):
        reasoning_gym(Prompt(prompt.id, prompt.text, prompt.task, meta={"reasoning_gym": entry}), answer, None)
    unknown = Prompt("u", "?", "no_such_task", meta={"reasoning_gym": {"answer": "x", "metadata": {}}})
    with pytest.raises(EvaluationError, match="no task 'no_such_task'"):
        reasoning_gym(unknown, "x", None)


def test_entries_survive_a_pool_file(tmp_path: Path) -> None:
    gym = pytest.importorskip("reasoning_gym")
    from thriftune.config import InitConfig
    from thriftune.pool.build import init

    rows, answers = [], {}
    for task in ("gsm_symbolic", "leg_counting", "maze", "count_primes"):
        entry = gym.create_dataset(task, size=1, seed=5)[0]
        column = {"answer": entry["answer"], "metadata": entry["metadata"]}
        rows.append({"id": task, "prompt": entry["question"], "task": task, "reasoning_gym": column})
        answers[task] = entry["answer"]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    init(tmp_path / "study", [tmp_path / "pool.jsonl"], InitConfig())
    for prompt in Study(tmp_path / "study").prompts(list(answers)):
        assert reasoning_gym(prompt, answers[prompt.id], None) is True
        assert reasoning_gym(prompt, "certainly not", None) is False
