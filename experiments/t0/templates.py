"""The thriftune command with a strategy that reads what no other arm may, the template of every prompt.

    python experiments/t0/templates.py bench experiments/t0/exploratory.toml

What facility_location gains should be within its reach if touching templates is what matters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thriftune.cli.main import main
from thriftune.selection.registry import strategy
from thriftune.selection.strategies.random import random_within_task
from thriftune.types import Candidates, Picks


@strategy(name="random_within_template", source="random_within_task with finer labels", prefix=True, randomised=True)
def random_within_template(candidates: Candidates, budget: int, rng: np.random.Generator) -> Picks:
    """The same number of prompts of every template, drawn at random within each."""
    templates = np.array([one.rpartition("-")[0] for one in candidates.ids], object)
    return random_within_task(replace(candidates, tasks=templates), budget, rng)


if __name__ == "__main__":
    main()
