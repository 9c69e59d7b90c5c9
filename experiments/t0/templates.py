"""The thriftune command with strategies that tell what others gain by: facility_location, and uncertainty.

    python experiments/t0/templates.py bench experiments/t0/late.toml

One reads what no other arm may, the template of every prompt: if touching templates is what matters, it is what
facility_location can come to. Another leaves off with facility_location where the templates have been touched. The
third has as many prompts with long answers as the most uncertain ones have, drawn at random.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thriftune.cli.main import main
from thriftune.selection.registry import strategy
from thriftune.selection.strategies.facility import facility_location
from thriftune.selection.strategies.random import random_within_task
from thriftune.types import Candidates, Picks

GENERATIVE = ("common_gen", "gigaword", "wiki_bio")  # tasks with long answers


@strategy(name="random_within_template", source="random_within_task with finer labels", prefix=True, randomised=True)
def random_within_template(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """The same number of prompts of every template, drawn at random within each."""
    templates = np.array([one.rpartition("-")[0] for one in candidates.ids], object)
    return random_within_task(replace(candidates, tasks=templates), budget, rng)


@strategy(name="fl_then_random", needs=("embeddings",), source="facility_location", prefix=True, randomised=True)
def fl_then_random(candidates: Candidates, budget: int, rng: np.random.Generator, *, first: int = 100) -> Picks:
    """The first picks of facility_location, random prompts thereafter."""
    rows = facility_location(candidates, min(first, budget), rng).rows
    rest = np.setdiff1d(np.flatnonzero(~candidates.annotated), rows)
    return Picks(np.concatenate([rows, rng.permutation(rest)[: budget - len(rows)]]))


@strategy(name="random_as_long", needs=("tasks", "scores:{score}"), source="stratified sampling", randomised=True)
def random_as_long(candidates: Candidates, budget: int, rng: np.random.Generator, *, score: str) -> Picks:
    """As many prompts with long answers as among those that score highest, drawn at random, and others at random."""
    free, long = np.flatnonzero(~candidates.annotated), np.isin(candidates.tasks.astype(str), GENERATIVE)
    most = free[np.argsort(-candidates.scores[score][free], kind="stable")[:budget]]
    count = int(long[most].sum())
    drawn = [rng.permutation(free[long[free]])[:count], rng.permutation(free[~long[free]])[: budget - count]]
    return Picks(np.concatenate(drawn))


if __name__ == "__main__":
    main()
