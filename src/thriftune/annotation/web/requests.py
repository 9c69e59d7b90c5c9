"""What the page may ask for: each request's fields, checked before anything is done with them."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LONGEST = 1_000_000


def _name(value: str) -> str:
    """One person, one name: however it was typed."""
    name = " ".join(unicodedata.normalize("NFC", value).split())
    if not name or len(name) > 60 or any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") for c in name):
        raise ValueError("give a name of 1 to 60 characters")
    return name


Name = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_name)]
Text = Annotated[str, Field(max_length=LONGEST)]
Id = Annotated[str, Field(max_length=100_000)]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Row = Annotated[int, Field(ge=0, lt=2**62)]


class Nothing(BaseModel):
    """No fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class By(Nothing):
    """Who asks."""

    name: Name


class Next(By):
    """Ask for a prompt, after one that is put off."""

    after: Id | None = None


class About(By):
    """Ask for one prompt, or act on it."""

    id: Id


class Written(About):
    """A text, half-written or an answer."""

    text: Text
    seconds: Seconds
    revision: Row


class Skipped(About):
    """A prompt passed."""

    seconds: Seconds
    reason: Annotated[str, Field(max_length=2000)] = ""
    flag: Literal["unanswerable", "duplicate"] | None = None


class Decided(About):
    """A review's outcome."""

    text: Text
    seen: Row | None = None


class Reopened(About):
    """A review's outcome taken back, or flags taken off."""

    what: Literal["decision", "flags"]


class Sought(By):
    """Words and a state."""

    query: Annotated[str, Field(max_length=1000)] = ""
    state: Literal["all", "open", "mine", "skipped"] = "all"
