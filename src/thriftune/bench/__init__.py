"""The label-efficiency experiment: strategies against random, at several budgets, with paired seeds."""
