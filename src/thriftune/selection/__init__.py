"""Choosing prompts: the registry of strategies, and `select`, which runs one and verifies its answer."""
