"""The plan of an experiment: drawn and checked, so that whatever can be refused is refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thriftune.artifacts import file_digest, read_object
from thriftune.bench import design
from thriftune.bench.design import Arm, Cell, Known, own_score
from thriftune.config import BenchConfig, EvaluateConfig
from thriftune.errors import BenchError
from thriftune.model import local_revision
from thriftune.selection import registry
from thriftune.study import Study
from thriftune.types import IntArray


@dataclass(frozen=True)
class Plan:
    """An experiment, drawn and checked; nothing has run.

    Args:
        config: as asked for.
        arms: random first.
        cells: seed by seed, without those already finished or not.
        known: the prompts that take part.
        pools: seed -> rows of the study's candidates.
        items: seed -> held-out prompts, by id; empty without the task ``heldout``.
        model: ``spec``, ``revision`` (None where only loading tells), ``trust_remote_code``.
        inputs: digests of pool, responses and score runs.
        metrics: what cells measure; of a benchmark only that it is one.
        warnings: what to look at.
    """

    config: BenchConfig
    arms: list[Arm]
    cells: list[Cell]
    known: Known
    pools: Mapping[int, IntArray]
    items: Mapping[int, list[str]]
    model: Mapping[str, Any]
    inputs: Mapping[str, Any]
    metrics: list[str]
    warnings: list[str]

    @property
    def seeds(self) -> list[int]:
        return design.seeds_of(self.config, design.RANDOM)


def make(study: Study, config: BenchConfig) -> Plan:
    """Draw and check an experiment.

    Raises:
        BenchError: it is impossible with this study.
        StrategyError: a strategy or parameter is unknown.
        StudyError: the score run is not there.
    """
    known = design.known(study, config.annotations)
    arms = design.arms(study, config)
    check_needs(study, arms)
    model = model_of(study, config)
    seeds = design.seeds_of(config, design.RANDOM)
    pools = {seed: design.draw_pool(known, config.subsample, seed) for seed in seeds}
    smallest = min(len(rows) for rows in pools.values())
    most = max(config.budgets)
    if most > smallest:
        lacking = f" ({known.without:,} more have no known response)" if known.without else ""
        raise BenchError(
            f"budget {most:,} is beyond the {smallest:,} prompts that a seed draws from: subsample "
            f"{config.subsample:g} of {len(known.rows):,} with a known response{lacking}; give smaller budgets or a "
            "larger subsample"
        )
    items: dict[int, list[str]] = {seed: [] for seed in seeds}
    own, benchmarks = design.tasks_of(config)
    metrics = _measured(config, own, benchmarks)
    if own:
        if not known.held:
            raise BenchError(
                f"{study.path} has no held-out prompts with a known response ({config.annotations}): make the study "
                f"again with: thriftune init {study.quoted} --holdout N --pool FILE"
            )
        items = {seed: design.draw_items(known.held, config.items, seed) for seed in seeds}
    runs = sorted({arm.run for arm in arms if arm.run is not None})
    inputs = {
        "pool": file_digest(study.pool_file),
        "responses": design.digest(sorted(known.responses.items())),
        "scores": {run: file_digest(study.score_directory(run) / "scores.parquet") for run in runs},
    }
    cells = design.cells(config, [arm.name for arm in arms])
    warnings = list(model["warnings"])
    if most * 2 > smallest:
        warnings.append(
            f"budget {most:,} is more than half of the {smallest:,} prompts drawn from: all arms then train on largely "
            "the same prompts, and differences shrink"
        )
    return Plan(config, arms, cells, known, pools, items, model, inputs, metrics, warnings)


def _measured(config: BenchConfig, own: bool, benchmarks: list[str]) -> list[str]:
    """What cells will measure; tasks, a scorer or a metric that none could are refused.

    Raises:
        BenchError: nothing is measured, or not the declared metric.
        EvaluationError: an unknown benchmark or scorer.
    """
    if not own and not benchmarks:
        raise BenchError(f"tasks is {config.tasks!r}: give heldout, benchmarks such as mmlu, or both")
    if benchmarks:
        from thriftune.evaluation.harness import task_names

        task_names(benchmarks, EvaluateConfig(data=config.data, num_fewshot=config.num_fewshot))
    measured = {"nll"} if own else set()
    if own and config.scorer is not None:
        from thriftune.evaluation.scorers import load_scorer

        measured |= {load_scorer(config.scorer)[0]}
    if own and (config.generate or config.scorer is not None):
        measured |= {"exact_match", "rouge_l"}
    if own and not benchmarks and config.metric not in measured:
        raise BenchError(
            f"metric {config.metric!r} would not be measured (there: {', '.join(sorted(measured))}): exact_match, "
            "rouge_l and scorers need --generate"
        )
    return [*sorted(measured), *benchmarks]


def check_needs(study: Study, arms: list[Arm]) -> None:
    """Refuse arms whose strategy needs a column that their score run does not have.

    Raises:
        BenchError: naming the arm and the column.
    """
    for arm in arms:
        chosen = registry.get(arm.strategy)
        needs = chosen.needed(chosen.resolve({k: v for k, v in arm.params.items() if k in chosen.parameters}))
        candidates = study.candidates(arm.run, embeddings=False, score=own_score(arm))
        for need in needs:
            column, _, score = need.partition(":")
            if column == "embeddings":
                there = arm.run is not None and (study.score_directory(arm.run) / "embeddings.npy").exists()
            elif column == "scores":
                there = score in candidates.scores if score else bool(candidates.scores)
            else:
                there = getattr(candidates, column) is not None
            if not there:
                what = f"score {score!r}" if score else column
                advice = f"run: thriftune score {study.quoted}" if column != "tasks" else "leave it out"
                raise BenchError(f"arm {arm.name!r} needs {what}, which this study does not have: {advice}")


def model_of(study: Study, config: BenchConfig) -> dict[str, Any]:
    """The model that is fine-tuned: the one asked for, else the one that scored.

    Raises:
        BenchError: neither is there.
    """
    asked = config.finetune
    scored: dict[str, Any] = {}
    if config.run is not None or study.score_runs():
        manifest = study.score_directory(study.score_run(config.run)) / "manifest.json"
        scored = read_object(manifest, config=dict) if manifest.exists() else {}
    scorer = scored.get("config", {}).get("model")
    if asked.model is None and scorer is None:
        raise BenchError(
            f"nothing says which model to fine-tune: run: thriftune score {study.quoted}, or set model in "
            "[bench.finetune]"
        )
    spec = asked.model or scorer
    local = local_revision(spec)
    stored = scored.get("resolved", {})
    revision, warnings = local or asked.revision, []
    if asked.model is None and local is None and asked.revision is None:
        revision = stored.get("revision")
    elif asked.model is None and local is not None and stored.get("revision") not in (None, local):
        warnings.append(f"the files of {spec} have changed since they scored the pool")
    if scorer is not None and scorer != spec:
        warnings.append(f"the pool was scored with {scorer}, what is fine-tuned is {spec}")
    return {
        "spec": spec,
        "revision": revision,
        "local": local is not None,
        # Never because the study says so: it may come from somebody else.
        "trust_remote_code": asked.trust_remote_code,
        "scored_in": stored.get("dtype"),
        "warnings": warnings,
    }
