"""One cell: what it trains on, what it leaves behind, and that the base model is the base again."""

from __future__ import annotations

from pathlib import Path

import pytest
from known_study import known_study, settings

from thriftune.artifacts import read_record, read_table
from thriftune.bench import cells as cell_files
from thriftune.bench.cells import Bencher
from thriftune.bench.design import Cell
from thriftune.bench.plan import model_of
from thriftune.config import EvaluateConfig
from thriftune.errors import BenchError
from thriftune.evaluation.heldout import heldout
from thriftune.examples import tokenize
from thriftune.finetuning.train import train
from thriftune.model import load
from thriftune.study import Study

ITEMS = ["q048", "q049", "q050", "q051"]
IDS = ["q004", "q001", "q017", "q020"]


@pytest.fixture
def study(tmp_path: Path, tiny_model: Path) -> Study:
    return known_study(tmp_path / "study", tiny_model)


def bencher(study: Study, **given: object) -> Bencher:
    config = settings(**given)
    return Bencher(study, config, model_of(study, config))


def values(study: Study, cell: Cell) -> dict[str, float]:
    table = read_table(cell_files.cell_file(study.bench_directory("bench"), cell))
    assert table.column_names == ["strategy", "budget", "seed", "task", "item", "metric", "value"]
    assert {(r["strategy"], r["budget"], r["seed"]) for r in table.to_pylist()} == {
        (cell.strategy, cell.budget, cell.seed)
    }
    return {r["item"]: r["value"] for r in table.to_pylist() if r["metric"] == "nll"}


def test_a_cell_is_the_training_and_evaluation_of_the_stages(study: Study, tiny_model: Path) -> None:
    worker, cell = bencher(study), Cell("k_center", 4, 3)
    record = worker.run(cell, IDS, ITEMS, {"key": "k"})
    config = settings()
    model = load(str(tiny_model), dtype="float32", device="cpu")
    answers = study.references()
    prompts = study.prompts(sorted(IDS))
    examples = tokenize(model, prompts, [answers[p.id] for p in prompts], None)
    trained = train(model, examples, config.finetune.model_copy(update={"seed": 3}), say=lambda line: None)
    held = study.prompts(ITEMS)
    rows, _ = heldout(trained.model, held, [answers[i] for i in ITEMS], EvaluateConfig(generate=False))
    expected = {r["item"]: r["value"] for r in rows.to_pylist()}
    assert values(study, cell) == pytest.approx(expected, abs=1e-5)
    assert record["tokens"] == sum(len(e.ids) for e in examples) * 2 and record["n_annotations"] == 4
    stored = read_record(cell_files.cell_file(study.bench_directory("bench"), cell))
    assert stored["final_loss"] == pytest.approx(trained.log[-1]["loss"], abs=1e-4)
    assert {"selection", "finetune_seconds", "evaluate_seconds", "steps", "versions", "created"} <= set(stored)


def test_cells_do_not_touch_each_other(study: Study) -> None:
    """The base model is loaded once and is the base again after every training; the order of choosing is no matter."""
    worker = bencher(study)
    base, first, again = Cell("base", 0, 0), Cell("random", 4, 0), Cell("k_center", 4, 0)
    worker.run(base, [], ITEMS, {})
    loaded = worker.model()
    untouched = values(study, base)
    worker.run(first, IDS, ITEMS, {})
    worker.run(Cell("random", 2, 1), IDS[:2], ITEMS, {})
    worker.run(again, IDS[::-1], ITEMS, {})
    worker.run(base, [], ITEMS, {})
    assert worker.model() is loaded
    assert values(study, base) == untouched
    assert values(study, first) == values(study, again) != untouched


def test_a_cell_that_breaks_off_leaves_no_adapter_behind(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, base = bencher(study), Cell("base", 0, 0)
    worker.run(base, [], ITEMS, {})
    untouched = values(study, base)

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_timed", stop)
        with pytest.raises(KeyboardInterrupt):
            worker.run(Cell("random", 4, 0), IDS, ITEMS, {})
    worker.run(base, [], ITEMS, {})
    assert values(study, base) == untouched
    assert cell_files.finished(study.bench_directory("bench"), Cell("random", 4, 0)) is None


def test_answers_are_kept_where_they_are_asked_for(study: Study) -> None:
    worker, cell = bencher(study, generate=True, max_new_tokens=4), Cell("base", 0, 0)
    worker.run(cell, [], ITEMS, {})
    directory = study.bench_directory("bench")
    answers = read_table(directory / "answers" / f"{cell.id}.parquet")
    assert answers["id"].to_pylist() == ITEMS
    assert set(read_table(cell_files.cell_file(directory, cell))["metric"].to_pylist()) == {
        "nll", "exact_match", "rouge_l",
    }  # fmt: skip


def test_an_adapter_is_kept_where_it_is_asked_for(study: Study) -> None:
    worker, cell = bencher(study, keep_adapters=True), Cell("random", 4, 0)
    worker.run(cell, IDS, ITEMS, {})
    kept = study.bench_directory("bench") / "adapters" / cell.id
    assert (kept / "adapter_model.safetensors").exists()


def test_a_bench_goes_on_only_with_the_model_it_began_with(study: Study) -> None:
    config = settings()
    planned = {**model_of(study, config), "dtype": "bfloat16"}
    with pytest.raises(BenchError, match="begun with dtype 'bfloat16' and would go on with 'float32'"):
        Bencher(study, config, planned).model()


def test_a_damaged_cell_is_not_finished(study: Study) -> None:
    worker, cell = bencher(study), Cell("base", 0, 0)
    directory = study.bench_directory("bench")
    assert cell_files.finished(directory, cell) is None
    worker.run(cell, [], ITEMS, {})
    assert cell_files.finished(directory, cell) is not None
    file = cell_files.cell_file(directory, cell)
    file.write_bytes(file.read_bytes()[:-40])
    assert cell_files.finished(directory, cell) is None


def test_the_probe_measures_what_a_cell_costs(study: Study) -> None:
    found = bencher(study).probe(IDS, ITEMS)
    assert found["loaded"]["dtype"] == "float32" and found["loaded"]["revision"].startswith("files-")
    assert 20 < found["tokens_per_example"] < 100
    assert 0 < found["train_seconds_per_token"] < 1 and 0 < found["evaluate_seconds_per_item"] < 10
    assert found["seconds_around"] > 0
