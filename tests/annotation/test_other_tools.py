"""Files of other tools: what Label Studio, Argilla and TRL write and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thriftune.annotation.export import export
from thriftune.annotation.ingest import ingest
from thriftune.annotation.parse import Answer, Broken, from_json
from thriftune.errors import AnnotationError
from thriftune.study import Study
from thriftune.types import Annotation


def written(text: str, **more: Any) -> dict[str, Any]:
    """An annotation as Label Studio 1.23's export has it."""
    part = {"id": "x", "from_name": "response", "to_name": "prompt", "type": "textarea", "value": {"text": [text]}}
    return {"id": 7, "result": [part], "was_cancelled": False, "ground_truth": False, "lead_time": 12.5, **more}


def test_label_studio_export_names_annotators_and_their_time(small_study: Study, tmp_path: Path) -> None:
    tasks = [
        {
            "id": 101,
            "data": {"thriftune_id": "p00", "prompt": "other words", "rank": 1},
            "annotations": [
                written("one", completed_by=1),
                written("uno\nx", completed_by={"id": 2, "email": "b@c.de"}),
            ],
            "predictions": [{"result": []}],
        },
        {"id": 102, "data": {"thriftune_id": "p01"}, "annotations": [written("", completed_by=1, was_cancelled=True)]},
    ]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    done = ingest(small_study, file, annotator="nobody in particular")
    assert (done.new, done.unanswered, done.edited) == (2, 1, ["p00", "p00"])
    assert small_study.annotations.in_force() == [
        Annotation("p00", "one", annotator="1", seconds=12.5),
        Annotation("p00", "uno\nx", annotator="b@c.de", seconds=12.5),
    ]
    again = ingest(small_study, file)
    assert (again.new, again.unchanged, again.conflicts) == (0, 2, [])
    # One of them thinks again: a conflict with their own answer only.
    tasks[0]["annotations"][0]["result"][0]["value"]["text"] = ["eins"]  # type: ignore[index]
    file.write_text(json.dumps(tasks))
    assert [c.in_force.annotator for c in ingest(small_study, file).conflicts] == ["1"]
    assert ingest(small_study, file, replace=True).replaced == 1


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 3, "thriftune_id": "p00", "prompt": "x", "response": "one", "annotator": 4, "lead_time": 2.5}]',
        "id,thriftune_id,prompt,response,annotator,lead_time\n3,p00,x,one,4,2.5\n9,p01,x,,4,\n",
    ],
)
def test_label_studio_short_exports(small_study: Study, tmp_path: Path, text: str) -> None:
    file = tmp_path / "export"
    file.write_text(text)
    assert ingest(small_study, file).new == 1
    assert small_study.annotations.in_force() == [Annotation("p00", "one", annotator="4", seconds=2.5)]


def test_label_studio_tasks_carry_draft_confidence_and_turns(small_study: Study, tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    export(small_study, file, to="label-studio")
    tasks = json.loads(file.read_text())
    assert [t["data"]["rank"] for t in tasks] == list(range(1, 11))
    by_id = {t["data"]["thriftune_id"]: t for t in tasks}
    prediction = by_id["p03"]["predictions"][0]
    assert prediction["result"][0]["value"]["text"] == ["Draft 3\nsecond line"]
    # mean_nll of p00 is 1 nat: e^-1.
    assert by_id["p00"]["predictions"][0]["score"] == pytest.approx(0.36788, abs=1e-5)
    assert [t["role"] for t in by_id["p08"]["data"]["messages"]] == ["system", "user", "assistant", "user"]
    export(small_study, file, to="label-studio", draft=False, force=True)
    assert not any("predictions" in t for t in json.loads(file.read_text()))


def test_argilla_records_pass_through_its_sdk(small_study: Study, tmp_path: Path) -> None:
    pytest.importorskip("argilla")
    from argilla.records._io import JsonIO

    small_study.annotations.add([Annotation("p00", "one\ntwo 🧵")])
    file, back = tmp_path / "records.json", tmp_path / "back.json"
    export(small_study, file, to="argilla")
    records = JsonIO._records_from_json(path=file)
    assert [r.id for r in records][:3] == ["p03", "p00", "p08"]
    assert records[0].suggestions["response"].value == "Draft 3\nsecond line"
    assert records[0].metadata["rank"] == 1
    assert records[2].fields["messages"][0]["role"] == "system"
    JsonIO.to_json(records, back)
    assert ingest(small_study, back).unanswered == 10  # the SDK forgets the status, which its server keeps
    kept = [{**r, "status": "completed" if r["responses"] else "pending"} for r in json.loads(back.read_text())]
    back.write_text(json.dumps(kept))
    done = ingest(small_study, back)
    assert (done.new, done.unchanged, done.unanswered, done.edited) == (0, 1, 9, [])


def test_argilla_responses_count_when_the_record_is_completed() -> None:
    user = "0c2b50f0-b750-436d-8abe-06b9060afd03"
    record = {
        "id": "a",
        "fields": {"prompt": "x"},
        "responses": {"response": [{"value": "one", "user_id": user}]},
        "status": "completed",
    }
    assert list(from_json(1, record)) == [Answer(1, "a", "one", "x", user)]
    assert list(from_json(1, {**record, "status": "pending"})) == [Answer(1, "a", "", "x")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"data": {"prompt": "x"}, "annotations": []}, "no thriftune_id"),
        ({"data": {"thriftune_id": "a"}, "annotations": [3]}, "not an object"),
        (
            {"data": {"thriftune_id": "a"}, "annotations": [{"result": [{"type": "textarea", "value": {"text": 3}}]}]},
            "text",
        ),
        ({"id": "a", "fields": {"prompt": "x"}, "responses": {"response": ["one"]}}, "not a list of"),
        (
            {"id": "a", "fields": {"prompt": "x"}, "responses": {"response": [{"value": 3}]}, "status": "completed"},
            "JSON int",
        ),
        ({"id": "a", "conversations": [{"role": "user"}]}, "conversations is not"),
        ({"id": "a", "prompt": "x", "completion": [{"role": "user", "content": "y"}]}, "completion is not one"),
        ({"id": "a", "prompt": [3], "completion": "y"}, "prompt is not"),
    ],
)
def test_broken_rows_say_why(row: dict[str, Any], reason: str) -> None:
    (found,) = from_json(4, row)
    assert isinstance(found, Broken) and found.line == 4 and reason in found.reason


def test_a_foreign_id_is_refused(small_study: Study, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(
        '[{"id": "elsewhere", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}]'
    )
    with pytest.raises(AnnotationError, match=r"x.json:1: id 'elsewhere' is not in"):
        ingest(small_study, file)


@pytest.mark.parametrize("to", ["messages", "prompt-completion"])
def test_trl_trains_on_the_file_as_it_is(small_study: Study, tmp_path: Path, tiny_model: Path, to: str) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    small_study.annotations.add([Annotation("p00", "one"), Annotation("p08", "two"), Annotation("p03", "three")])
    file = tmp_path / "train.jsonl"
    export(small_study, file, to=to, answered_only=True)
    loaded = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, report_to="none", use_cpu=True, bf16=False, save_strategy="no"
    )
    trainer = trl.SFTTrainer(model=str(tiny_model), args=settings, train_dataset=loaded)
    assert trainer.train().training_loss > 0
