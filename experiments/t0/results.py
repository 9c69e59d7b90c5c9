"""The study's tables and figures from its per-item results, which hold no prompt texts.

python experiments/t0/results.py collect STUDY NAME     # what a bench measured into docs/results/study/NAME.*
python experiments/t0/results.py collect STUDY NAME OTHER # with random and facility_location of what is kept as OTHER
python experiments/t0/results.py evaluations STUDY NAME # the same of evaluations named ARM-BUDGET-seedN[.ANYTHING]
python experiments/t0/results.py restore BENCH.toml     # what was kept as finished cells: thriftune bench goes on there
python experiments/t0/results.py                        # redraw docs/results/study/*.png and print the tables
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from templates import GENERATIVE  # its strategies are the study's own

from thriftune import geometry
from thriftune.artifacts import read_record, write_table
from thriftune.bench import picks as chosen
from thriftune.bench import plan as plans
from thriftune.bench.cells import cell_file, result_table
from thriftune.bench.design import Pick, seeds_of
from thriftune.bench.efficiency import analyse
from thriftune.bench.power import Noise, noise_of, smallest_detectable
from thriftune.bench.recipe import read as recipe_of
from thriftune.bench.recipe import settings as bench_settings
from thriftune.evaluation.metrics import higher_is_better
from thriftune.selection.describe import CLUSTERS
from thriftune.selection.scalar import effective
from thriftune.study import Study

plt.switch_backend("agg")
HERE = Path(__file__).resolve().parents[2] / "docs" / "results" / "study"
KEPT = HERE / "kept"
UNSEEN = ("cosmos_qa", "dbpedia_14", "glue_qqp", "paws_labeled_final", "quarel")
BESIDE = {"fl_local": "facility_location", "fl_then_random": "facility_location", "random_as_long": "first_margin"}
POOLS = dict.fromkeys(("skewed", "exploratory", "local-skewed"), "o")  # as the figure of why marks them
POOLS |= dict.fromkeys(("balanced", "late", "local", "long"), "s")
LENT = ("random", "facility_location")
DECLARED = "nll"
LONG = "of these, long answers"
COLOURS = {
    "random": "0.35",
    "cluster_margin": "C0",
    "facility_location": "C1",
    "first_margin": "C2",
    "fl_local": "C3",
}  # in every figure
PLANNED = Noise(0.2, 0.035, 0.15, 0.61, "from the first pilots")
MOST = 80  # per cent saved or lost that the figure shows
LEAST = -0.6  # nats ahead of random that the figure of why shows
NAMED = {  # in that figure, where there is room, and where the name stands in points
    "max_entropy": (6, -3),
    "least_confidence": (6, -3),
    "mean_entropy": (6, -3),
    "length_matched": (2, -18),
    "d_optimal": (6, -3),
    "random_within_template": (-8, 10),
    "fl_then_random": (-8, 4),
}
EFFECTIVE, BLIND = "templates, effective", "clusters, effective"
KEYS = ("strategy", "task", "item", "metric")


def collect(study: Path, name: str, other: str | None = None) -> None:
    """Keep what a bench has measured so far, its plan and what was picked, compactly and without texts.

    Args:
        study: where the bench lies.
        name: its name.
        other: a bench of the same pool, seeds and items whose cells of two arms stand in for those it lacks.
    """
    source = study / "bench" / name
    files = sorted((source / "cells").glob("*.parquet"))
    table = pa.concat_tables(pq.read_table(file).replace_schema_metadata(None) for file in files)
    if other is not None:
        there = plain(pq.read_table(HERE / f"{other}.parquet").replace_schema_metadata(None))
        lent = set(LENT) - set(table["strategy"].to_pylist())
        there = there.filter(pc.is_in(there["strategy"], pa.array(sorted(lent))))
        table = pa.concat_tables([table, there.select(table.column_names).cast(table.schema)])
    keep(table, name)
    plan = json.loads((source / "plan.json").read_text(encoding="utf-8"))
    kept = {key: plan[key] for key in ("config", "versions", "model", "created", "extensions") if key in plan}
    kept["model"]["spec"] = Path(kept["model"]["spec"]).name  # not where it lay on one machine
    KEPT.mkdir(exist_ok=True)
    records = [(file.stem, json.dumps(read_record(file))) for file in files]
    cells = pd.DataFrame(records, columns=["cell", "record"])
    cells.to_parquet(KEPT / f"{name}-cells.parquet", compression="zstd")
    keep_picks(Study(study), source, name)
    kept["picked"] = picked(Study(study), source, plan["config"]["run"])
    if other is not None:
        told = json.loads((HERE / f"{other}.json").read_text(encoding="utf-8"))["picked"]
        kept["picked"] |= {arm: told[arm] for arm in LENT if arm not in kept["picked"]}
    kept["overlap"] = overlap(source)
    kept["seconds"] = seconds(study, source, plan["inputs"]["scores"])
    (HERE / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def restore(file: Path) -> None:
    """Put what was kept of a bench into its study, made and scored anew, as picks and finished cells.

    The picks are then those of the scoring that was, since bfloat16 does not score alike everywhere. What the study
    has already stays, and `thriftune bench` takes a cell for done only where prompts, items, settings and model are
    the same.
    """
    recipe = recipe_of(file)
    config, study = bench_settings(recipe, {}), Study(recipe.study)
    plan, directory = plans.make(study, config), study.bench_directory(config.name)
    then = json.loads((HERE / f"{config.name}.json").read_text(encoding="utf-8"))["config"]
    ids = np.array(study.pool(["id"])["id"].to_pylist(), object)
    kept = pd.read_parquet(KEPT / f"{config.name}-picks.parquet").groupby(["arm", "seed"], observed=True)
    for arm in plan.arms:
        for seed in seeds_of(config, arm.name):
            if (arm.name, seed) in kept.groups and not chosen.picks_file(directory, arm.name, seed).exists():
                rows = kept.get_group((arm.name, seed))
                if then["params"].get(arm.name, {}) != config.params.get(arm.name, {}) or then["run"] != config.run:
                    sys.exit(f"{file}: {arm.name} was asked for with other params or another run")
                if not set(rows.id) <= set(ids[plan.pools[seed]]):
                    sys.exit(f"{file}: {arm.name} chose from another pool than seed {seed} draws now")
                found = {int(budget): Pick(some.id.tolist(), 0.0, {}) for budget, some in rows.groupby("budget")}
                chosen.write(directory, plan, arm, seed, found)
    values = pq.read_table(HERE / f"{config.name}.parquet").to_pandas()
    values = dict(iter(values.groupby(["strategy", "budget", "seed"], observed=True)))
    records = pd.read_parquet(KEPT / f"{config.name}-cells.parquet").set_index("cell").record.to_dict()
    for cell in plan.cells:
        if cell.id in records and not cell_file(directory, cell).exists():
            rows = values[cell.strategy, cell.budget, cell.seed].to_dict("records")
            write_table(cell_file(directory, cell), result_table(cell, rows), json.loads(records[cell.id]))


def evaluations(study: Study, name: str) -> None:
    """Keep what evaluations of a bench's models have measured, as `collect` keeps what the bench has."""
    found, settings = [], {}
    for evaluation in study.evaluations():
        named = re.fullmatch(r"(.+)-(\d+)-seed(\d+)(?:\..*)?", evaluation)
        if named:
            file = study.evaluation_file(evaluation)
            rows = pq.read_table(file).to_pandas()
            benchmark = rows.suite != "heldout"
            rows.loc[benchmark, "task"] = rows.suite + "/" + rows.task
            found.append(rows.assign(strategy=named[1], budget=int(named[2]), seed=int(named[3])).drop(columns="suite"))
            record = read_record(file)
            for part in record["parts"]:  # not where the data lay on one machine
                settings[part["suite"]] = {key: value for key, value in part["settings"].items() if key != "data"}
            versions = record["versions"]
    keep(pa.Table.from_pandas(pd.concat(found), preserve_index=False), name)
    (HERE / f"{name}.json").write_text(json.dumps({"settings": settings, "versions": versions}, indent=1) + "\n")


def keep(table: pa.Table, name: str) -> None:
    """Write per-item results compactly."""
    table = table.sort_by([(c, "ascending") for c in ("metric", "strategy", "budget", "seed", "task", "item")])
    for column in KEYS:
        table = table.set_column(table.column_names.index(column), column, table[column].dictionary_encode())
    for column, kind in (("budget", pa.int16()), ("seed", pa.int16()), ("value", pa.float32())):
        table = table.set_column(table.column_names.index(column), column, table[column].cast(kind))
    HERE.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, HERE / f"{name}.parquet", compression="zstd", compression_level=19)


def keep_picks(study: Study, source: Path, name: str) -> None:
    """Write what a bench's arms have picked."""
    tasks = study.pool(["id", "task"]).to_pandas().set_index("id").task
    rows = [(arm, seed, budget, i, tasks[i]) for arm, seed, budget, ids in picks(source) for i in ids]
    found = pd.DataFrame(rows, columns=["arm", "seed", "budget", "id", "task"])
    found = found.astype(dict.fromkeys(["arm", "id", "task"], "category"))
    found.to_parquet(KEPT / f"{name}-picks.parquet", compression="zstd")


def picks(source: Path) -> Iterator[tuple[str, int, int, list[str]]]:
    """Arm, seed, budget and ids of all picks."""
    for file in sorted((source / "picks").glob("*.parquet")):
        for budget, rows in pq.read_table(file).to_pandas().groupby("budget"):
            arm, seed = file.stem.rsplit("-seed", 1)
            yield arm, int(seed), int(budget), rows.id.tolist()


def picked(study: Study, source: Path, run: str | None) -> dict[str, dict[str, dict[str, float]]]:
    """What an arm's picks are like at each budget, means over seeds; clusters are found as `thriftune select` does."""
    pool = study.pool(["id", "task", "n_chars"]).to_pandas().set_index("id")
    scored = study.candidates(run)
    assert scored.embeddings is not None
    states = geometry.transform(scored.embeddings, geometry.HIDDEN_STATES)
    pool["cluster"] = pd.Series(geometry.cluster(states, CLUSTERS), scored.ids)
    pool["template"] = pool.index.str.replace(r"-\d+$", "", regex=True)
    pool["answer"] = pool.index.map(study.responses("reference"))
    found = []
    for arm, _, budget, ids in picks(source):
        rows = pool.loc[ids]
        found.append(
            {
                "arm": arm,
                "budget": budget,
                "tasks, effective": effective(rows.task.value_counts().to_numpy()),
                "templates": rows.template.nunique(),
                EFFECTIVE: effective(rows.template.value_counts().to_numpy()),
                BLIND: effective(rows.cluster.value_counts().to_numpy()),
                "prompt characters": rows.n_chars.mean(),
                "answer characters": rows.answer.str.len().mean(),
                "different answers": rows.answer.nunique() / len(rows),
            }
        )
    means = pd.DataFrame(found).groupby(["arm", "budget"]).mean().round(3)
    return {arm: means.loc[arm].T.to_dict() for arm in means.index.unique("arm")}


def overlap(source: Path) -> dict[str, dict[str, float]]:
    """Share of an arm's picks at each budget that two seeds have in common, mean over pairs of seeds."""
    sets: dict[str, dict[int, list[set[str]]]] = {}
    for arm, _, budget, ids in picks(source):
        sets.setdefault(arm, {}).setdefault(budget, []).append(set(ids))
    return {
        arm: {
            str(budget): round(float(np.mean([len(a & b) / budget for a, b in itertools.combinations(seeds, 2)])), 3)
            for budget, seeds in at.items()
        }
        for arm, at in sets.items()
    }


def seconds(study: Path, source: Path, runs: Iterable[str]) -> dict[str, Any]:
    """What the time went to: scoring the pool, and of a cell selection, training and evaluation (medians, seconds)."""
    files = sorted((source / "cells").glob("*.parquet"))
    cells = pd.DataFrame([read_record(file) | {"arm": file.stem.rsplit("-", 2)[0]} for file in files])
    found: dict[str, Any] = {"score": {}}
    for run in runs:
        manifest = json.loads((study / "scores" / run / "manifest.json").read_text(encoding="utf-8"))
        if "run" in manifest:  # not where embeddings alone were made anew
            found["score"][run] = manifest["run"]["seconds"]
    for what, by in (("select", "arm"), ("finetune", "n_annotations"), ("evaluate", "items")):
        medians = cells[cells.arm != "base"].groupby(by)[f"{what}_seconds"].median()
        found[what] = {str(key): round(value, 3) for key, value in medians.items()}
    return found


def slices(table: pa.Table) -> dict[str, pa.Table]:
    """The held-out prompts of tasks in the pool, which decide, and the others, which are reported apart."""
    task = table["task"].cast(pa.string())
    unseen, generative = pc.is_in(task, pa.array(UNSEEN)), pc.is_in(task, pa.array(GENERATIVE))
    mmlu, bbh = pc.starts_with(task, "mmlu/"), pc.starts_with(task, "bbh/")
    seen = pc.invert(pc.or_(unseen, pc.or_(mmlu, bbh)))
    return {
        "tasks of the pool": table.filter(seen),
        LONG: table.filter(generative),
        "of these, short answers": table.filter(pc.and_(seen, pc.invert(generative))),
        "tasks not in the pool": table.filter(unseen),
        "MMLU": table.filter(mmlu),
        "BBH": table.filter(bbh),
    }


def plain(table: pa.Table) -> pa.Table:
    """What `keep` wrote, as benches write it."""
    for column in KEYS:
        table = table.set_column(table.column_names.index(column), column, table[column].cast(pa.string()))
    for column, kind in (("budget", pa.int64()), ("seed", pa.int64()), ("value", pa.float64())):
        table = table.set_column(table.column_names.index(column), column, table[column].cast(kind))
    return table


def redraw(file: Path) -> list[dict[str, Any]]:
    """Print an experiment's tables and draw its curves and savings.

    Returns:
        How far each arm is ahead of random at each budget, beside the variety of its picks in proportion to random's.
    """
    table = plain(pq.read_table(file))
    metrics = sorted(set(table["metric"].to_pylist()), key=lambda m: (m != DECLARED, m))
    print(f"\n## {file.stem}\n")
    record = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    arms = record.get("picked")
    gains = list[dict[str, Any]]()
    if arms is not None:  # a bench's
        if len(pc.unique(table["budget"])) > 2:  # the untouched model's is 0
            table = whole(table)
            tell_tasks(table, KEPT / f"{file.stem}-picks.parquet")
        tell_picks(arms, record.get("overlap", {}))
    for title, rows in slices(table).items():
        for metric in metrics:
            some = rows.filter(pc.equal(rows["metric"], metric))
            if not some.num_rows:
                continue
            better = {metric: higher_is_better(metric)}
            found = analyse(some, metrics=better)
            tell(found, f"{title}, {metric}")
            if (title, metric) == (LONG, DECLARED) and arms is not None and len(found["budgets"]) > 1:
                tell_long(found, KEPT / f"{file.stem}-picks.parquet")
            for arm in sorted(set(BESIDE) & set(arms or ())) if metric == DECLARED else ():
                pair = pc.is_in(some["strategy"], pa.array([BESIDE[arm], arm]))
                beside = analyse(some.filter(pair), metrics=better, baseline=BESIDE[arm])
                tell(beside, f"{title}, {arm} beside {BESIDE[arm]}")
            if (title, metric) == ("tasks of the pool", DECLARED) and arms is not None:
                gains = varieties(found, arms, file.stem)
                tell_noise(some, found)
                if len(found["budgets"]) > 1:
                    draw(found, HERE / f"{file.stem}.png")
                    tell_without(some)
                else:
                    tell_why(found, arms)
    return gains


def varieties(found: dict[str, Any], arms: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Of every arm and budget: how varied its picks are in proportion to random's, and what it gains."""
    rows = []
    for s in found["metrics"][0]["strategies"]:
        for d in s["differences"]:
            picked, plain = arms[s["strategy"]][str(d["budget"])], arms["random"][str(d["budget"])]
            if EFFECTIVE in picked:
                row = {"bench": name, "arm": s["strategy"], "budget": d["budget"], "gain": d["mean"]}
                rows.append(row | {kind: picked[kind] / plain[kind] for kind in (EFFECTIVE, BLIND)})
    return rows


def draw_why(gains: list[dict[str, Any]], file: Path) -> None:
    """What is gained over random beside how varied the picks are, in proportion to random's."""
    points = pd.DataFrame(gains)
    points["pool"] = points.bench.map(POOLS)
    points = points.dropna(subset="pool")  # the base model's have a scale of their own
    more_seeds_first = points.bench.isin(["late", "exploratory", "long"]).argsort(kind="stable")
    points = points.iloc[more_seeds_first].drop_duplicates(["pool", "arm", "budget"])
    for kind in (EFFECTIVE, BLIND):
        rho = points[kind].corr(points.gain, method="spearman")
        print(f"Spearman of the gain with {kind}, in proportion to random's, over {len(points)} points: {rho:.2f}")
    points["ratio"] = points[EFFECTIVE]
    points = points[points.gain > LEAST]
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for marker, name in {"o": "skewed pool", "s": "balanced pool"}.items():
        axes.scatter([], [], marker=marker, color="0.5", label=name)
    for arm in sorted(set(points.arm)):
        some = points[points.arm == arm]
        colour = COLOURS.get(arm, "0.6")
        for row in some.itertuples():
            axes.scatter(row.ratio, row.gain, marker=row.pool, color=colour, s=14 + row.budget / 5, alpha=0.8)
        if arm in COLOURS:
            axes.scatter([], [], color=colour, label=arm)
        elif arm in NAMED:
            x, y = NAMED[arm]
            point = some.iloc[-1][["ratio", "gain"]]
            axes.annotate(arm, point, (x, y), textcoords="offset points", fontsize=7, ha="left" if x > 0 else "right")
    axes.axhline(0, color="0.6", lw=1)
    axes.axvline(1, color="0.6", lw=1)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 0.7, 1, 1.5], ["0.5", "0.7", "1", "1.5"])
    axes.minorticks_off()
    axes.set_xlabel("effective number of templates among the picks, beside random's")
    axes.set_ylabel("nats a response token ahead of random")
    axes.legend(frameon=False, fontsize=8, title="size: 50 to 400 annotations", title_fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.margins(0.08)
    figure.savefig(file, dpi=160)
    plt.close(figure)


def tell_noise(rows: pa.Table, found: dict[str, Any]) -> None:
    """How far paired differences scatter between seeds, how much of it is the luck of items, and what can be found."""
    values = rows.to_pandas()
    values = values[(values.strategy != "base") & (values.budget == sorted(found["budgets"])[:2][-1])]
    wide = values.pivot(index=["task", "item", "seed"], columns="strategy", values="value")
    ahead = wide.drop(columns="random").rsub(wide["random"], axis=0)
    means = ahead.groupby(["task", "seed"]).mean().groupby("seed").mean()
    ahead = ahead[means.columns[means.count() > 1]]
    means = means[ahead.columns]
    freedom = int((means.count() - 1).sum())
    if freedom:
        seeds = float((means - means.mean()).pow(2).sum().sum()) / freedom
        by_task = ahead.groupby(["task", "seed"])
        items = (by_task.var() / by_task.count()).groupby("seed").mean() / values.task.nunique()
        luck = float(items.stack().mean())
        own = max(seeds - luck, 0.0)
        print(
            f"A difference from random of the same seed with {values.budget.iloc[0]} annotations scatters by "
            f"{seeds**0.5:.3f} ({freedom} degrees of freedom), {luck**0.5:.3f} the luck of items, {own**0.5:.3f} the "
            "seeds' own"
        )
    measured = noise_of(rows, DECLARED, higher_is_better(DECLARED))
    for name, noise in {"planned": PLANNED, "measured": measured}.items():
        if measured is not None and noise is not None:
            size = {"items": round(values.groupby("seed").item.nunique().mean()), "budgets": found["budgets"]}
            size |= {"seeds": len(found["seeds"]), "comparisons": len(found["metrics"][0]["strategies"])}
            least = _percent(smallest_detectable(**size, noise=noise))
            falls = f"random falls by {noise.slope:.2f} nats for e times the annotations"
            print(f"Found with a probability of 80 %, as {name}: a saving of {least} ({falls})")
    print()


def tell_without(rows: pa.Table) -> None:
    """What each strategy saves when a task is left out: how much hangs on which tasks there are."""
    without: dict[str, dict[str, dict[str, Any]]] = {}
    for task in pc.unique(rows["task"]).to_pylist():
        some = rows.filter(pc.not_equal(rows["task"], task))
        for s in analyse(some, metrics={DECLARED: higher_is_better(DECLARED)})["metrics"][0]["strategies"]:
            without.setdefault(s["strategy"], {})[task] = s
    for name, found in without.items():
        order = sorted(found, key=lambda task: (found[task]["saved"] is None, found[task]["saved"]))
        ends = (f"{_against(found[task], 2)} without {task}" for task in (order[0], order[-1]))
        print(f"{name}, a task left out: from {' to '.join(ends)}")
    print()


def tell_why(found: dict[str, Any], arms: dict[str, Any]) -> None:
    """How the gains of many arms at one budget go with what they picked."""
    (budget,) = found["budgets"]
    gains = {s["strategy"]: s["differences"][0]["mean"] for s in found["metrics"][0]["strategies"]}
    if len(gains) > 4:
        picked = pd.DataFrame({arm: arms[arm][str(budget)] for arm in gains}).T
        rho = picked.corrwith(pd.Series(gains), method="spearman")
        print(f"Spearman of the gain with, over {len(gains)} arms:", ", ".join(f"{k} {v:.2f}" for k, v in rho.items()))
        print()


def tell_picks(arms: dict[str, Any], overlaps: dict[str, dict[str, float]]) -> None:
    """What the arms picked, by budget, and how much of it two seeds have in common."""
    budgets = sorted(arms["random"], key=int)
    print("| templates among the picks, effective ones, effective tasks |" + "".join(f" {b} |" for b in budgets))
    print("|---|" + "---:|" * len(budgets))
    for arm, at in arms.items():
        if all(EFFECTIVE in at[b] for b in budgets):
            cells = (
                f" {at[b]['templates']:.0f}, {at[b][EFFECTIVE]:.0f}, {at[b]['tasks, effective']:.1f} |" for b in budgets
            )
            print(f"| {arm} |" + "".join(cells))
    for arm, at in overlaps.items():
        print(
            f"\nTwo seeds of {arm} share", ", ".join(f"{share:.0%} of {budget}" for budget, share in at.items()), end=""
        )
    print("\n")


def whole(table: pa.Table) -> pa.Table:
    """Of a bench that is not finished: budgets and seeds that random has whole, and the arms about as far as that."""
    cells = table.filter(pc.not_equal(table["strategy"], "base")).select(["strategy", "seed", "budget"])
    there = cells.to_pandas().drop_duplicates().groupby(["strategy", "seed"]).budget.apply(set).unstack()
    budgets = sorted(set(cells["budget"].to_pylist()))

    def finished(most: int) -> pd.DataFrame:
        return there.map(lambda found: isinstance(found, set) and found.issuperset(budgets[:most]))

    most = max(range(len(budgets), 1, -1), key=lambda n: n * finished(n).loc["random"].sum())
    if most < len(budgets):
        print(f"Budgets beyond {budgets[most - 1]} are left out: random has them in too few seeds\n")
    done = finished(most)
    seeds = done.sum(axis=1)
    early = seeds.index[seeds < seeds["random"] - 1]
    for arm in early:
        rows = slices(table.filter(pc.equal(table["metric"], DECLARED)))["tasks of the pool"].to_pandas()
        rows = rows[(rows.strategy == arm) & rows.seed.isin(done.columns[done.loc[arm]])]
        means = rows.groupby(["budget", "seed", "task"]).value.mean().groupby("budget").mean()
        told = ", ".join(f"{value:.3f} at {budget}" for budget, value in means.items())
        print(f"Left out: {arm} ({seeds[arm]} of {seeds['random']} seeds; {told or 'not one with all budgets'})\n")
    common = done.columns[done.drop(index=early).all()]
    kept = [("strategy", [*seeds.index.difference(early), "base"]), ("seed", common), ("budget", [0, *budgets[:most]])]
    for column, values in kept:
        table = table.filter(pc.is_in(table[column], pa.array(values, table[column].type)))
    return table


def tell_tasks(table: pa.Table, picks: Path) -> None:
    """How far each arm is ahead of random in each task, mean over budgets and seeds, and what it picked of each."""
    rows = table.filter(pc.equal(table["metric"], DECLARED)).to_pandas()
    means = rows[rows.strategy != "base"].groupby(["task", "strategy", "budget", "seed"]).value.mean()
    by_task = means.groupby(["task", "strategy"]).mean().unstack("strategy")
    ahead = by_task.rsub(by_task["random"], axis=0).drop(columns="random")
    print(
        "| ahead of random, nats |" + "".join(f" {arm} |" for arm in ahead) + "\n|---|" + "---:|" * len(ahead.columns)
    )
    for task, values in ahead.iterrows():
        print(f"| {task} |" + "".join(f" {value:+.3f} |" for value in values))
    print()
    if picks.exists():
        kept = pd.read_parquet(picks).astype({"task": str, "arm": str})
        kept = kept[kept.budget == sorted(kept.budget.unique())[1]]
        seeds = kept.groupby("arm").seed.nunique()
        counts = kept.groupby(["task", "arm"]).size().unstack(fill_value=0) / seeds
        print(f"| of {kept.budget.iloc[0]} picks |" + "".join(f" {arm} |" for arm in counts))
        print("|---|" + "---:|" * len(counts.columns))
        for task, values in counts.iterrows():
            print(f"| {task} |" + "".join(f" {value:.1f} |" for value in values))
        ratios = counts.div(counts["random"], axis=0)
        goes = (f"{arm} {ahead[arm].corr(ratios[arm], method='spearman'):.2f}" for arm in ahead if arm in ratios)
        print("\nSpearman over tasks of being ahead and of picks in proportion to random's:", ", ".join(goes) + "\n")


def tell_long(found: dict[str, Any], picks: Path) -> None:
    """How far each arm is ahead on long answers, and ahead of random with as many picks that have them.

    Random's curve is read between its budgets, straight over the logarithm of the picks with long answers.
    """
    if not picks.exists():
        return
    curves = pd.DataFrame(found["metrics"][0]["curves"])
    means = curves[curves.budget > 0].set_index(["strategy", "budget"])["mean"]
    kept = pd.read_parquet(picks).astype({"task": str, "arm": str})
    long = kept[kept.task.isin(GENERATIVE)].groupby(["arm", "seed", "budget"]).size().groupby(["arm", "budget"]).mean()
    x, y = np.log(long["random"].loc[means["random"].index]), means["random"]
    print("| picks with long answers: nats ahead on these, and at as many |" + "".join(f" {b} |" for b in y.index))
    print("|---|" + "---:|" * len(y))
    for arm in sorted(set(means.index.unique(0)) & set(long.index.unique(0)) - {"random"}):  # others: another bench's
        own, at = means[arm], np.log(long[arm].loc[y.index])
        equal = pd.Series(np.interp(at, x, y, left=np.nan, right=np.nan), y.index) - own
        beside = equal.map("{:+.3f}".format).where(equal.notna(), "beyond random's")
        cells = (f" {np.exp(at[b]):.0f}: {y[b] - own[b]:+.3f}, {beside[b]} |" for b in y.index)
        print(f"| {arm} |" + "".join(cells))
    print()


def draw(found: dict[str, Any], file: Path) -> None:
    """Learning curves, and what they say is saved, side by side."""
    one = found["metrics"][0]
    figure, (curves, savings) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[3, 2], layout="constrained")
    names = list(dict.fromkeys(p["strategy"] for p in one["curves"] if p["budget"]))
    for place, name in enumerate(names):
        points = sorted((p for p in one["curves"] if p["strategy"] == name), key=lambda p: p["budget"])
        x, y = [p["budget"] for p in points], [p["mean"] for p in points]
        plain = name == found["baseline"]
        (line,) = curves.plot(x, y, "o-", color=COLOURS.get(name), lw=2 if plain else 1.4, ms=4, label=name)
        if all(p["low"] is not None for p in points):
            curves.fill_between(
                x, [p["low"] for p in points], [p["high"] for p in points], color=line.get_color(), alpha=0.12, lw=0
            )
        for s in one["strategies"]:
            if s["strategy"] == name and s["saved"] is not None:
                ends = [
                    -1 if s["saved_low"] is None else s["saved_low"],
                    1 if s["saved_high"] is None else s["saved_high"],
                ]
                low, middle, high = (float(np.clip(100 * v, -MOST, MOST)) for v in (ends[0], s["saved"], ends[1]))
                savings.plot([low, high], [place, place], color=line.get_color())
                off = abs(100 * s["saved"]) > MOST
                savings.plot(middle, place, ("<" if middle < 0 else ">") if off else "o", color=line.get_color())
                within = f"{_percent(s['saved'])} ({_percent(s['saved_low'])} to {_percent(s['saved_high'])})"
                savings.annotate(within, (0, place - 0.06), ha="center", va="bottom", fontsize=8)
    budgets = found["budgets"]
    curves.set_xscale("log")
    curves.set_xticks(budgets, [f"{b:,}" for b in budgets])
    curves.minorticks_off()
    curves.set_xlabel("annotations")
    curves.set_ylabel("nats a response token (less is better)")
    curves.legend(frameon=False, fontsize=8)
    savings.axvline(0, color="0.6", lw=1)
    savings.set_yticks(range(len(names)), names)
    savings.set_ylim(len(names) - 0.6, 0.4)
    savings.set_xlim(-1.05 * MOST, 1.05 * MOST)
    together = "simultaneous " if len(names) > 2 else ""
    savings.set_xlabel(f"annotations saved against random, %\n({together}95 % intervals)")
    for axes in (curves, savings):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", color="0.92")
    figure.savefig(file, dpi=160)
    plt.close(figure)


def tell(found: dict[str, Any], title: str) -> None:
    one = found["metrics"][0]
    budgets = found["budgets"]
    print(f"### {title}: {found['items']} items, {len(found['seeds'])} seeds\n")
    for warning in found["warnings"]:
        print(f"- {warning}")
    print("| strategy |" + "".join(f" {b} |" for b in budgets) + f" against {found['baseline']} (interval) |")
    print("|---|" + "---:|" * (len(budgets) + 1))
    intervals = {s["strategy"]: s for s in one["strategies"]}
    names = list(dict.fromkeys(p["strategy"] for p in one["curves"]))
    if len(budgets) == 1:
        names.sort(key=lambda n: next(p["mean"] for p in one["curves"] if p["strategy"] == n))
    curves = {name: {p["budget"]: p["mean"] for p in one["curves"] if p["strategy"] == name} for name in names}
    for name, means in curves.items():
        s = intervals.get(name)
        against = "" if s is None else _against(s, len(budgets))
        print(f"| {name} |" + "".join(f" {means.get(b, float('nan')):.4f} |" for b in budgets) + f" {against} |")
    for name, s in intervals.items():
        if len(budgets) > 1:
            ahead = (f"{d['budget']}: {_difference(d)}" for d in s["differences"])
            print(f"\n{name} ahead of {found['baseline']} by {', '.join(ahead)}")
            same = (f"{b}: {_reached(curves[name], curves[found['baseline']][b], one)}" for b in budgets)
            print(f"{name} is as good as {found['baseline']} with {', '.join(same)} annotations")
    print()


def _reached(curve: dict[int, float], quality: float, one: dict[str, Any]) -> str:
    """With how many annotations a curve, straight between log budgets, has a quality."""
    sign = 1 if one["higher_is_better"] else -1
    x, y = np.log(list(curve)), sign * np.array(list(curve.values())) - sign * quality
    at = np.flatnonzero(y >= 0)
    if not len(at):
        return f"more than {max(curve)}"
    if at[0] == 0:
        return f"at most {min(curve)}"
    right = at[0]
    return f"{np.exp(np.interp(0, y[right - 1 : right + 1], x[right - 1 : right + 1])):.0f}"


def _against(s: dict[str, Any], budgets: int) -> str:
    """Annotations saved, or with a single budget the gain, which is positive where the strategy is better."""
    if budgets > 1:
        return f"{_percent(s['saved'])} saved ({_percent(s['saved_low'])} to {_percent(s['saved_high'])})"
    return _difference(s["differences"][0])


def _difference(d: dict[str, Any]) -> str:
    within = "" if d["low"] is None else f" ({d['low']:+.3f} to {d['high']:+.3f})"
    return f"{d['mean']:+.3f}{within}"


def _percent(share: float | None) -> str:
    return "open" if share is None else f"{100 * share:.0f} %"


if __name__ == "__main__":
    if sys.argv[1:2] == ["collect"]:
        collect(Path(sys.argv[2]), *sys.argv[3:5])
    elif sys.argv[1:2] == ["restore"]:
        restore(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["evaluations"]:
        evaluations(Study(sys.argv[2]), sys.argv[3])
    else:
        gains = [row for found in sorted(HERE.glob("*.parquet")) for row in redraw(found)]
        draw_why(gains, HERE / "why.png")
