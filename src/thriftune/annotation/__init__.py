"""Annotation: selections go out to people or programs as files, and their answers come back."""
