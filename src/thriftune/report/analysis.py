"""What an experiment found, as its analysis.json says it, checked before anything is drawn from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from thriftune.artifacts import read_json
from thriftune.errors import StudyError


def _finite(value: Any) -> Any:
    """What has no finite value is not known."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Bound = Literal["within", "at least", "at most", "unidentified"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Point(_Part):
    """A strategy's mean at a budget, over seeds and items; ``seeds`` the mean of each seed."""

    strategy: str
    budget: int
    mean: Number
    low: Number = None
    high: Number = None
    seeds: list[Number] = []


class Difference(_Part):
    """A strategy less the baseline at a budget, positive where the strategy is better."""

    budget: int
    mean: Number
    low: Number = None
    high: Number = None


class Comparison(_Part):
    """One strategy against the baseline by one metric."""

    strategy: str
    reads_tasks: bool = False
    rho: Number = None
    rho_low: Number = None
    rho_high: Number = None
    saved: Number = None
    saved_low: Number = None
    saved_high: Number = None
    bound: Bound
    differences: list[Difference] = []
    smallest_detectable: Number = None
    verdict: str
    shown: bool

    @property
    def standing(self) -> Literal["better", "worse", "same", "unknown"]:
        """What the interval says of the strategy: it saves, it needs more, neither is shown, or nothing can be said."""
        if self.shown:
            return "better"
        if self.bound == "unidentified":
            return "unknown"
        return "worse" if self.saved_high is not None and self.saved_high < 0 else "same"


class Base(_Part):
    """The model before any fine-tuning."""

    mean: Number


class Metric(_Part):
    """Everything measured by one metric."""

    metric: str
    higher_is_better: bool
    base: Base | None = None
    curves: list[Point] = []
    strategies: list[Comparison] = []


class Costs(_Part):
    """Seconds that the parts of an experiment took."""

    score_seconds: Number = None
    select_seconds: dict[str, Number] = {}
    finetune_seconds_mean: Number = None
    evaluate_seconds_mean: Number = None


class Analysis(_Part):
    """An analysis.json; ``metric`` is the one that the experiment was planned for."""

    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    baseline: str = "random"
    budgets: list[int] = []
    seeds: list[int] = []
    items: int | None = None
    tasks: int | None = None
    warnings: list[str] = []
    metric: str | None = None
    metrics: list[Metric] = []
    costs: Costs = Costs()


def read_analysis(file: Path) -> Analysis:
    """Read and check an analysis.

    Args:
        file: the JSON file.

    Returns:
        The analysis, what is not finite in it as None.

    Raises:
        StudyError: it is missing, damaged, or lacks what the report needs.
    """
    try:
        return Analysis.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise StudyError(
            f"{file} is damaged ({place}: {first['msg']}): remove it and run the same thriftune bench again, "
            f"which keeps the finished cells"
        ) from None
