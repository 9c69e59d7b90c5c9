"""Measuring a model: held-out prompts, public benchmarks, a judge."""
