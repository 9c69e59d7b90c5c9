"""`thriftune score`: plan, estimate, run part by part, merge. The same command continues an interrupted run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.artifacts import (
    file_digest,
    make_directory,
    provenance,
    read_object,
    write_json,
    write_table,
)
from thriftune.config import ScoreConfig
from thriftune.endpoint import Agree
from thriftune.memory import batch_limits, peak
from thriftune.model import LanguageModel, local_revision
from thriftune.progress import progress
from thriftune.render import Renderer
from thriftune.scoring import memory
from thriftune.scoring.elsewhere import score_elsewhere
from thriftune.scoring.finish import merge_run, note_run
from thriftune.scoring.part import decisive_versions, model_of, pass_of, renderer_of, score_part
from thriftune.scoring.parts import UNFINISHED, Say, check_same, tidy, whole
from thriftune.scoring.plan import Plan
from thriftune.scoring.prompts import pool_of, prompts_of
from thriftune.scoring.ray_crew import score_on_cluster
from thriftune.scoring.stored_plan import stored_plan
from thriftune.study import Study
from thriftune.types import IntArray, Prompt

if TYPE_CHECKING:
    import pyarrow as pa


def score(study: Study, config: ScoreConfig, *, agree: Agree = lambda _: True, say: Say = print) -> Path:
    """Run the model once over the pool: uncertainty of its own answers, drafts and embeddings.

    Args:
        study: an initialised study.
        config: what to run and how.
        agree: is shown in advance what a server would cost, and may say no.
        say: receives the lines meant for people.

    Returns:
        The score run's directory, complete.

    Raises:
        ScoreError: the run exists with other settings, or not even one prompt fits into memory.
        ModelError: the model cannot be loaded or lacks what was asked for.
        ClusterError: there is no cluster, or its workers do not start.
        EndpointError: the server cannot be used, or some prompts have no scores yet.
    """
    directory = study.score_directory(config.name)
    with study.lock(f"score-{config.name}"):
        wanted = {"config": config.identity(), "pool": file_digest(study.pool_file)}
        manifest_file = directory / "manifest.json"
        manifest = read_object(manifest_file, config=dict, prompts=int) if manifest_file.exists() else None
        if manifest is not None:
            check_same(manifest, wanted, directory)
            if (directory / "scores.parquet").exists():
                revision = None if config.backend == "openai" else local_revision(config.model)
                if revision is not None:
                    check_same(manifest, {"resolved": {"revision": revision}}, directory)
                tidy(directory)
                say(f"{config.name}: already scored ({manifest['prompts']:,} prompts); nothing to do")
                return directory
        # A plan without a manifest is of a run that was killed before it began, maybe with other settings.
        tidy(directory, UNFINISHED if manifest is None else UNFINISHED[:1])
        pool = pool_of(study)
        if config.backend != "transformers":
            score_elsewhere(directory, config, manifest, wanted, pool, agree=agree, say=say)
            return directory
        if config.ray is not None:
            score_on_cluster(directory, config, manifest, wanted, pool, say)
            return directory
        lm = model_of(config)
        if manifest is not None:
            check_same(manifest, {"resolved": lm.resolved, "versions": decisive_versions()}, directory)
        renderer = renderer_of(lm, config)
        make_directory(directory)  # not before: a model that cannot be used leaves nothing behind

        def measure(blocks: Iterable[tuple[int, list[Prompt]]]) -> Iterator[tuple[int, IntArray]]:
            return ((number, np.array([len(r.ids) for r in renderer.render(b)])) for number, b in blocks)

        plan, lengths = stored_plan(pool, config, directory, lambda: batch_limits(lm), measure)
        if manifest is None:
            manifest = {
                **wanted,
                "resolved": lm.resolved,
                "prompts": pool.num_rows,
                "distinct": len(plan.rows),
                **provenance(),
            }
            write_json(manifest_file, manifest)
        _run(plan, lengths, pool, renderer, lm, config, directory, manifest, say)
        merge_run(directory, manifest, plan, pool, say)
    return directory


def _run(
    plan: Plan,
    lengths: IntArray,
    pool: pa.Table,
    renderer: Renderer,
    lm: LanguageModel,
    config: ScoreConfig,
    directory: Path,
    manifest: dict[str, Any],
    say: Say,
) -> None:
    parts = directory / "parts"
    parts.mkdir(exist_ok=True)
    plan_digest = file_digest(directory / "plan.parquet")
    missing = [p for p in range(plan.parts) if not whole(parts / f"{p:06d}.parquet", plan_digest, say)]
    scorer = pass_of(lm, config)
    work = lengths + config.max_new_tokens
    left = int(work[np.isin(plan.part, missing)].sum())
    if missing:
        scorer.check()
        say(memory.estimate(plan, lengths, scorer, missing))
    began = time.monotonic()
    with progress("scoring", float(work.sum()), "tokens", float(work.sum() - left)) as advance:
        for part in missing:
            mine = plan.only(part)
            table, halved = score_part(scorer, renderer, mine, prompts_of(pool.take(mine.rows)), advance)
            record = {"plan": plan_digest, "part": part, "halved": halved}
            write_table(parts / f"{part:06d}.parquet", table, record)
    seconds = time.monotonic() - began
    if missing:
        note_run(manifest, plan, work, missing, seconds, peak(lm.device), say)
