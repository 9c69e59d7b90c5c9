"""`thriftune evaluate`: which model and items, what is kept, what is compared, and the errors a user can mend."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("rouge_score")

from rich.console import Console  # noqa: E402

from thriftune.artifacts import provenance, read_record, read_table, write_json, write_table  # noqa: E402
from thriftune.config import EvaluateConfig  # noqa: E402
from thriftune.errors import ConfigError, EvaluationError  # noqa: E402
from thriftune.evaluation import run  # noqa: E402
from thriftune.evaluation.present import show  # noqa: E402
from thriftune.evaluation.run import evaluate  # noqa: E402
from thriftune.evaluation.subject import choose  # noqa: E402
from thriftune.model import fingerprint, load  # noqa: E402
from thriftune.study import Study  # noqa: E402
from thriftune.types import Annotation  # noqa: E402

HELD = ["p12", "p13", "p14", "p15"]


def _settings(**changed: Any) -> EvaluateConfig:
    return EvaluateConfig(dtype="float32", device="cpu", max_new_tokens=8, **changed)


@pytest.fixture
def study(small_study: Study, tiny_model: Path) -> Study:
    """The small study with a score run by the tiny model, and answers to its held-out prompts."""
    manifest = provenance(config={"model": str(tiny_model)}, resolved={"revision": fingerprint(tiny_model)})
    write_json(small_study.score_directory("default") / "manifest.json", manifest)
    small_study.annotations.add([Annotation(i, f"It is {n}.") for n, i in enumerate(HELD)])
    return small_study


def _add_tuned(study: Study, tiny_model: Path, name: str = "tuned") -> None:
    lm = load(str(tiny_model), dtype="float32", device="cpu")
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(lm.model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter, weight in wrapped.named_parameters():
            if "lora_B" in parameter:
                weight.normal_(0, 0.1)
    wrapped.save_pretrained(study.model_directory(name) / "adapter")
    base = {"model": str(tiny_model), "revision": lm.revision}
    write_json(study.model_directory(name) / "manifest.json", provenance(base=base, config={}))


def _silent(_: str) -> None:
    pass


def _shown(study: Study, file: Path) -> str:
    written = io.StringIO()
    show(study, file, Console(file=written, width=200, highlight=False))
    return written.getvalue()


def test_held_out_prompts_of_the_base_model(study: Study, tiny_model: Path) -> None:
    file = evaluate(study, _settings(), say=_silent)
    assert file == study.evaluation_file("base")
    assert study.evaluations() == ["base"]
    rows = read_table(file)
    assert rows.column_names == ["suite", "task", "item", "metric", "value"]
    assert {r["item"] for r in rows.to_pylist()} == set(HELD)
    assert {r["metric"] for r in rows.to_pylist()} == {"nll", "exact_match", "rouge_l"}
    assert {r["task"] for r in rows.to_pylist()} == {"odd", "even"}
    record = read_record(file)
    assert record["revision"] == fingerprint(tiny_model)
    assert (record["model"], record["adapter"], record["dtype"]) == (str(tiny_model), None, "float32")
    assert [p["task"] for p in record["parts"]] == ["heldout"]
    answers = read_table(file.with_name("base.answers.parquet"))
    assert answers["id"].to_pylist() == HELD
    assert not list(file.parent.glob(".*"))


def test_a_second_call_does_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    file = evaluate(study, _settings(), say=_silent)
    before = file.read_bytes()
    monkeypatch.setattr(run, "open_model", lambda *_: pytest.fail("loaded again"))
    said: list[str] = []
    assert evaluate(study, _settings(), say=said.append) == file
    assert said == ["base: already evaluated on heldout"]
    assert file.read_bytes() == before


def test_the_latest_fine_tuned_model_is_compared_with_its_base(study: Study, tiny_model: Path) -> None:
    evaluate(study, _settings(), say=_silent)
    _add_tuned(study, tiny_model)
    file = evaluate(study, _settings(), say=_silent)
    assert file.stem == "tuned"
    record = read_record(file)
    assert record["base"]["revision"] == fingerprint(tiny_model) != record["revision"]
    values = {
        name: {
            r["item"]: r["value"] for r in read_table(study.evaluation_file(name)).to_pylist() if r["metric"] == "nll"
        }
        for name in ("base", "tuned")
    }
    mean = sum(values["tuned"][i] - values["base"][i] for i in HELD) / len(HELD)
    text = _shown(study, file)
    assert re.search(rf"vs base +{re.escape(f'{mean:+.3f}'.replace('-', '−'))} \[", text)
    assert "nll (nats a token of the known response): lower is better" in text
    assert "4 items of 2 tasks" in text
    # The base itself is compared with nothing.
    assert "vs " not in _shown(study, study.evaluation_file("base"))


def test_without_an_evaluation_of_the_base_the_table_says_how_to_have_one(study: Study, tiny_model: Path) -> None:
    _add_tuned(study, tiny_model)
    file = evaluate(study, _settings(), say=_silent)
    assert f"thriftune evaluate {study.path} --model base" in _shown(study, file)
    evaluate(study, _settings(model="base", generate=False), say=_silent)
    assert "base has no task with the same items and settings" in _shown(study, file)


def test_which_model(study: Study, tiny_model: Path, tmp_path: Path) -> None:
    assert choose(study, _settings()).spec == str(tiny_model)
    _add_tuned(study, tiny_model, "one")
    tuned = study.model_directory("one")
    assert choose(study, _settings()).tuned == tuned
    assert choose(study, _settings(model="one")).tuned == tuned
    assert choose(study, _settings(model=str(tuned))).tuned == tuned
    assert choose(study, _settings(model="base")).spec == str(tiny_model)
    other = choose(study, _settings(model=str(tiny_model)))
    assert (other.tuned, other.name) == (None, tiny_model.name)
    assert choose(study, _settings(model="org/Some-Model", revision="abc")).name == "Some-Model"
    with pytest.raises(EvaluationError, match=r"no model at ./nowhere.*models of this study: one, base"):
        choose(study, _settings(model="./nowhere"))
    with pytest.raises(EvaluationError, match="no model 'bas': did you mean 'base'"):
        choose(study, _settings(model="bas"))
    with pytest.raises(EvaluationError, match="--revision abc is for models of the hub"):
        choose(study, _settings(model="one", revision="abc"))


def test_no_model_at_all(small_study: Study) -> None:
    for scores in (small_study.path / "scores").glob("*/scores.parquet"):
        scores.unlink()
    with pytest.raises(EvaluationError, match="has no model yet: give --model, or run: thriftune finetune"):
        choose(small_study, _settings())


def test_the_base_model_must_be_what_it_was(study: Study) -> None:
    manifest = study.score_directory("default") / "manifest.json"
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**written, "resolved": {"revision": "files-0"}}))
    with pytest.raises(EvaluationError, match="the study was made with files-0"):
        evaluate(study, _settings(), say=_silent)


def test_nothing_held_out(study: Study) -> None:
    pool = read_table(study.pool_file)
    kept = pool.set_column(pool.column_names.index("split"), "split", pa.array(["pool"] * pool.num_rows))
    write_table(study.pool_file, kept, provenance())
    with pytest.raises(EvaluationError, match="no held-out prompts.*--holdout 200"):
        evaluate(study, _settings(), say=_silent)


def test_nothing_answered(study: Study) -> None:
    study.annotations.path.unlink()
    with pytest.raises(EvaluationError, match=r"none of the 4 .*thriftune export .* holdout.csv --selection holdout"):
        evaluate(study, _settings(), say=_silent)
    references = pa.table({"id": HELD, "response": ["x"] * 4})
    write_table(study.references_file, references, provenance())
    with pytest.raises(EvaluationError, match="add --annotations reference"):
        evaluate(study, _settings(annotations="human"), say=_silent)
    assert evaluate(study, _settings(), say=_silent).exists()


def test_a_few_answered_is_said(study: Study) -> None:
    study.annotations.path.unlink()
    study.annotations.add([Annotation("p14", "It is 14."), Annotation("p02", "It is 2.")])
    said: list[str] = []
    file = evaluate(study, _settings(), say=said.append)
    assert said[0] == "1 of 4 held-out prompts have an answer; the others are left out"
    assert set(read_table(file)["item"].to_pylist()) == {"p14"}


def test_a_limit_takes_a_growing_random_sample(study: Study) -> None:
    found = []
    for limit in (2, 3):
        file = evaluate(study, _settings(limit=limit, generate=False, name=f"l{limit}"), say=_silent)
        found.append(read_table(file)["item"].to_pylist())
    assert [len(f) for f in found] == [2, 3]
    assert set(found[0]) < set(found[1])


def test_other_settings_need_a_word(study: Study, tiny_model: Path) -> None:
    file = evaluate(study, _settings(), say=_silent)
    with pytest.raises(EvaluationError, match=r"\(max_prompt_tokens was None, now 99\): add --replace"):
        evaluate(study, _settings(max_prompt_tokens=99), say=_silent)
    study.annotations.add([Annotation("p12", "Now another.")], replace=True)
    with pytest.raises(EvaluationError, match="the held-out prompts or their answers are others"):
        evaluate(study, _settings(), say=_silent)
    _add_tuned(study, tiny_model)
    with pytest.raises(EvaluationError, match=r"model was .*, now 'tuned'"):
        evaluate(study, _settings(name="base"), say=_silent)
    evaluate(study, _settings(name="base", generate=False), replace=True, say=_silent)
    assert read_record(file)["model"] == "tuned"
    # Answers of the model that was here before would be taken for this one's.
    assert not file.with_name("base.answers.parquet").exists()


def test_bad_names(study: Study) -> None:
    with pytest.raises(ConfigError, match="tasks is empty"):
        evaluate(study, _settings(tasks=" , "), say=_silent)
    with pytest.raises(EvaluationError, match="is kept for"):
        evaluate(study, _settings(name="x.answers"), say=_silent)


def test_a_scorer_needs_no_known_answer(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scorer.py").write_text("def brief(prompt, answer, reference):\n    return len(answer) < 9\n")
    monkeypatch.chdir(tmp_path)
    study.annotations.path.unlink()
    file = evaluate(study, _settings(scorer="my_scorer:brief"), say=_silent)
    rows = read_table(file).to_pylist()
    assert [(r["item"], r["metric"]) for r in rows] == [(i, "brief") for i in HELD]
    # Its code is part of what was measured.
    (tmp_path / "my_scorer.py").write_text("def brief(prompt, answer, reference):\n    return len(answer) < 3\n")
    with pytest.raises(EvaluationError, match="the scorer's code is another"):
        evaluate(study, _settings(scorer="my_scorer:brief"), say=_silent)


# --- public benchmarks: dispatch, resuming --------------------------------------------------------------------------


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for the harness with a group ``sums`` of three tasks; returns the tasks that were run."""
    ran: list[str] = []
    fake: Any = types.ModuleType("thriftune.evaluation.harness")

    def task_names(tasks: list[str], config: EvaluateConfig) -> list[str]:
        if tasks == ["sums"]:
            return ["sums_a", "sums_b", "sums_c"]
        if tasks[0].startswith("sums_"):
            return tasks
        raise EvaluationError(f"no task {tasks[0]!r}")

    def harness(lm: Any, tasks: list[str], config: EvaluateConfig, *, say: Any, announce: bool) -> pa.Table:
        (task,) = tasks
        ran.append(task)
        n = 5
        columns = {"task": [task] * n, "item": [f"{task}/{i}" for i in range(n)], "metric": ["acc"] * n}
        return pa.table({**columns, "value": [float(i % 2) for i in range(n)]})

    fake.task_names, fake.harness, fake.workload = task_names, harness, lambda *_: "about 1 s"
    monkeypatch.setitem(sys.modules, "thriftune.evaluation.harness", fake)
    return ran


@contextlib.contextmanager
def killed_in_sums_b(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The second of the three tasks ends what the block does, as Ctrl-C would."""
    module: Any = sys.modules["thriftune.evaluation.harness"]
    answer = module.harness

    def dies(lm: Any, tasks: list[str], config: EvaluateConfig, **options: Any) -> pa.Table:
        if tasks == ["sums_b"]:
            raise KeyboardInterrupt
        return answer(lm, tasks, config, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, "harness", dies)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_benchmarks_are_kept_task_by_task(study: Study, benchmark: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(tasks="heldout,sums")
    whole = evaluate(study, settings.model_copy(update={"name": "whole"}), say=_silent)
    assert benchmark == ["sums_a", "sums_b", "sums_c"]
    benchmark.clear()

    # Killed within the second benchmark task ...
    with killed_in_sums_b(monkeypatch):
        evaluate(study, settings, say=_silent)
    assert benchmark == ["sums_a"]
    assert study.evaluations() == ["whole"]
    # ... the same command goes on there.
    monkeypatch.setattr(run, "heldout", lambda *_, **__: pytest.fail("done again"))
    said: list[str] = []
    file = evaluate(study, settings, say=said.append)
    assert benchmark == ["sums_a", "sums_b", "sums_c"]
    assert "base: 2 of 4 tasks are already done" in said
    assert read_table(file).equals(read_table(whole))
    assert read_record(file)["parts"] == read_record(whole)["parts"]
    answers = [read_table(f.with_name(f"{f.stem}.answers.parquet")) for f in (file, whole)]
    assert answers[0].replace_schema_metadata().equals(answers[1].replace_schema_metadata())


def test_a_part_of_a_suite_waits_for_the_rest(
    study: Study, benchmark: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_in_sums_b(monkeypatch):
        evaluate(study, _settings(tasks="sums"), say=_silent)
    file = evaluate(study, _settings(tasks="heldout"), say=_silent)
    assert set(read_table(file)["suite"].to_pylist()) == {"heldout"}
    evaluate(study, _settings(tasks="sums"), say=_silent)
    assert benchmark == ["sums_a", "sums_b", "sums_c"]  # none of them twice
    assert set(read_table(file)["suite"].to_pylist()) == {"heldout", "sums"}
    assert not list(file.parent.glob(".*.parts"))


def test_an_interrupted_run_with_other_settings_is_not_mixed_in(
    study: Study, benchmark: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = sys.modules["thriftune.evaluation.harness"]
    answer = module.harness
    monkeypatch.setattr(module, "harness", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate(study, _settings(tasks="heldout,sums"), say=_silent)
    monkeypatch.setattr(module, "harness", answer)
    file = evaluate(study, _settings(tasks="heldout", generate=False), say=_silent)
    assert {r["metric"] for r in read_table(file).to_pylist()} == {"nll"}
    assert not file.with_name("base.answers.parquet").exists()


def test_tasks_can_be_added_later(study: Study, benchmark: list[str]) -> None:
    evaluate(study, _settings(), say=_silent)
    file = evaluate(study, _settings(tasks="heldout,sums"), say=_silent)
    rows = read_table(file).to_pylist()
    assert {r["suite"] for r in rows} == {"heldout", "sums"}
    assert len([r for r in rows if r["suite"] == "sums"]) == 15
    assert file.with_name("base.answers.parquet").exists()
    text = _shown(study, file)
    assert "sums: 15 items of 3 tasks" in text
    assert "acc     0.400" in text
    evaluate(study, _settings(tasks="sums_a"), say=_silent)
    assert benchmark == ["sums_a", "sums_b", "sums_c"]


def test_an_unknown_benchmark_is_said_before_anything_is_loaded(
    study: Study, benchmark: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "open_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(EvaluationError, match="no task 'summs'"):
        evaluate(study, _settings(tasks="heldout,summs"), say=_silent)


def test_the_command(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    import typer
    from typer.testing import CliRunner

    from thriftune.cli.evaluate import command

    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(
        app, [str(study.path), "--dtype", "float32", "--max-new-tokens", "8", "--batch-size", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "heldout: 4 items of 2 tasks" in done.output
    assert "rouge_l" in done.output
