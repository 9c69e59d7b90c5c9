"""`thriftune score`: plan, estimate, run part by part, merge. The same command continues an interrupted run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.artifacts import (
    file_digest,
    make_directory,
    provenance,
    read_object,
    read_record,
    read_table,
    write_json,
    write_table,
)
from thriftune.config import ScoreConfig
from thriftune.endpoint import Agree
from thriftune.errors import ScoreError, StudyError
from thriftune.memory import batch_limits, peak
from thriftune.model import LanguageModel, load, local_revision
from thriftune.progress import progress
from thriftune.render import Renderer
from thriftune.scoring import memory
from thriftune.scoring.columns import merge, part_table
from thriftune.scoring.elsewhere import score_elsewhere
from thriftune.scoring.parts import UNFINISHED, Gathered, Say, check_same, tidy, whole
from thriftune.scoring.plan import Plan, make_plan
from thriftune.scoring.prompts import distinct, pool_of, prompts_of
from thriftune.scoring.transformers import Answer, Pass, overflow
from thriftune.study import Study
from thriftune.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

_RENDERED = 4096  # prompts rendered at once


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
        lm = load(
            config.model,
            revision=config.revision,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
        )
        resolved = {"revision": lm.revision, "dtype": lm.dtype, "device": lm.device.partition(":")[0]}
        origin = provenance()
        if manifest is not None:
            # What computes must not change between the parts of one run.
            versions = {k: v for k, v in origin["versions"].items() if k in {"torch", "transformers", "tokenizers"}}
            check_same(manifest, {"resolved": resolved, "versions": versions}, directory)
        renderer = _renderer(lm, config)
        make_directory(directory)  # not before: a model that cannot be used leaves nothing behind
        plan, lengths = _plan(pool, renderer, config, directory, lm)
        if manifest is None:
            manifest = {
                **wanted,
                "resolved": resolved,
                "prompts": pool.num_rows,
                "distinct": len(plan.rows),
                **origin,
            }
            write_json(manifest_file, manifest)
        _run(plan, lengths, pool, renderer, lm, config, directory, manifest, say)
        scored = Gathered([directory / "parts" / f"{p:06d}.parquet" for p in range(plan.parts)], plan.rows)
        made = {k: v for k, v in manifest.items() if k != "run"}
        merge(directory, scored, scored, pool["id"], pool["group"].to_numpy(), made)
        tidy(directory)
    return directory


def _renderer(lm: LanguageModel, config: ScoreConfig) -> Renderer:
    limit = min(lm.context - config.max_new_tokens, config.max_prompt_tokens or lm.context)
    if limit < 8:
        raise ScoreError(
            f"--max-new-tokens {config.max_new_tokens} leaves no room in the model's context of {lm.context}"
        )
    return Renderer(lm.tokenizer, limit)


def _plan(
    pool: pa.Table, renderer: Renderer, config: ScoreConfig, directory: Path, lm: LanguageModel
) -> tuple[Plan, IntArray]:
    """The stored plan of an interrupted run, or a new one; and the tokens of each prompt in the plan's order."""
    import pyarrow as pa

    file = directory / "plan.parquet"
    rows = distinct(pool)
    if file.exists():
        columns = dict.fromkeys(("row", "batch", "part", "tokens"), "int64")
        stored = read_table(file, list(columns), types=columns)
        plan = Plan(*(stored[c].to_numpy() for c in ("row", "batch", "part")))
        if not np.array_equal(np.sort(plan.rows), np.sort(rows)) or (np.diff(plan.part) < 0).any():
            raise StudyError(f"{file} does not belong to this pool: remove {directory} and score again")
        return plan, stored["tokens"].to_numpy()
    lengths = np.empty(len(rows), np.int64)
    with progress("measuring prompts", len(rows)) as advance:
        for start in range(0, len(rows), _RENDERED):
            # Only lengths are kept; the tokens of a million prompts would not fit, and are cheap to make again.
            block = renderer.render(prompts_of(pool.take(rows[start : start + _RENDERED])))
            lengths[start : start + len(block)] = [len(r.ids) for r in block]
            advance(len(block))
    tokens, most = batch_limits(lm)
    plan = make_plan(
        rows,
        lengths,
        pool["id"].take(rows).to_pylist(),
        new_tokens=config.max_new_tokens,
        batch_size=None if config.batch_size == "auto" else config.batch_size,
        batch_tokens=tokens,
        most_prompts=most,
    )
    by_row = np.argsort(rows)
    lengths = lengths[by_row[np.searchsorted(rows, plan.rows, sorter=by_row)]]
    table = pa.table({"row": plan.rows, "batch": plan.batch, "part": plan.part, "tokens": lengths})
    write_table(file, table, provenance(batch_tokens=tokens, most_prompts=most))
    return plan, lengths


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
    scorer = Pass(
        lm,
        max_new_tokens=config.max_new_tokens,
        layers=config.layer,
        pooling=config.pooling,
        prompt_nll=config.prompt_nll,
    )
    work = lengths + config.max_new_tokens
    left = int(work[np.isin(plan.part, missing)].sum())
    if missing:
        scorer.check()
        say(memory.estimate(plan, lengths, scorer, missing))
    began = time.monotonic()
    with progress("scoring", float(work.sum()), "tokens", float(work.sum() - left)) as advance:
        for part in missing:
            inside = np.flatnonzero(plan.part == part)
            rows = plan.rows[inside]
            rendered = renderer.render(prompts_of(pool.take(rows)))
            answers: list[Answer] = []
            halved: list[int] = []
            for batch in plan.batches(part):
                scored, split = memory.run_halving(scorer, rendered[batch[0] - inside[0] : batch[-1] + 1 - inside[0]])
                answers += scored
                if split:
                    halved.append(int(plan.batch[batch[0]]))
                advance(float(work[batch].sum()))
            _check_finite(answers, lm)
            table = part_table(rows, rendered, answers, lm.tokenizer)
            record = {"plan": plan_digest, "part": part, "halved": halved}
            write_table(parts / f"{part:06d}.parquet", table, record)
    seconds = time.monotonic() - began
    if missing:
        count = int(np.isin(plan.part, missing).sum())
        backed_off = [b for p in range(plan.parts) for b in read_record(parts / f"{p:06d}.parquet")["halved"]]
        manifest["backed_off"] = backed_off
        manifest["run"] = {
            "seconds": round(seconds, 2),
            "prompts_scored": count,
            "prompts_per_minute": round(count / max(seconds, 1e-9) * 60, 1),
            "tokens_per_second": round(left / max(seconds, 1e-9), 1),
            "peak_memory_gib": round(peak(lm.device), 2),
        }
        write_json(directory / "manifest.json", manifest)
        run = manifest["run"]
        say(
            f"scored {count:,} prompts in {seconds / 60:.1f} min: {run['prompts_per_minute']:,.0f} prompts/min, "
            f"{run['tokens_per_second']:,.0f} tokens/s, peak memory {run['peak_memory_gib']} GiB"
        )
        if backed_off:
            say(f"{len(backed_off)} batches did not fit into memory and were halved")


def _check_finite(answers: list[Answer], lm: LanguageModel) -> None:
    for a in answers:
        numbers = [*a.entropy, *a.nll, *a.margin, 0.0 if a.prompt_nll is None else a.prompt_nll]
        if not (np.isfinite(numbers).all() and np.isfinite(a.embedding).all()):
            raise ScoreError(overflow(lm))
