"""Pools and held-out prompts of the label-efficiency study, split by what the prompts are about.

    python experiments/t0/prepare.py T0_POOL.parquet DIRECTORY

The Parquet file has the columns id, task, template, prompt and response. Written are, as JSON lines with prompt,
response and task: a balanced and a skewed pool and a held-out set, and the same again, of other source examples, for
the pilot. Every draw is seeded; docs/results/study.md says what each is for.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 0
MOST_CHARACTERS = 400  # of a prompt, and of a response
LEAST = 200  # prompts that a task must have to take part
WORDS = 5  # of a shingle
TEMPLATE_SHARE = 0.03  # a shingle in more of a template's prompts is the template's own text
UNSEEN = 5  # tasks that no pool has
HELD, HELD_UNSEEN, HELD_PILOT = 110, 40, 30  # held-out prompts a task, at most, and two of a source example
SHARES = {"heldout": 0.30, "pilot-heldout": 0.08, "pilot": 0.18, "main": 0.44}  # of a task's source examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    frame = pd.read_parquet(options.pool).sort_values("id", ignore_index=True)
    short = (frame.prompt.str.len() <= MOST_CHARACTERS) & (frame.response.str.len() <= MOST_CHARACTERS)
    frame = frame[short & (frame.response.str.strip() != "")]
    frame = frame[frame.groupby("task").id.transform("size") >= LEAST].reset_index(drop=True)
    frame["example"] = examples(frame)
    rng = np.random.default_rng(SEED)
    unseen = sorted(rng.choice(sorted(frame.task.unique()), UNSEEN, replace=False))
    frame["part"] = ""
    for _, rows in frame.groupby("task"):
        found = rng.permutation(np.unique(rows.example))
        cuts = (np.cumsum([0, *SHARES.values()]) * len(found)).round().astype(int)
        for part, low, high in zip(SHARES, cuts[:-1], cuts[1:], strict=True):
            frame.loc[rows.index[rows.example.isin(found[low:high])], "part"] = part
    seen, away = frame[~frame.task.isin(unseen)], frame[frame.task.isin(unseen)]
    of = {part: seen[seen.part == part] for part in SHARES}
    parts = {
        "pilot-balanced-pool": of["pilot"],
        "pilot-skewed-pool": skewed(of["pilot"], rng),
        "pilot-heldout": held_out(of["pilot-heldout"], HELD_PILOT, rng),
        "balanced-pool": of["main"],
        "skewed-pool": skewed(of["main"], rng),
        "heldout": pd.concat([held_out(of["heldout"], HELD, rng), held_out(away, HELD_UNSEEN, rng)]),
    }
    options.directory.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        lines = rows[["id", "prompt", "response", "task"]].to_dict("records")
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (options.directory / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(
            f"{name}: {len(rows):,} prompts of {rows.example.nunique():,} examples in {rows.task.nunique()} tasks, "
            f"{rows.task.value_counts().max():,} of the largest and {rows.task.value_counts().min():,} of the smallest"
        )
    print("unseen tasks:", ", ".join(unseen))
    print("skewed-pool:", ", ".join(f"{task} {n}" for task, n in parts["skewed-pool"].task.value_counts().items()))


def examples(frame: pd.DataFrame) -> np.ndarray:
    """(n,) equal for prompts made of the same source example: those of a task that share half their own text.

    A template's words are what many of its prompts have; the rest of a prompt is its own.
    """
    parent = list(range(len(frame)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for _, rows in frame.groupby("task"):
        own = [shingles(text) for text in rows.prompt]
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for template, found in zip(rows.template, own, strict=True):
            counts[template].update(found)
        prompts = rows.template.value_counts()
        holders: dict[str, list[int]] = collections.defaultdict(list)
        for place, template in enumerate(rows.template):
            most = max(3, TEMPLATE_SHARE * prompts[template])
            own[place] = {s for s in own[place] if counts[template][s] <= most}
            for shingle in own[place]:
                holders[shingle].append(place)
        shared: collections.Counter[tuple[int, int]] = collections.Counter()
        for places in holders.values():
            if len(places) <= 60:
                shared.update((a, b) for i, a in enumerate(places) for b in places[i + 1 :])
        for (a, b), common in shared.items():
            if common >= 0.5 * min(len(own[a]), len(own[b])):
                one, other = sorted((root(rows.index[a]), root(rows.index[b])))
                parent[other] = one
    # Equal prompts too short to have text of their own.
    first: dict[str, int] = {}
    for row, text in enumerate(frame.prompt):
        one, other = sorted((root(first.setdefault(text, row)), root(row)))
        parent[other] = one
    return np.array([root(row) for row in range(len(frame))])


def shingles(text: str) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)} or {" ".join(words)}


def held_out(frame: pd.DataFrame, most: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most so many prompts of every task, no source example more than twice."""
    shuffled = frame.iloc[rng.permutation(len(frame))]
    shuffled = shuffled[shuffled.groupby("example").cumcount() < 2]
    return shuffled.groupby("task").head(most).sort_values("id")


def skewed(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Tasks as frequent as Zipf's law with exponent 1 has it, the task with most prompts first."""
    there = frame.task.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    wanted = (there.iloc[0] / pd.Series(range(1, len(there) + 1), there.index)).round()
    shuffled = frame.iloc[rng.permutation(len(frame))]
    return shuffled[shuffled.groupby("task").cumcount() < shuffled.task.map(wanted)].sort_values("id")


if __name__ == "__main__":
    main()
