"""The first stage: files and hub datasets become the pool of a study. `build.init` is its entrance."""
