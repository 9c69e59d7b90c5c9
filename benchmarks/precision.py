"""How far two score runs of one study agree: rank correlation of every score, and the picks they share.

thriftune score STUDY --dtype float32 --name float32
thriftune score STUDY --dtype bfloat16 --name bfloat16
python benchmarks/precision.py STUDY float32 bfloat16
"""

import sys
from pathlib import Path

# This folder holds a select.py, which would hide the standard library's.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]


def main(directory: str, first: str, second: str) -> None:
    import numpy as np
    import scipy.stats

    from thriftune.study import SCORE_COLUMNS, Study

    study = Study(directory)
    one, two = study.scores(first), study.scores(second)
    assert one["id"].equals(two["id"]), "the runs score different pools"
    count = one.num_rows
    top = max(1, count // 10)
    same = np.mean([a == b for a, b in zip(one["token_ids"].to_pylist(), two["token_ids"].to_pylist(), strict=True)])
    print(f"{count} prompts, {first} against {second}; equal drafts: {same:.1%}")
    print(f"{'score':18} {'Spearman':>8}  {'largest change':>14}  {'shared of the top 10 %':>22}")
    for name in SCORE_COLUMNS:
        if name not in one.column_names or name not in two.column_names:
            continue
        a, b = (np.nan_to_num(t[name].to_numpy().astype(float)) for t in (one, two))
        shared = len(set(np.argsort(-a, kind="stable")[:top]) & set(np.argsort(-b, kind="stable")[:top])) / top
        rank = scipy.stats.spearmanr(a, b).statistic
        print(f"{name:18} {rank:8.3f}  {np.abs(a - b).max():14.3f}  {shared:22.1%}")
    x, y = study.embeddings(first), study.embeddings(second)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    cosine = (x * y).sum(axis=1) / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1), 1e-12)
    print(f"centred embeddings: cosine {np.median(cosine):.4f} median, {cosine.min():.4f} least")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
