"""The fast paths: prompts that are read and not answered, and one step alone; what follows works without drafts."""

import numpy as np
import pytest
from test_run import TEXTS, make_study, settings
from typer.testing import CliRunner

from thriftune import select
from thriftune.annotation.export import export
from thriftune.annotation.material import Material
from thriftune.cli.app import app
from thriftune.config import ScoreConfig
from thriftune.errors import ScoreError, StrategyError
from thriftune.report.page import write_report
from thriftune.scoring.run import score
from thriftune.scoring.transformers import Pass


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study", TEXTS, held=1)


def steps(tiny_model, count):
    return ScoreConfig(model=str(tiny_model), dtype="float32", device="cpu", max_new_tokens=count)


DRAFT = ["mean_entropy", "max_entropy", "least_confidence", "mean_nll", "mean_margin", "min_margin"]


def test_prompts_alone(study, tiny_model):
    score(study, settings(tiny_model, name="full"), say=lambda line: None)
    said = []
    score(study, only_read := steps(tiny_model, 0), say=said.append)
    assert "no answers" in said[0]
    full, table = study.scores("full"), study.scores("default")
    assert not set(DRAFT) & set(table.column_names)
    assert set(full.column_names) - set(table.column_names) == set(DRAFT)
    assert table["n_prompt_tokens"].equals(full["n_prompt_tokens"])
    np.testing.assert_allclose(table["prompt_nll"].to_pylist(), full["prompt_nll"].to_pylist(), atol=1e-3)
    np.testing.assert_allclose(study.embeddings("default"), study.embeddings("full"), atol=5e-3)
    assert set(table["n_steps"].to_pylist()) == {0} and set(table["response"].to_pylist()) == {""}
    assert not any(table["hit_limit"].to_pylist()) and not any(table["token_ends"].to_pylist())
    with pytest.raises(ScoreError, match="max_new_tokens was 0, now 8"):
        score(study, settings(tiny_model))
    score(study, only_read, say=said.append)
    assert "already scored" in said[-1]


def test_prompts_alone_serve_what_follows(study, tiny_model):
    score(study, steps(tiny_model, 0), say=lambda line: None)
    for strategy in ("prompt_nll", "k_center", "facility_location"):
        selection = select(study, strategy, 4)
        assert len(selection) == 4
        study.write_selection(strategy, selection, {"run": "default"})
    with pytest.raises(StrategyError, match="'default' read prompts without answering; run: thriftune score .* --name"):
        select(study, "mean_entropy", 4)
    write_report(study)
    page = (study.path / "report.html").read_text()
    assert "The model's draft" not in page and "Every draft" not in page
    for to in ("csv", "argilla", "label-studio"):
        export(study, study.path / f"picks.{to}", selection="k_center", to=to)
    show = Material(study, "default", drafts=True)
    show.add(study.selection("k_center")[0])
    assert show(1)["draft"] is None


def test_one_step_needs_no_cache(study, tiny_model, monkeypatch):
    score(study, settings(tiny_model, name="full"), say=lambda line: None)
    monkeypatch.setattr(Pass, "check", lambda self: None)
    monkeypatch.setattr("thriftune.scoring.cache.join", None)  # to call it would fail
    score(study, steps(tiny_model, 1), say=lambda line: None)
    one, full = study.scores("default"), study.scores("full")
    assert set(one["n_steps"].to_pylist()) == {1}
    assert one["token_ids"].to_pylist() == [t[:1] for t in full["token_ids"].to_pylist()]
    np.testing.assert_allclose(
        one["mean_entropy"].to_pylist(), [t[0] for t in full["token_entropies"].to_pylist()], atol=1e-3
    )


def test_on_the_command_line(study, tiny_model, monkeypatch):
    seen = []
    monkeypatch.setattr("thriftune.scoring.run.score", lambda study, config, **_: seen.append(config))
    given = ["score", str(study.path), "--model", str(tiny_model), "--no-generate"]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert seen[0].max_new_tokens == 0
    for wrong in (["--max-new-tokens", "4"], ["--backend", "openai", "--endpoint", "http://127.0.0.1:9/v1"]):
        assert CliRunner().invoke(app, [*given, *wrong]).exit_code != 0
    assert len(seen) == 1
