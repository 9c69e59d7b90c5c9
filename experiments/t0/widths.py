"""What the width of facility_location's similarity does to how evenly its picks cover the templates.

    python experiments/t0/widths.py experiments/t0/runs/skewed [RUN]

Printed is the effective number of templates among the picks, and the share that they have in common with those of the
default width.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

import thriftune
from thriftune.geometry import HIDDEN_STATES, transform
from thriftune.selection.scalar import effective
from thriftune.study import Study

BUDGETS = (50, 100, 200, 400)
candidates = Study(Path(sys.argv[1])).candidates(sys.argv[2] if len(sys.argv) > 2 else "layer18-token")
states, default = transform(candidates.embeddings, HIDDEN_STATES), {}
print("| kernel, gamma |" + "".join(f" {b} |" for b in BUDGETS) + "\n|---|" + "---:|" * len(BUDGETS))
for kernel, gamma in [*(("rbf", width) for width in (0.5, 0.1, 0.25, 1, 2, "auto")), ("local", 0.5)]:
    row = f"| {kernel}, {gamma} |"
    for budget in BUDGETS:
        how = {"strategy": "facility_location", "kernel": kernel, "gamma": gamma, "budget": budget}
        picks = thriftune.select(embeddings=states, ids=candidates.ids, **how).ids
        same = len(set(picks) & default.setdefault(budget, set(picks))) / budget
        templates = Counter(one.rpartition("-")[0] for one in picks)
        row += f" {effective(np.array(list(templates.values()))):.0f} ({same:.0%}) |"
    print(row)
