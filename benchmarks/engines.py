"""How far the scores of another engine agree with those of our own pass on the same prompts.

thriftune score STUDY --dtype float32 --name float32
thriftune score STUDY --backend openai --endpoint http://127.0.0.1:8080/v1 --model NAME --name served
python benchmarks/engines.py STUDY float32 served
"""

import sys
from pathlib import Path

# This folder holds a select.py, which would hide the standard library's.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

EXACT = ("mean_nll", "least_confidence", "mean_margin", "min_margin", "prompt_nll")
BOUNDED = ("mean_entropy", "max_entropy")


def main(directory: str, ours: str, theirs: str) -> None:
    import numpy as np
    import scipy.stats

    from thriftune.study import Study

    study = Study(directory)
    one, two = study.scores(ours), study.scores(theirs)
    assert one["id"].equals(two["id"]), "the runs score different pools"
    drafts = zip(one["response"].to_pylist(), two["response"].to_pylist(), strict=True)
    same = np.array([a == b for a, b in drafts])
    tokens = (one["n_prompt_tokens"].to_numpy() == two["n_prompt_tokens"].to_numpy()).mean()
    steps = one["n_steps"].to_numpy() - two["n_steps"].to_numpy()
    ended = ~np.array(two["hit_limit"].to_pylist())
    missing = int((ended & ~np.array(two["end_scored"].to_pylist())).sum())
    print(f"{one.num_rows} prompts, {ours} against {theirs}")
    print(f"prompts of as many tokens: {tokens:.1%}; equal drafts: {same.mean():.1%}")
    print(f"answers ended by the model: {ended.sum()}, without the step that ended them: {missing}")
    print(f"steps of equal drafts: {(steps[same] == 0).mean():.1%} as many, {steps[same].sum()} missing in all")
    print(f"{'score':22} {'Spearman':>8} {'of equal drafts':>15} {'median':>8} {'largest difference of these':>27}")
    for name in (*EXACT, *BOUNDED):
        if name not in one.column_names or name not in two.column_names:
            continue
        truth = np.nan_to_num(one[name].to_numpy().astype(float))
        shown = [(name, np.nan_to_num(two[name].to_numpy().astype(float)))]
        if name in BOUNDED:
            lower, upper = (two[f"{name}_{end}"].to_numpy().astype(float) for end in ("lower", "upper"))
            shown += [(f"{name} (lower)", lower), (f"{name} (upper)", upper)]
        for label, found in shown:
            ranks = [scipy.stats.spearmanr(truth[k], found[k]).statistic for k in (slice(None), same)]
            gap = np.abs(truth - found)[same]
            print(f"{label:22} {ranks[0]:8.3f} {ranks[1]:15.3f} {np.median(gap):8.4f} {gap.max():27.4f}")
        if name in BOUNDED:
            inside = ((lower <= truth + 1e-3) & (truth <= upper + 1e-3))[same].mean()
            print(f"  bounds of equal drafts hold ours in {inside:.1%}, width {np.median(upper - lower):.4f} median")
    tail = two["mean_tail"].to_numpy()
    print(f"probability not reported: {np.median(tail):.4f} median of the means, {tail.max():.4f} largest")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
