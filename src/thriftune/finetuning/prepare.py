"""A model made ready to learn, and given back as it was."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from thriftune.config import FinetuneConfig
from thriftune.errors import FinetuneError
from thriftune.model import LanguageModel


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor notices of the libraries below; what matters to a user is said here."""
    import logging

    import transformers

    transformers.utils.logging.set_verbosity_error()
    loud = [logging.getLogger(name) for name in ("trl", "peft", "accelerate", "datasets")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)


def prepare(lm: LanguageModel, config: FinetuneConfig) -> tuple[Any, Callable[[], None]]:
    """The model with what is to be learned in it, and a function that takes it out again.

    LoRA: a fresh adapter in float32 around the frozen base, computed in the base's precision. Full: all weights in
    float32, computed in the base's precision.
    """
    import torch

    base = lm.model
    learns = {name: p.requires_grad for name, p in base.named_parameters()}
    own_forward = vars(base).get("forward")
    use_cache = base.config.use_cache if hasattr(base.config, "use_cache") else None
    torch.manual_seed(config.seed)
    if config.method == "lora":
        import peft

        try:
            model = peft.get_peft_model(base, lora_config(config, lm))
        except (ValueError, TypeError, NotImplementedError) as error:
            raise FinetuneError(f"--target-modules {config.target_modules} does not fit {lm.spec}: {error}") from error
        for module in model.modules():
            if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
                # PEFT would compute the adapters in float32; autocast makes them compute as the base does.
                module.cast_input_dtype_enabled = False
    else:
        model = base
        kept = {name: value.detach().to("cpu", copy=True) for name, value in base.state_dict().items()}
        base.float().requires_grad_(True)

    def restore() -> None:
        if config.method == "lora":
            model.unload()
        else:
            base.to(getattr(torch, lm.dtype))
            base.load_state_dict(kept)
        settle(base, own_forward, use_cache)
        for name, p in base.named_parameters():
            p.requires_grad_(learns[name])
            p.grad = None
        gc.collect()

    return model, restore


def settle(base: Any, own_forward: Any, use_cache: Any) -> None:
    """Undo what trainers leave on a model: a patched forward, checkpointing, no cache."""
    for left in ("forward", "_is_accelerate_prepared"):
        vars(base).pop(left, None)
    if own_forward is not None:
        base.forward = own_forward
    if any(getattr(module, "gradient_checkpointing", False) for module in base.modules()):
        with quiet():
            base.gradient_checkpointing_disable()
    if use_cache is not None:
        base.config.use_cache = use_cache
    base.eval()


def lora_config(config: FinetuneConfig, lm: LanguageModel) -> Any:
    """PEFT's settings."""
    import peft

    # PEFT documents an integer, and computes with any number.
    alpha: Any = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    modules: Any = config.target_modules
    if modules != "all-linear":
        modules = [m.strip() for m in modules.split(",")]
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )
