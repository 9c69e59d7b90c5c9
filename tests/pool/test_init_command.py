"""`thriftune init` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from thriftune.cli import init
from thriftune.errors import ConfigError
from thriftune.study import Study


def run(*arguments: str | Path) -> str:
    app = typer.Typer()
    app.command()(init.command)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split())


def pool(path: Path, *prompts: str, **extra: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": p, **extra}) + "\n" for p in prompts), encoding="utf-8")
    return path


def test_the_report(tmp_path: Path) -> None:
    source = pool(tmp_path / "a.jsonl", "Why [red]?", "Why [red]?", "why [RED] ?", "", "How?", response="So", task="t")
    out = run(tmp_path / "study", "--pool", source, "--holdout", "1")
    assert f"{source}: 4 prompts, 1 row rejected" in out
    assert "understood as plain text (prompt); response: response; task: task" in out
    assert "prompts 4: 3 to choose from, 1 held out" in out
    assert "characters median 10" in out
    assert "duplicates 1 repeat another prompt exactly; 1 more are near duplicates" in out
    assert "4 known responses, kept as references: hidden from scoring and selection" in out
    assert f"empty prompt: 1, at {source}:4 (prompt is empty)" in out
    assert out.endswith(f"Next: thriftune score {tmp_path / 'study'}")


def test_annotated_responses_are_said_to_count(tmp_path: Path) -> None:
    source = pool(tmp_path / "a.jsonl", "Why?", "How?", response="So")
    out = run(tmp_path / "study", "--pool", source, "--response-as", "annotated")
    assert "2 final answers imported: they count as annotated" in out
    assert f"Next: thriftune finetune {tmp_path / 'study'} --model MODEL" in out
    assert "rejected 0 rows (no empty prompt, no broken row)" in out


def test_files_after_the_option_and_repeated_options(tmp_path: Path) -> None:
    files = [pool(tmp_path / f"{name}.jsonl", f"prompt {name}") for name in "abc"]
    run(tmp_path / "study", "--pool", files[0], files[1], "--pool", files[2])
    assert len(Study(tmp_path / "study").pool()) == 3


def test_flags_win_over_toml(tmp_path: Path) -> None:
    source = pool(tmp_path / "a.jsonl", *(f"prompt number {i}" for i in range(20)))
    settings = tmp_path / "thriftune.toml"
    settings.write_text("[init]\nholdout = 5\nseed = 9\n", encoding="utf-8")
    run(tmp_path / "study", "--pool", source, "--config", settings, "--holdout", "3")
    config = Study(tmp_path / "study").record["config"]
    assert (config["holdout"], config["seed"], config["strict"]) == (3, 9, False)
    settings.write_text("[init]\nholdoot = 5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown setting 'holdoot'"):
        run(tmp_path / "other", "--pool", source, "--config", settings)
