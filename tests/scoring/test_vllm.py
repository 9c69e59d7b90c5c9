"""The vLLM backend against a stand-in for vLLM's documented interface, which runs the tiny model."""

import sys
import types

import numpy as np
import pytest
from test_run import TEXTS, make_study, settings

from thriftune.artifacts import read_json
from thriftune.config import ScoreConfig
from thriftune.errors import MissingDependency
from thriftune.scoring.run import score


class Logprob:
    def __init__(self, logprob):
        self.logprob = logprob


class SamplingParams:
    def __init__(self, *, temperature, max_tokens, logprobs, prompt_logprobs):
        assert temperature == 0
        self.max_tokens, self.logprobs, self.prompt_logprobs = max_tokens, logprobs, prompt_logprobs


class LLM:
    """What vLLM's documentation says of `vllm.LLM`, one prompt after the other through transformers."""

    calls = 0

    def __init__(self, *, model, revision, dtype, trust_remote_code, max_model_len, max_logprobs, seed):
        from transformers import AutoModelForCausalLM

        assert not trust_remote_code and revision is None and seed == 0 and dtype == "float32" and max_model_len == 512
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.most = max_logprobs

    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert use_tqdm is False and sampling_params.logprobs <= self.most
        LLM.calls += 1
        return [self._one(p["prompt_token_ids"], sampling_params) for p in prompts]

    def _one(self, ids, params):
        import torch

        end, tokens, steps = self.model.generation_config.eos_token_id, [], []
        while len(tokens) < params.max_tokens and end not in tokens:
            with torch.no_grad():
                log_p = self.model(torch.tensor([[*ids, *tokens]])).logits[0].log_softmax(dim=-1)
            token = int(log_p[-1].argmax())
            top = log_p[-1].topk(params.logprobs)
            steps.append({int(i): Logprob(float(v)) for v, i in zip(top.values, top.indices, strict=True)})
            tokens.append(token)
        prompt = None
        if params.prompt_logprobs is not None:
            prompt = [None, *({int(t): Logprob(float(log_p[i, t]))} for i, t in enumerate(ids[1:]))]
        best = types.SimpleNamespace(
            token_ids=tokens, logprobs=steps, finish_reason="stop" if end in tokens else "length", text=""
        )
        return types.SimpleNamespace(outputs=[best], prompt_logprobs=prompt, prompt_token_ids=ids)


@pytest.fixture
def engine(monkeypatch):
    stand_in = types.ModuleType("vllm")
    stand_in.LLM, stand_in.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    LLM.calls = 0


def config(tiny_model, **changes):
    return ScoreConfig(backend="vllm", model=str(tiny_model), dtype="float32", max_new_tokens=8, **changes)


def test_columns_agree_with_transformers(tmp_path, tiny_model, engine):
    study = make_study(tmp_path / "study", TEXTS, held=1)
    score(study, settings(tiny_model))
    directory = score(study, config(tiny_model, name="vllm"))
    ours, theirs = study.scores("default").to_pydict(), study.scores("vllm").to_pydict()
    exact = {"id", "n_prompt_tokens", "n_steps", "truncated_prompt", "hit_limit", "response", "token_ids", "token_ends"}
    for name in exact:
        assert ours[name] == theirs[name], name
    for name in ("least_confidence", "mean_nll", "mean_margin", "min_margin", "prompt_nll"):
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-3, err_msg=name)
    for name in ("mean_entropy", "max_entropy"):
        assert (np.array(theirs[f"{name}_lower"]) <= np.array(ours[name]) + 1e-4).all()
        assert (np.array(ours[name]) <= np.array(theirs[f"{name}_upper"]) + 1e-4).all()
    assert theirs["end_scored"] == [not h for h in ours["hit_limit"]]
    manifest = read_json(directory / "manifest.json")
    assert manifest["resolved"]["vocabulary"] == 400 and manifest["ends"]["omitted"] == 0
    assert manifest["resolved"]["revision"].startswith("files-")
    score(study, config(tiny_model, name="vllm"))
    assert LLM.calls == 1


def test_all_log_probabilities_give_the_entropy_itself(tmp_path, tiny_model, engine):
    study = make_study(tmp_path / "study", TEXTS[:6])
    score(study, settings(tiny_model))
    score(study, config(tiny_model, name="vllm", top_logprobs=400, prompt_nll=False))
    ours, theirs = study.scores("default"), study.scores("vllm")
    for name in ("mean_entropy", "max_entropy"):
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-3)
        np.testing.assert_allclose(theirs[f"{name}_lower"], ours[name], atol=1e-3)
        np.testing.assert_allclose(theirs[f"{name}_upper"], ours[name], atol=1e-3)
    assert "prompt_nll" not in theirs.column_names


def test_it_goes_on_block_by_block(tmp_path, tiny_model, engine, monkeypatch):
    monkeypatch.setattr("thriftune.scoring.vllm._BLOCK", 4)
    study = make_study(tmp_path / "study", TEXTS[:12])
    whole = LLM.generate

    def dies(self, *arguments, **options):
        if LLM.calls == 2:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(LLM, "generate", dies)
    with pytest.raises(KeyboardInterrupt):
        score(study, config(tiny_model))
    LLM.calls = 0
    monkeypatch.setattr(LLM, "generate", whole)
    score(study, config(tiny_model))
    assert LLM.calls == 1 and study.scores().num_rows == 12


def test_without_vllm(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingDependency, match="pip install vllm"):
        score(make_study(tmp_path / "study", TEXTS), config(tiny_model))
    assert not (tmp_path / "study" / "scores").exists()
