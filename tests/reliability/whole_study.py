"""A small study with every artifact that a stage writes, made in a moment; and what reads them."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from thriftune.annotation.export import export
from thriftune.artifacts import file_digest, read_json, read_record, read_table, write_json, write_table
from thriftune.bench import plan as plans
from thriftune.bench import recipe, record
from thriftune.config import BenchConfig, EvaluateConfig, FinetuneConfig, ScoreConfig, SelectConfig
from thriftune.evaluation import judge, present, subject
from thriftune.evaluation.judgements import Judgement, JudgementFile
from thriftune.evaluation.parts import Kept, Part
from thriftune.finetuning import run as finetuning
from thriftune.model import fingerprint
from thriftune.overview import overview
from thriftune.report.page import write_report
from thriftune.scoring.run import score
from thriftune.selection.store import choose, load
from thriftune.study import Study
from thriftune.types import Annotation, Selection

sys.path += [str(Path(__file__).parents[1] / stage) for stage in ("bench", "report")]

from known_study import known_study, settings
from measured import write_bench, write_evaluation, write_model

_SCORED = ScoreConfig(model="nowhere", dtype="float32", device="cpu")


def make(root: Path, model: Path) -> Study:
    """The study; ``model`` is what it says it was scored with."""
    study, revision = known_study(root, model), fingerprint(model)
    scored = _SCORED.model_copy(update={"model": str(model)}).model_dump()
    scores = study.score_directory("default") / "scores.parquet"
    table = read_table(scores)
    write_table(scores, table.append_column("mean_nll", table["mean_entropy"]), read_record(scores))
    file = study.score_directory("default") / "manifest.json"
    resolved = {"revision": revision, "dtype": "float32", "device": "cpu"}
    details = {"config": scored, "pool": file_digest(study.pool_file), "resolved": resolved, "prompts": 48}
    write_json(file, {**read_json(file), **details})
    ids = study.pool(["id"])["id"].to_pylist()
    rows = np.arange(10)
    chosen = Selection(np.array(ids[:10], object), rows, np.linspace(1, 0, 10), "k_center", 10, 0)
    study.write_selection("first", chosen, {"run": "default", "warnings": [], "summary": {}})
    study.annotations.add([Annotation(i, f"answer {i}", "ann", seconds=3.0) for i in ids[:8]])
    write_bench(study, "old", budgets=(50, 100), seeds=2)
    base = {"model": str(model), "revision": revision}
    write_model(study, "first", selection="first", config={"method": "lora", "model": str(model)}, base=base)
    tuned = study.model_directory("first") / "model"
    tuned.mkdir()
    (tuned / "config.json").write_text("{}")
    for name in ("base", "first"):
        write_evaluation(study, name, revision=revision, dtype="float32", base={"revision": revision}, parts=[])
    verdict = Judgement("k", ids[0], "m", "t", "base", "first", "first", "A", "stop", 9, 1, 1, "2026-01-01")
    judged = JudgementFile(study.path / "evaluations" / "base-vs-first.judgements.parquet")
    judged.add(verdict)
    result = {"a": "base", "b": "first", "judge": "m", "items": 1, "wins": 1, "ties": 0, "losses": 0}
    judged.finish({"result": result})
    judged.add(verdict)
    config = settings()
    plan = plans.make(study, config)
    loaded = {"revision": revision, "dtype": "float32", "device": "cpu"}
    write_json(study.bench_directory("bench") / "plan.json", record.record_of(plan, loaded, {}))
    return study


def readers(root: Path) -> dict[str, Callable[[], Any]]:
    """What reads a study's artifacts, by what a user would call it."""
    console = Console(file=io.StringIO(), width=100)

    def bench() -> None:
        found = Study(root)
        stored = record.read_plan(found.bench_directory("bench") / "plan.json")
        record.same(stored, plans.make(found, settings()), found.bench_directory("bench"), extend=False)
        record.check_computes(stored, "bench")

    def continued() -> BenchConfig | None:
        return recipe.planned(Study(root), "bench")

    def evaluated() -> None:
        kept = Kept(Study(root).evaluation_file("first"), {"revision": "files-0"})
        kept.has(Part("heldout", "heldout", {}))
        present.show(Study(root), Study(root).evaluation_file("first"), console)

    def tuned() -> None:
        found = Study(root)
        finetuning._base(found, FinetuneConfig())
        directory = found.model_directory("first")
        finetuning._check_same(directory / "manifest.json", {"config": {"method": "lora"}}, directory)

    def judged() -> None:
        found = Study(root)
        judge._answers(found, "first", lambda _: None)
        JudgementFile(root / "evaluations" / "base-vs-first.judgements.parquet").read()

    def scored() -> None:
        model = read_json(root / "model.json")
        score(Study(root), _SCORED.model_copy(update={"model": model}), say=lambda _: None)

    return {
        "status": lambda: overview(Study(root)),
        "report": lambda: write_report(root),
        "export": lambda: export(Study(root), root.parent / "out.csv", selection="first", force=True),
        "select": lambda: choose(Study(root), SelectConfig(strategy="k_center", budget="4", name="new")),
        "load": lambda: load(Study(root), "first"),
        "prompts": lambda: Study(root).prompts(Study(root).pool(["id"], split=None)["id"].to_pylist()),
        "responses": lambda: Study(root).responses("human,reference"),
        "bench": bench,
        "continued": continued,
        "evaluate": evaluated,
        "subject": lambda: subject.choose(Study(root), EvaluateConfig()),
        "base": lambda: subject.choose(Study(root), EvaluateConfig(model="base")),
        "finetune": tuned,
        "judge": judged,
        "score": scored,
    }
