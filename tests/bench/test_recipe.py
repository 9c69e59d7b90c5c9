"""A bench in one file, and its command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from known_study import known_study

from thriftune.bench import recipe as recipes
from thriftune.cli.main import main
from thriftune.errors import ConfigError, StudyError

FILE = """
study = "study"
pool = "pool.jsonl"

[init]
holdout = 6

[score]
model = "{model}"
max_new_tokens = 4
dtype = "float32"
device = "cpu"

[bench]
strategies = ["k_center", "wide"]
budgets = [4]
seeds = 1
name = "first"

[bench.params.wide]
strategy = "facility_location"
gamma = 0.5

[bench.finetune]
epochs = 1
rank = 2
batch_size = 4
dtype = "float32"
device = "cpu"
"""


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["thriftune", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_one_file_does_it_all(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"p{i}", "prompt": f"What is {i} plus {i}?", "response": str(2 * i)} for i in range(26)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "held.jsonl").write_text("".join((tmp_path / "pool.jsonl").read_text().splitlines(True)[:6]))
    (tmp_path / "pool.jsonl").write_text("".join((tmp_path / "pool.jsonl").read_text().splitlines(True)[6:]))
    file = tmp_path / "bench.toml"
    own = FILE.replace("[init]\nholdout = 6", 'holdout_from = "held.jsonl"')
    file.write_text(own.format(model=tiny_model))
    assert run(monkeypatch, "bench", file, "--dry-run") == 2
    assert "first run: thriftune init" in capsys.readouterr().err and not (tmp_path / "study").exists()
    assert run(monkeypatch, "bench", file) == 0
    out = capsys.readouterr().out
    assert f"$ thriftune init {tmp_path / 'study'}" in out and "20 prompts to choose from, 6 held out" in out
    assert f"--holdout-from {tmp_path / 'held.jsonl'}" in out and "$ thriftune score" in out
    assert "k_center, wide against random at 4 annotations, 1 seed: 4 cells" in out and "next: thriftune report" in out
    assert (tmp_path / "study" / "bench" / "first" / "analysis.json").exists()
    # The study and the name are enough to go on.
    (tmp_path / "study" / "bench" / "first" / "cells" / "wide-4-seed0.parquet").unlink()
    assert run(monkeypatch, "bench", tmp_path / "study", "--name", "first") == 0
    assert "3 of 4 cells are finished already" in capsys.readouterr().out
    # Flags win over the file; the study is made only once.
    assert run(monkeypatch, "bench", file, "--strategies", "k_center", "--name", "second", "--dry-run") == 2
    assert "names no arm" in capsys.readouterr().err
    assert run(monkeypatch, "bench", file, "--budgets", "4,8") == 2
    error = capsys.readouterr()
    assert "--extend it" in error.err and "$ thriftune" not in error.out


def test_the_command_line_names_what_is_wrong(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = known_study(tmp_path / "study", tiny_model)
    for words, says in [
        (["--strategies", "k_centre"], "did you mean k_center"),
        (["--budgets", "50,x"], "budgets.1='x'"),
        (["--budgets", "500"], "budget 500 is beyond the 38 prompts"),
        (["--control", "0.2"], "goes with one strategy and one budget"),
    ]:
        assert run(monkeypatch, "bench", study.path, *words) == 2
        assert says in capsys.readouterr().err
    assert run(monkeypatch, "bench", tmp_path / "nothing") == 2
    assert "is not a study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[bench]", "names no study"),
        ('study = "s"\nseeds = 3', "unknown key 'seeds'"),
        ('study = "s"\npool = 3', "pool is 3"),
        ("study = ", "Invalid value"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bench.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        recipes.read(file)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    place = tmp_path / "inner"
    place.mkdir()
    (place / "pool.jsonl").touch()
    file = place / "bench.toml"
    file.write_text('study = "../study"\npool = ["pool.jsonl", "owner/data@train"]\n[bench]\nseeds = 4')
    recipe = recipes.read(file)
    assert recipe.study == place / "../study" and recipe.pool == (str(place / "pool.jsonl"), "owner/data@train")
    assert recipes.settings(recipe, {"items": 9}).model_dump(include={"seeds", "items"}) == {"seeds": 4, "items": 9}
    with pytest.raises(ConfigError, match="a dry run makes no study"):
        recipes.prepare(recipe, dry_run=True)
    file.write_text('study = "../study"')
    with pytest.raises(StudyError, match="is not a study"):
        recipes.prepare(recipes.read(file))


def test_the_example_is_an_experiment_that_can_be_planned() -> None:
    from thriftune.selection import registry

    file = Path(__file__).parents[2] / "examples" / "bench" / "bench.toml"
    recipe = recipes.read(file)
    config = recipes.settings(recipe, {})
    assert recipe.study == file.parent / "study" and recipe.pool == (str(file.parent / "pool.jsonl"),)
    for arm in config.strategies:
        given = dict(config.params.get(arm, {}))
        registry.get(given.pop("strategy", arm)).resolve(given)
    assert config.metric == "nll" and config.seeds == 8 and config.finetune.max_tokens == 512
