"""Held-out prompts: likelihoods against a plain forward pass, answers against their metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rouge_score")

from thriftune.config import EvaluateConfig  # noqa: E402
from thriftune.errors import EvaluationError, ModelError  # noqa: E402
from thriftune.evaluation.heldout import heldout, measure, prepare  # noqa: E402
from thriftune.evaluation.metrics import rouge_l  # noqa: E402
from thriftune.model import LanguageModel, load  # noqa: E402
from thriftune.types import Prompt  # noqa: E402

N = 12
PROMPTS = [
    Prompt(f"p{i:02d}", f"Question {i}: " + "and " * (i * 5 % 17) + f"what is {i}?", "odd" if i % 2 else None)
    for i in range(N)
]
RESPONSES = [f"It is {i}." + " Yes." * (i % 4) for i in range(N)]
SETTINGS = EvaluateConfig(max_new_tokens=16)
Cells = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> LanguageModel:
    return load(str(tiny_model), dtype="float32", device="cpu")


def _silent(_: str) -> None:
    pass


def _cells(rows: Any) -> Cells:
    return {(r["metric"], r["item"]): r["value"] for r in rows.to_pylist()}


def _plain_nll(lm: LanguageModel, prompt: Prompt, response: str) -> float:
    """Mean over the response's tokens and its end token, from the whole sequence's logits."""
    chat = [*prompt.turns, {"role": "assistant", "content": response}]
    whole = lm.tokenizer.apply_chat_template(chat, tokenize=False)
    start = lm.tokenizer.apply_chat_template(list(prompt.turns), tokenize=False, add_generation_prompt=True)
    text = whole[: whole.index("<|im_end|>", len(start)) + len("<|im_end|>")]
    ids = torch.tensor([lm.tokenizer(text, add_special_tokens=False)["input_ids"]])
    first = len(lm.tokenizer(start, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logits = lm.model(input_ids=ids).logits[0, first - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, ids[0, first:]))


def test_nll_is_that_of_a_plain_forward_pass(lm: LanguageModel) -> None:
    rows, answers = heldout(lm, PROMPTS, RESPONSES, EvaluateConfig(generate=False), say=_silent)
    found = _cells(rows)
    assert len(found) == N
    assert answers.num_rows == 0
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        assert found["nll", prompt.id] == pytest.approx(_plain_nll(lm, prompt, response), abs=1e-4)


def test_batches_do_not_change_results(lm: LanguageModel) -> None:
    whole, answers = heldout(lm, PROMPTS, RESPONSES, SETTINGS, say=_silent)
    for size in (1, 5):
        settings = SETTINGS.model_copy(update={"batch_size": size})
        rows, same = heldout(lm, PROMPTS, RESPONSES, settings, say=_silent)
        assert _cells(rows).keys() == _cells(whole).keys()
        for key, value in _cells(rows).items():
            assert value == pytest.approx(_cells(whole)[key], abs=1e-5), key
        assert same.equals(answers)


def test_answers_are_measured_against_the_response_of_their_own_prompt(lm: LanguageModel) -> None:
    _, answers = heldout(lm, PROMPTS, RESPONSES, SETTINGS, say=_silent)
    assert answers["id"].to_pylist() == [p.id for p in PROMPTS]
    assert all(1 <= n <= 16 for n in answers["n_tokens"].to_pylist())
    said = answers["answer"].to_pylist()
    # The model's own answers as references, one of them wrong.
    references = [*said[:-1], "something else"]
    found = _cells(heldout(lm, PROMPTS, references, SETTINGS, say=_silent)[0])
    assert [found["exact_match", p.id] for p in PROMPTS] == [1.0] * (N - 1) + [0.0]
    for prompt, answer, reference in zip(PROMPTS, said, references, strict=True):
        assert found["rouge_l", prompt.id] == pytest.approx(rouge_l(answer, reference))


def test_rows_say_task_item_and_metric(lm: LanguageModel) -> None:
    rows, _ = heldout(lm, PROMPTS, RESPONSES, SETTINGS, say=_silent)
    assert rows.column_names == ["task", "item", "metric", "value"]
    tasks = {r["item"]: r["task"] for r in rows.to_pylist()}
    assert tasks["p00"] == "heldout"
    assert tasks["p01"] == "odd"
    assert {r["metric"] for r in rows.to_pylist()} == {"nll", "exact_match", "rouge_l"}


def test_a_scorer_sees_prompt_answer_and_reference(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def length(prompt: Prompt, answer: str, reference: str | None) -> float:
        seen.append((prompt.id, answer, reference))
        return len(answer) / 100

    monkeypatch.setattr("thriftune.evaluation.heldout.load_scorer", lambda _: ("length", length))
    references = [None if i % 3 == 0 else r for i, r in enumerate(RESPONSES)]
    settings = SETTINGS.model_copy(update={"scorer": "length"})
    rows, answers = heldout(lm, PROMPTS, references, settings, say=_silent)
    said = answers["answer"].to_pylist()
    assert seen == list(zip([p.id for p in PROMPTS], said, references, strict=True))
    found = _cells(rows)
    assert [found["length", p.id] for p in PROMPTS] == [len(a) / 100 for a in said]
    # Without a known response there is nothing else to measure.
    known = {p.id for p, r in zip(PROMPTS, references, strict=True) if r is not None}
    assert {i for m, i in found if m == "nll"} == {i for m, i in found if m == "rouge_l"} == known


def test_impossible_requests(lm: LanguageModel) -> None:
    with pytest.raises(EvaluationError, match="no scorer 'x'"):
        heldout(lm, PROMPTS, RESPONSES, SETTINGS.model_copy(update={"scorer": "x"}), say=_silent)
    without = EvaluateConfig(generate=False, scorer="reasoning_gym")
    with pytest.raises(EvaluationError, match="leave out --no-generate"):
        heldout(lm, PROMPTS, RESPONSES, without, say=_silent)
    with pytest.raises(EvaluationError, match="nothing can be measured"):
        heldout(lm, PROMPTS, [None] * N, SETTINGS, say=_silent)
    with pytest.raises(EvaluationError, match="leaves no room in the model's context of 512"):
        heldout(lm, PROMPTS, RESPONSES, EvaluateConfig(max_new_tokens=510), say=_silent)


def test_long_prompts_are_cut_and_said(lm: LanguageModel) -> None:
    said: list[str] = []
    long = [Prompt("long", "begin " + "word " * 2000 + "end"), PROMPTS[1]]
    rows, _ = heldout(lm, long, ["It is.", "Yes."], SETTINGS, say=said.append)
    assert np.isfinite(list(_cells(rows).values())).all()
    assert any(line.startswith("1 of 2 prompts with their responses were too long") for line in said)


def test_the_prompt_limit_cuts_prompts_only(lm: LanguageModel) -> None:
    settings = SETTINGS.model_copy(update={"max_prompt_tokens": 64})
    prompt, response = Prompt("long", "begin " + "word " * 100 + "end"), "It is seven."
    items = prepare(lm, [prompt, PROMPTS[0]], [response, RESPONSES[0]], settings)
    free = prepare(lm, [prompt, PROMPTS[0]], [response, RESPONSES[0]], SETTINGS)
    assert len(items.rendered[0].ids) == 64
    cut, whole = items.examples[0], free.examples[0]
    assert cut.truncated and not whole.truncated
    assert (~cut.response).sum() == 64
    assert cut.ids[cut.response].tolist() == whole.ids[whole.response].tolist()
    assert items.examples[1].ids.tolist() == free.examples[1].ids.tolist()


def test_answers_stopped_at_the_limit_are_said(lm: LanguageModel) -> None:
    said: list[str] = []
    _, answers = heldout(lm, PROMPTS, RESPONSES, EvaluateConfig(max_new_tokens=2), say=said.append)
    stopped = sum(answers["hit_limit"].to_pylist())
    assert stopped > 0
    assert f"{stopped} of {N} answers were stopped at --max-new-tokens 2" in said


def test_prepared_items_serve_several_models(lm: LanguageModel, tiny_model: Path) -> None:
    other = load(str(tiny_model), dtype="float32", device="cpu")
    with torch.no_grad():
        other.model.lm_head.weight.mul_(0.5)
    items = prepare(lm, PROMPTS, RESPONSES, SETTINGS)
    for model in (lm, other):
        rows, answers = measure(model, items, SETTINGS, say=_silent)
        whole, same = heldout(model, PROMPTS, RESPONSES, SETTINGS, say=_silent)
        assert rows.equals(whole) and answers.equals(same)
    assert not measure(lm, items, SETTINGS, say=_silent)[0].equals(rows)


def test_broken_weights_are_an_error_not_a_number(tiny_model: Path) -> None:
    broken = load(str(tiny_model), dtype="float32", device="cpu")
    with torch.no_grad():
        broken.model.lm_head.weight[7] = float("inf")
    with pytest.raises(ModelError, match="prompt 'p00'.*not finite in float32"):
        heldout(broken, PROMPTS, RESPONSES, EvaluateConfig(generate=False), say=_silent)


def test_likelihood_batches_that_do_not_fit_are_halved(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import thriftune.likelihood as module

    whole = module.response_nll
    sizes: list[int] = []

    def small(model: Any, batch: Any) -> Any:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        return whole(model, batch)

    settings = EvaluateConfig(generate=False)
    expected = _cells(heldout(lm, PROMPTS, RESPONSES, settings, say=_silent)[0])
    monkeypatch.setattr(module, "response_nll", small)
    found = _cells(heldout(lm, PROMPTS, RESPONSES, settings, say=_silent)[0])
    assert sum(sizes) == N
    assert found == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(module, "response_nll", lambda *_: small(None, [0] * 9))
    with pytest.raises(EvaluationError, match="does not fit into memory"):
        heldout(dataclasses.replace(lm), PROMPTS, RESPONSES, settings, say=_silent)
