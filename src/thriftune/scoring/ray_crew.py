"""Scoring on a Ray cluster: actors hold the model and score part after part; the plan and the study stay here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thriftune.artifacts import file_digest, make_directory, provenance, write_json, write_table
from thriftune.cluster import Crew, Lost, host
from thriftune.config import ScoreConfig
from thriftune.errors import ScoreError, ThriftuneError
from thriftune.memory import batch_limits, peak
from thriftune.progress import progress
from thriftune.scoring.finish import merge_run, note_run
from thriftune.scoring.part import decisive_versions, model_of, pass_of, renderer_of, score_part
from thriftune.scoring.part_store import PartStore
from thriftune.scoring.parts import Say, check_same, whole
from thriftune.scoring.plan import Plan
from thriftune.scoring.prompts import prompts_of
from thriftune.scoring.stored_plan import stored_plan
from thriftune.types import IntArray, Prompt

if TYPE_CHECKING:
    import pyarrow as pa


class Setup(NamedTuple):
    """What an actor is made from: the run's settings as JSON values, and the driver's machine."""

    config: dict[str, Any]
    driver: str


class Facts(NamedTuple):
    """What a worker found: what it computes with, and how much a batch may hold."""

    resolved: dict[str, Any]
    versions: dict[str, str]
    limits: tuple[int, int]


class Done(NamedTuple):
    """A part: its table, unless that is at the URL; its record; GiB that the worker has used so far."""

    part: int
    table: pa.Table | None
    record: dict[str, Any]
    peak_gib: float


class Scorer:
    """Runs on a machine of the cluster."""

    def __init__(self, setup: Setup) -> None:
        self.config = ScoreConfig.model_validate(setup.config)
        self.where = "" if host() == setup.driver else f"on {host()}: "
        self.ready = False

    def facts(self) -> Facts:
        """Load the model and say what it is."""
        self._load()
        return Facts(self.lm.resolved, decisive_versions(), batch_limits(self.lm))

    def lengths(self, number: int, prompts: list[Prompt]) -> tuple[int, IntArray]:
        """Tokens of each prompt of a block."""
        self._load()
        return number, np.array([len(r.ids) for r in self.renderer.render(prompts)])

    def part(self, expected: Facts, plan: Plan, prompts: list[Prompt], digest: str) -> Done:
        """Score a part; the numbers must be made by what made the others."""
        facts = self.facts()
        for name, now in {**facts.resolved, **facts.versions}.items():
            before = {**expected.resolved, **expected.versions}.get(name)
            if now != before:
                raise ScoreError(
                    f"worker {host()} has {name} {now!r} and the run began with {before!r}: give all machines of the "
                    "cluster the same model, packages and kind of device"
                )
        number = int(plan.part[0])
        try:
            table, halved = score_part(self.scorer, self.renderer, plan, prompts, lambda tokens: None)
        except ThriftuneError as error:
            raise type(error)(self.where + str(error)) from None
        record = {"plan": digest, "part": number, "halved": halved}
        used = peak(self.lm.device)
        if self.config.parts_url is None:
            return Done(number, table, record, used)
        PartStore(self.config.parts_url, digest).put(number, table, record)
        return Done(number, None, record, used)

    def _load(self) -> None:
        if self.ready:
            return
        try:
            self.lm = model_of(self.config)
            self.renderer = renderer_of(self.lm, self.config)
            self.scorer = pass_of(self.lm, self.config)
            self.scorer.check()
        except ThriftuneError as error:
            raise type(error)(self.where + str(error)) from None
        self.ready = True


def score_on_cluster(
    directory: Path,
    config: ScoreConfig,
    manifest: dict[str, Any] | None,
    wanted: dict[str, Any],
    pool: pa.Table,
    say: Say,
    *,
    member: type = Scorer,
) -> None:
    """Score a pool with the actors of a cluster, to the same files as one machine does.

    Args:
        directory: the score run.
        config: what to run and where.
        manifest: of the run that is continued, or None.
        wanted: the new manifest's sections ``config`` and ``pool``.
        pool: see `prompts.pool_of`.
        say: receives the lines meant for people.
        member: what the actors are.

    Raises:
        ScoreError: the run was begun with something else, workers differ, or a part costs every worker its life.
        ModelError: the model cannot be loaded or lacks what was asked for.
        ClusterError: there is no cluster, or its workers do not start.
    """
    assert config.ray is not None
    sent = config.model_dump(mode="json", exclude_unset=True)
    if Path(config.model).exists():  # workers have another working directory
        sent["model"] = str(Path(config.model).resolve())
    setup = Setup(sent, host())
    with Crew(member, setup, config.ray, config.workers, command="thriftune score --ray", say=say) as crew:
        facts = _first(crew)
        if manifest is not None:
            check_same(manifest, {"resolved": facts.resolved, "versions": facts.versions}, directory)
        make_directory(directory)  # not before: a model that cannot be used leaves nothing behind

        def measure(blocks: Iterable[tuple[int, list[Prompt]]]) -> Iterator[tuple[int, IntArray]]:
            return (_kept(value) for _, value in crew.outcomes(("lengths", *block) for block in blocks))

        plan, lengths = stored_plan(pool, config, directory, lambda: facts.limits, measure)
        if manifest is None:
            origin = provenance()
            origin["versions"] |= facts.versions
            counts = {"prompts": pool.num_rows, "distinct": len(plan.rows)}
            manifest = {**wanted, "resolved": facts.resolved, **counts, **origin}
            write_json(directory / "manifest.json", manifest)
        digest = file_digest(directory / "plan.parquet")
        store = None if config.parts_url is None else PartStore(config.parts_url, digest)
        _run(crew, facts, plan, digest, lengths, pool, config, directory, store, manifest, say)
    merge_run(directory, manifest, plan, pool, say)
    if store is not None:
        store.remove()


def _first(crew: Crew) -> Facts:
    for _, value in crew.outcomes([("facts",)]):
        facts: Facts = _kept(value)
    return facts


def _kept(value: Any) -> Any:
    if isinstance(value, Lost):
        raise ScoreError(f"worker after worker was lost ({value.why}): the same command continues")
    return value


def _run(
    crew: Crew,
    facts: Facts,
    plan: Plan,
    digest: str,
    lengths: IntArray,
    pool: pa.Table,
    config: ScoreConfig,
    directory: Path,
    store: PartStore | None,
    manifest: dict[str, Any],
    say: Say,
) -> None:
    parts = directory / "parts"
    make_directory(parts)
    if store is not None:
        store.fetch(parts)
    missing = [p for p in range(plan.parts) if not whole(parts / f"{p:06d}.parquet", digest, say)]
    work = lengths + config.max_new_tokens
    by_part = np.bincount(plan.part, work, plan.parts)
    left = float(by_part[missing].sum())
    say(
        f"to do: {int(np.isin(plan.part, missing).sum()):,} distinct prompts, at most {left:,.0f} tokens in "
        f"{len(missing):,} parts, workers: up to {crew.workers}, with {config.model} on "
        f"{facts.resolved['device']} in {facts.resolved['dtype']}"
    )

    def tasks() -> Iterator[tuple[Any, ...]]:
        for part in missing:
            mine = plan.only(part)
            yield "part", facts, mine, prompts_of(pool.take(mine.rows)), digest

    began = time.monotonic()
    used, lost = 0.0, ""
    with progress("scoring", float(work.sum()), "tokens", float(work.sum()) - left) as advance:
        for number, value in crew.outcomes(tasks()):
            if isinstance(value, Lost):
                lost = lost or f"part {missing[number]} ({value.why})"
                continue
            if value.table is not None:
                write_table(parts / f"{value.part:06d}.parquet", value.table, value.record)
            used = max(used, value.peak_gib)
            advance(float(by_part[value.part]))
    if lost:
        raise ScoreError(
            f"every worker that scored {lost} was lost, the other parts are done: if memory ran out, use fewer "
            "--workers or --dtype bfloat16; the same command continues"
        )
    if store is not None:
        store.fetch(parts)
    if missing:
        seconds = time.monotonic() - began
        note_run(manifest, plan, work, missing, seconds, used, say, workers=crew.workers)
