"""A whole score run: columns, duplicates, resuming, kill -9, out of memory, refusals."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from thriftune.artifacts import provenance, read_json, write_table
from thriftune.config import ScoreConfig
from thriftune.errors import ScoreError, StudyError
from thriftune.model import load
from thriftune.render import Renderer
from thriftune.scoring import run, transformers
from thriftune.scoring.run import score
from thriftune.scoring.transformers import Pass
from thriftune.study import Study
from thriftune.types import Prompt

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def make_study(path, texts, held=0):
    """A study from texts alone, through the documented pool columns."""
    first = {}
    groups = [first.setdefault(t, i) for i, t in enumerate(texts)]
    n = len(texts)
    pool = pa.table(
        {
            "id": [f"p{i:04d}" for i in range(n)],
            "text": texts,
            "messages": pa.nulls(n, MESSAGES),
            "task": pa.nulls(n, pa.string()),
            "split": ["holdout"] * held + ["pool"] * (n - held),
            "group": pa.array(groups, pa.int64()),
            "near_group": pa.array(groups, pa.int64()),
            "n_chars": pa.array([len(t) for t in texts], pa.int32()),
        }
    )
    path.mkdir()
    write_table(path / "pool.parquet", pool, provenance())
    return Study.create(path, {})


def settings(tiny_model, **changes):
    return ScoreConfig(model=str(tiny_model), dtype="float32", device="cpu", max_new_tokens=8, **changes)


TEXTS = ["held out", *(f"Question {i}: what is {i} plus {i * 3}? " * (1 + i % 5) for i in range(30)), "again", "again"]


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study", TEXTS, held=1)


def values(study, name="default"):
    table = study.scores(name)
    return table.to_pydict(), study.embeddings(name)


def same(a, b):
    assert a[0] == b[0]
    np.testing.assert_array_equal(a[1], b[1])


def test_columns_and_order(study, tiny_model):
    said = []
    directory = score(study, settings(tiny_model), say=said.append)
    table = study.scores()
    assert table["id"].to_pylist() == [f"p{i:04d}" for i in range(1, len(TEXTS))]
    assert sorted(p.name for p in directory.iterdir()) == ["embeddings.npy", "manifest.json", "scores.parquet"]
    assert "31 distinct prompts" in said[0] and "GiB" in said[0] and "min" in said[0]
    assert "prompts/min" in said[-1]
    lm = load(str(tiny_model), dtype="float32")
    for row in (0, 7, len(TEXTS) - 2):
        (prompt,) = Renderer(lm.tokenizer, 400).render([Prompt("x", TEXTS[row + 1])])
        (answer,) = Pass(lm, max_new_tokens=8).run([prompt])
        stored = {c: table[c][row].as_py() for c in table.column_names}
        assert stored["token_ids"] == answer.tokens
        assert stored["n_steps"] == len(answer.tokens) == len(stored["token_ends"]) == len(stored["token_entropies"])
        assert stored["max_entropy"] == pytest.approx(max(answer.entropy), abs=1e-3)
        assert stored["prompt_nll"] == pytest.approx(answer.prompt_nll, abs=1e-3)
        assert stored["n_prompt_tokens"] == len(prompt.ids)
        assert stored["hit_limit"] == (not answer.finished)
        text_tokens = answer.tokens[:-1] if answer.finished else answer.tokens
        assert stored["response"] == lm.tokenizer.decode(text_tokens, skip_special_tokens=True)
        assert stored["token_ends"] == sorted(stored["token_ends"])
        assert stored["token_ends"][-1] == len(stored["response"])
        np.testing.assert_allclose(study.embeddings()[row], answer.embedding, rtol=2e-3, atol=2e-3)


def test_equal_prompts_share_one_result(study, tiny_model):
    score(study, settings(tiny_model), say=lambda line: None)
    table = study.scores().drop_columns(["id"]).to_pylist()
    assert table[-1] == table[-2]
    np.testing.assert_array_equal(study.embeddings()[-1], study.embeddings()[-2])


def test_the_same_command_again_does_nothing(study, tiny_model):
    score(study, settings(tiny_model), say=lambda line: None)
    before = (study.score_directory("default") / "scores.parquet").stat().st_mtime_ns
    said = []
    score(study, settings(tiny_model), say=said.append)
    assert "already scored" in said[0]
    assert (study.score_directory("default") / "scores.parquet").stat().st_mtime_ns == before


def test_other_settings_under_the_same_name_are_refused(study, tiny_model):
    score(study, settings(tiny_model), say=lambda line: None)
    with pytest.raises(ScoreError, match=r"max_new_tokens was 8, now 9.*--name"):
        score(study, ScoreConfig(model=str(tiny_model), dtype="float32", device="cpu", max_new_tokens=9))
    score(study, settings(tiny_model, name="other", layer="1"), say=lambda line: None)
    assert study.score_runs() == ["default", "other"]


def test_interrupted_and_continued_equals_uninterrupted(study, tiny_model, monkeypatch):
    monkeypatch.setattr("thriftune.scoring.plan._PART_TOKENS", 200)
    score(study, settings(tiny_model, name="whole"), say=lambda line: None)
    original = Pass.run
    calls = 0

    def stopping(self, batch):
        nonlocal calls
        calls += 1
        if calls == 13:  # seven calls are the check's and the probe's
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(transformers.Pass, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        score(study, settings(tiny_model, name="cut", batch_size=2), say=lambda line: None)
    parts = list((study.score_directory("cut") / "parts").glob("[0-9]*.parquet"))
    assert parts
    assert study.score_runs() == ["whole"]
    monkeypatch.setattr(transformers.Pass, "run", original)
    # A damaged part is named and done again.
    parts[0].write_bytes(parts[0].read_bytes()[:100])
    said = []
    score(study, settings(tiny_model, name="cut", batch_size=2), say=said.append)
    assert any(parts[0].name in line and "scored again" in line for line in said)
    score(study, settings(tiny_model, name="fixed", batch_size=2), say=lambda line: None)
    same(values(study, "cut"), values(study, "fixed"))


def test_shuffling_the_pool_changes_nothing(tmp_path, tiny_model):
    order = np.random.default_rng(0).permutation(len(TEXTS))
    plain = make_study(tmp_path / "plain", TEXTS)
    shuffled = make_study(tmp_path / "shuffled", [TEXTS[i] for i in order])
    for study in (plain, shuffled):
        score(study, settings(tiny_model), say=lambda line: None)
    a, b = (s.scores().to_pydict() for s in (plain, shuffled))
    for name in ("max_entropy", "prompt_nll", "mean_margin"):
        np.testing.assert_allclose(np.array(a[name])[order], b[name], atol=1e-3)


def test_out_of_memory_halves_the_batch_and_loses_nothing(study, tiny_model, monkeypatch):
    import torch

    score(study, settings(tiny_model, name="roomy"), say=lambda line: None)
    original = Pass.run

    def cramped(self, batch):
        if len(batch) > 3 and len(set(map(id, batch))) == len(batch):  # the probe repeats one prompt
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch)

    monkeypatch.setattr(transformers.Pass, "run", cramped)
    said = []
    score(study, settings(tiny_model, name="cramped"), say=said.append)
    assert "halved" in said[-1]
    assert read_json(study.score_directory("cramped") / "manifest.json")["backed_off"]
    roomy, cramped_values = values(study, "roomy"), values(study, "cramped")
    assert roomy[0]["token_ids"] == cramped_values[0]["token_ids"]
    np.testing.assert_allclose(roomy[0]["max_entropy"], cramped_values[0]["max_entropy"], atol=1e-3)


def test_not_even_one_prompt_fits(study, tiny_model, monkeypatch):
    monkeypatch.setattr(run.memory, "estimate", lambda *a: "")
    monkeypatch.setattr(Pass, "check", lambda self: None)

    def hopeless(self, batch):
        raise MemoryError

    monkeypatch.setattr(transformers.Pass, "run", hopeless)
    with pytest.raises(ScoreError, match="single prompt of .* tokens does not fit"):
        score(study, settings(tiny_model), say=lambda line: None)


def test_answers_longer_than_the_context_are_refused(study, tiny_model):
    config = ScoreConfig(model=str(tiny_model), device="cpu", max_new_tokens=510)
    with pytest.raises(ScoreError, match="leaves no room"):
        score(study, config)


def test_long_prompts_are_flagged(tmp_path, tiny_model):
    study = make_study(tmp_path / "study", ["short", "very long " * 500])
    score(study, settings(tiny_model), say=lambda line: None)
    assert study.scores()["truncated_prompt"].to_pylist() == [False, True]
    assert study.scores()["n_prompt_tokens"].to_pylist()[1] == 512 - 8


def test_prompts_are_cut_where_asked(tmp_path, tiny_model):
    study = make_study(tmp_path / "study", ["short", "very long " * 50])
    score(study, settings(tiny_model, max_prompt_tokens=64), say=lambda line: None)
    assert study.scores()["truncated_prompt"].to_pylist() == [False, True]
    assert study.scores()["n_prompt_tokens"].to_pylist()[1] == 64


def test_an_empty_pool_is_an_error(tmp_path, tiny_model):
    study = make_study(tmp_path / "study", ["one", "two"], held=2)
    with pytest.raises(ScoreError, match="pool of .* is empty"):
        score(study, settings(tiny_model))


def test_numbers_that_overflow_are_refused(study, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    hot = shutil.copytree(tiny_model, tmp_path / "hot")
    weights = load_file(hot / "model.safetensors")
    weights["model.norm.weight"] *= 1e30
    weights["lm_head.weight"] *= 1e30
    save_file(weights, hot / "model.safetensors", metadata={"format": "pt"})
    for prompt_nll in (True, False):
        with pytest.raises(ScoreError, match="not finite in float32"):
            score(study, settings(hot, prompt_nll=prompt_nll, name=f"hot-{prompt_nll}"), say=lambda line: None)


def test_a_model_that_changed_since_is_noticed(study, tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    score(study, settings(model), say=lambda line: None)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ScoreError, match="revision was"):
        score(study, settings(model))


def test_what_a_killed_run_left_is_not_taken_for_this_ones(study, tiny_model, monkeypatch):
    # Killed between plan and manifest, with other settings.
    with monkeypatch.context() as patched:
        patched.setattr(run, "write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score(study, settings(tiny_model, batch_size=16), say=lambda line: None)
    directory = study.score_directory("default")
    assert (directory / "plan.parquet").exists()
    (directory / ".embeddings.x.tmp.npy").write_bytes(b"left")
    planned = []
    original = run._run

    def spying(plan, *rest):
        planned.append(np.bincount(plan.batch).max())
        return original(plan, *rest)

    monkeypatch.setattr(run, "_run", spying)
    score(study, settings(tiny_model, batch_size=2), say=lambda line: None)
    assert planned == [2]
    assert sorted(p.name for p in directory.iterdir()) == ["embeddings.npy", "manifest.json", "scores.parquet"]
    # Killed after the scores were published, before the parts were removed.
    (directory / "parts").mkdir()
    score(study, settings(tiny_model, batch_size=2), say=lambda line: None)
    assert not (directory / "parts").exists()


def test_two_at_once_are_refused(study, tiny_model):
    with study.lock("score-default"), pytest.raises(StudyError, match="another process"):
        score(study, settings(tiny_model))


# Imports once, then forks a process for every run asked for, so that a kill costs no start-up.
FORKING = """
import os, sys
import filelock, pyarrow.parquet, rich.console, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
import thriftune.scoring.run
from thriftune.scoring import plan
from thriftune.cli.main import main
plan._PART_TOKENS = 150
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        sys.argv = ["thriftune", *line.split()]
        main()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_between_parts_and_continued_equals_uninterrupted(tmp_path, tiny_model):
    random.seed(7)
    whole = make_study(tmp_path / "whole", TEXTS)
    killed = tmp_path / "killed"
    shutil.copytree(whole.path, killed)
    options = f"--model {tiny_model} --dtype float32 --device cpu --max-new-tokens 8 --batch-size 2"
    parts = killed / "scores" / "default" / "parts"

    def finished():
        return len(list(parts.glob("[0-9]*.parquet")))

    forking = subprocess.Popen(
        [sys.executable, "-c", FORKING],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with forking:

        def start(path):
            print(f"score {path} {options}", file=forking.stdin, flush=True)
            return int(forking.stdout.readline())

        start(whole.path)
        assert int(forking.stdout.readline()) == 0
        struck = []
        for _ in range(8):
            before = finished()
            child = start(killed)
            # Wait for the first new part, then strike at a random moment before the last.
            deadline = time.monotonic() + 60
            while finished() <= before and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(random.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            if int(forking.stdout.readline()) != -signal.SIGKILL:
                break
            struck.append(finished())
        assert len(struck) >= 3, "the run was over before it could be killed"
        start(killed)
        assert int(forking.stdout.readline()) == 0
        forking.stdin.close()
    same(values(whole), values(Study(killed)))
    assert not list(killed.rglob("*.tmp*")), struck
