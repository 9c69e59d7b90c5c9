"""MMLU and BBH of lm-evaluation-harness from local files: where documents come from, derived task files, task names."""
