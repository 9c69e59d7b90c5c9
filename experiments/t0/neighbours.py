"""What the representations of a study's score runs hold near each other: the task, the template, the answer.

    python experiments/t0/neighbours.py experiments/t0/runs/pilot RUN...

Printed are, for centred embeddings of unit length, the shares of prompts whose nearest neighbour (near duplicates left
out) has the same task, the same template and the same known answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from thriftune.geometry import HIDDEN_STATES, transform
from thriftune.study import Study

study = Study(Path(sys.argv[1]))
pool = study.pool(["id", "task", "near_group"]).to_pandas()
pool["template"] = pool.id.str.replace(r"-\d+$", "", regex=True)
pool["answer"] = pool.id.map(study.responses("reference"))
near = pool.near_group.to_numpy()
print("| score run | task | template | answer |\n|---|---:|---:|---:|")
for run in sys.argv[2:] or study.score_runs():
    x = transform(study.candidates(run).embeddings, HIDDEN_STATES)
    similarity = x @ x.T
    similarity[near[:, None] == near] = -np.inf
    nearest = similarity.argmax(axis=1)
    shares = [np.mean(pool[c].to_numpy() == pool[c].to_numpy()[nearest]) for c in ("task", "template", "answer")]
    print(f"| {run} |" + "".join(f" {share:.2f} |" for share in shares))
