"""`thriftune finetune`: flags, TOML, errors in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from thriftune.cli import finetune
from thriftune.config import FinetuneConfig
from thriftune.errors import ConfigError
from thriftune.study import Study


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> tuple[typer.Typer, list[FinetuneConfig]]:
    from thriftune.finetuning import run

    asked: list[FinetuneConfig] = []

    def noted(study: Study, config: FinetuneConfig, **_: Any) -> Path:
        asked.append(config)
        return study.model_directory("made")

    monkeypatch.setattr(run, "finetune", noted)
    app = typer.Typer()
    app.command()(finetune.command)
    return app, asked


def test_flags_win_over_toml(app: tuple[typer.Typer, list[FinetuneConfig]], small_study: Study, tmp_path: Path) -> None:
    toml = tmp_path / "lora.toml"
    toml.write_text('[finetune]\nrank = 8\nlearning_rate = 1e-3\ntarget_modules = "q_proj"\n')
    flags = ["--rank", "4", "--epochs", "2.5", "--merge", "--config", str(toml)]
    result = CliRunner().invoke(app[0], [str(small_study.path), *flags], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"next: thriftune evaluate {small_study.path} --model made" in result.output
    (config,) = app[1]
    assert (config.rank, config.learning_rate, config.epochs, config.merge) == (4, 1e-3, 2.5, True)
    assert (config.target_modules, config.batch_size, config.annotations) == ("q_proj", 16, "human")


@pytest.mark.parametrize("flags", [["--learning-rate", "fast"], ["--rank", "0"], ["--method", "magic"]])
def test_impossible_values(app: tuple[typer.Typer, list[FinetuneConfig]], small_study: Study, flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=flags[0].removeprefix("--").replace("-", "_")):
        CliRunner().invoke(app[0], [str(small_study.path), *flags], catch_exceptions=False)
