"""One self-contained HTML page about a study: the pool, its selections, and why each prompt was picked."""
