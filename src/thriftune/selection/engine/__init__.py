"""Greedy maximisation at speed: facility location and k-center, with proofs of how good the picks are."""
