"""What every arm chose from every seed's pool: made before the first training, kept beside the plan."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from thriftune.artifacts import provenance, read_record, read_table, reading, write_table
from thriftune.bench.design import Arm, Pick, candidates_of, digest, own_score, pick, seeds_of
from thriftune.bench.plan import Plan
from thriftune.errors import StudyError, ThriftuneError
from thriftune.progress import progress
from thriftune.study import Study
from thriftune.types import Candidates

Chosen = dict[tuple[str, int], dict[int, Pick]]
Failed = dict[tuple[str, int], str]


def picks_file(directory: Path, arm: str, seed: int) -> Path:
    return directory / "picks" / f"{arm}-seed{seed}.parquet"


def choose(study: Study, plan: Plan, directory: Path) -> tuple[Chosen, Failed]:
    """Let every arm choose at every budget from the pool of each of its seeds; what is on file is not chosen again.

    Args:
        study: of the pool and the scores.
        plan: arms, budgets, seeds and pools.
        directory: of the bench.

    Returns:
        Picks by arm and seed, then budget; and what went wrong by arm and seed.
    """
    chosen: Chosen = {}
    failed: Failed = {}
    # Arms that follow others come after them; those of one score run together, since its embeddings may be large.
    order = sorted(plan.arms, key=lambda arm: (bool(arm.follows), arm.run or ""))
    candidates = functools.lru_cache(maxsize=1)(functools.partial(candidates_of, study))
    budgets = plan.config.budgets
    total = sum(len(seeds_of(plan.config, arm.name)) for arm in order)
    with progress("selecting", total, "selections") as advance:
        for arm in order:
            for seed in seeds_of(plan.config, arm.name):
                file = picks_file(directory, arm.name, seed)
                key = request(plan, arm, seed)
                found = _stored(file, key)
                missing = [budget for budget in budgets if budget not in found]
                broken = next((other for other in arm.follows.values() if (other, seed) in failed), None)
                if broken is not None:
                    failed[arm.name, seed] = f"it follows arm {broken!r}, which failed"
                elif missing:
                    followed = {other: chosen[other, seed] for other in arm.follows.values()}
                    ask = functools.partial(_pick, candidates, plan, arm, missing, seed, followed)
                    outcome = _attempt(ask)
                    if isinstance(outcome, str):
                        failed[arm.name, seed] = outcome
                    else:
                        found.update(outcome)
                        write(directory, plan, arm, seed, found)
                if (arm.name, seed) not in failed:
                    chosen[arm.name, seed] = {budget: found[budget] for budget in budgets}
                advance(1)
    return chosen, failed


def _pick(
    candidates: Callable[[str | None, str | None], Candidates],
    plan: Plan,
    arm: Arm,
    budgets: list[int],
    seed: int,
    followed: Mapping[str, Mapping[int, Pick]],
) -> dict[int, Pick]:
    return pick(candidates(arm.run, own_score(arm)).take(plan.pools[seed]), arm, budgets, seed, followed)


def _attempt(select: Callable[[], dict[int, Pick]]) -> dict[int, Pick] | str:
    try:
        return select()
    except ThriftuneError as error:
        return str(error)
    except Exception as error:  # a third party's strategy may raise anything; the other arms go on
        return f"{type(error).__name__}: {error}"


def request(plan: Plan, arm: Arm, seed: int) -> str:
    """What an arm is asked to choose from and by which scores; picks on file count only for the same."""
    read = [a for a in plan.arms if a.name in {arm.name, *arm.follows.values()}]
    asked = [(a.strategy, dict(a.params), plan.inputs["scores"].get(a.run)) for a in read]
    return digest([plan.pools[seed].tolist(), asked])


def write(directory: Path, plan: Plan, arm: Arm, seed: int, found: Mapping[int, Pick]) -> None:
    """Put the picks of an arm and seed, by budget, on file."""
    import pyarrow as pa

    rows = [(budget, rank, id_) for budget in sorted(found) for rank, id_ in enumerate(found[budget].ids, 1)]
    table = pa.table(
        {
            "budget": pa.array([row[0] for row in rows], pa.int64()),
            "rank": pa.array([row[1] for row in rows], pa.int64()),
            "id": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    record = provenance(
        key=request(plan, arm, seed),
        arm=arm.name,
        strategy=arm.strategy,
        run=arm.run,
        params=dict(arm.params),
        seed=seed,
        seconds={str(budget): one.seconds for budget, one in found.items()},
        # As text where a third party's strategy notes something that JSON does not know.
        notes=json.loads(json.dumps({str(budget): dict(one.notes) for budget, one in found.items()}, default=str)),
    )
    write_table(picks_file(directory, arm.name, seed), table, record)


def _stored(file: Path, key: str) -> dict[int, Pick]:
    if not file.exists():
        return {}
    try:
        table = read_table(file, ["budget", "id"], types={"budget": "int64", "id": "string"})
        record = read_record(file)
        if record.get("key") != key:
            return {}
        found: dict[int, list[str]] = {}
        for budget, id_ in zip(table["budget"].to_pylist(), table["id"].to_pylist(), strict=True):
            found.setdefault(budget, []).append(id_)
        with reading(file):
            seconds, notes = record["seconds"], record["notes"]
            return {budget: Pick(ids, seconds[str(budget)], notes[str(budget)]) for budget, ids in found.items()}
    except StudyError:
        return {}  # damaged: chosen again, to the same picks
