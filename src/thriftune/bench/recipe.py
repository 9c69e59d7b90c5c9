"""A bench in one TOML file: the study, or the pool that it is made of, and every setting."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftune.artifacts import read_object, reading
from thriftune.config import BenchConfig, InitConfig, ScoreConfig, resolve
from thriftune.errors import ConfigError
from thriftune.settings_file import read_toml
from thriftune.study import Study

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What a file asks for.

    Args:
        file: the TOML file.
        study: the study directory.
        pool: files or hub ids to make the study of where it does not exist yet; empty: it must exist.
        holdout_from: files or hub ids whose prompts are all held out.
    """

    file: Path
    study: Path
    pool: tuple[str, ...]
    holdout_from: tuple[str, ...] = ()


def is_recipe(path: Path) -> bool:
    """Whether an argument names a TOML file rather than a study."""
    return path.suffix.lower() == ".toml" or path.is_file()


def read(file: Path) -> Recipe:
    """Read the top level of a bench file; paths in it are relative to the file.

    Raises:
        ConfigError: it cannot be read, has unknown keys or names no study.
    """
    document = read_toml(file)
    study = document.get("study")
    if not isinstance(study, str) or not study:
        raise ConfigError(f'{file} names no study: put study = "DIRECTORY" above its first table')
    return Recipe(file, file.parent / study, _sources(file, document, "pool"), _sources(file, document, "holdout_from"))


def _sources(file: Path, document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    given = document.get(key, [])
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not all(isinstance(p, str) for p in given):
        raise ConfigError(f"{file}: {key} is {given!r}: give a file, a hub id, or a list of them")
    here = file.parent
    return tuple(str(here / p) if "/" not in p or (here / p).exists() else p for p in given)


def prepare(recipe: Recipe, *, dry_run: bool = False, say: Say = print) -> Study:
    """The recipe's study; made and scored first where the recipe names a pool and that is not done yet.

    Args:
        recipe: see `read`.
        dry_run: make nothing: say what would be made.
        say: receives the lines meant for people.

    Raises:
        ConfigError: a setting is wrong, or a dry run finds nothing to plan with.
        StudyError: there is no study and no pool to make it of.
    """
    there = (recipe.study / "study.json").exists()
    if not recipe.pool:
        return Study(recipe.study)
    scoring = resolve(ScoreConfig, "score", {}, recipe.file)
    if not there or not Study(recipe.study).score_runs():
        words = ["thriftune", "init", str(recipe.study), "--config", str(recipe.file)]
        words += [w for p in recipe.pool for w in ("--pool", p)]
        words += [w for p in recipe.holdout_from for w in ("--holdout-from", p)]
        commands = [] if there else [shlex.join(words)]
        commands.append(shlex.join(["thriftune", "score", str(recipe.study), "--config", str(recipe.file)]))
        if dry_run:
            raise ConfigError(f"a dry run makes no study: first run: {' && '.join(commands)}")
        for command in commands:
            say(f"$ {command}")
    if not there:
        from thriftune.pool.build import init

        config = resolve(InitConfig, "init", {}, recipe.file)
        made = init(recipe.study, list(recipe.pool), config, holdout_from=recipe.holdout_from)
        say(f"{made.prompts - made.holdout:,} prompts to choose from, {made.holdout:,} held out")
    study = Study(recipe.study)
    if not study.score_runs():
        from thriftune.scoring.run import score

        score(study, scoring, say=say)
    return study


def planned(study: Study, name: str | None) -> BenchConfig | None:
    """The settings of an experiment already begun; None where there is none of that name."""
    file = study.bench_directory(name or BenchConfig().name) / "plan.json"
    if not file.exists():
        return None
    with reading(file):  # pydantic's error is a ValueError
        return BenchConfig.model_validate(read_object(file, config=dict)["config"])


def settings(recipe: Recipe | None, flags: Mapping[str, Any]) -> BenchConfig:
    """Flags over the recipe's [bench] table over defaults."""
    return resolve(BenchConfig, "bench", flags, None if recipe is None else recipe.file)
