"""Score: one pass of the language model over the pool."""
