"""What fine-tuning tests share: a loaded tiny model and questions with answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from thriftune.examples import Example, tokenize
from thriftune.model import LanguageModel, load
from thriftune.types import Prompt


@pytest.fixture
def lm(tiny_model: Path) -> LanguageModel:
    return load(str(tiny_model), dtype="float32", device="cpu")


@pytest.fixture
def questions(lm: LanguageModel) -> list[Example]:
    """24 sums, from short to long."""
    prompts = [Prompt(f"p{i:02d}", f"What is {i} plus {i}?" + " Think." * (i % 5)) for i in range(24)]
    return tokenize(lm, prompts, [f"It is {2 * i}." for i in range(24)])
