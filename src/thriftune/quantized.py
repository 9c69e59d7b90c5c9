"""Weights in 4 or 8 bits: rounded on loading, or stored so, by bitsandbytes."""

from __future__ import annotations

import logging
from typing import Any

from thriftune.errors import ModelError, require


def loading_arguments(quantize: str | None, stored: Any, spec: str, device: str, dtype: str) -> dict[str, Any]:
    """What transformers is to be told.

    Args:
        quantize: ``4bit``, ``8bit``, or None to leave weights as they are stored.
        stored: the quantisation that the model's config names, or None.
        spec: the model, as the user named it.
        device: where it is to run.
        dtype: what it is to compute in.

    Returns:
        Arguments of ``from_pretrained``; none for plain weights.

    Raises:
        ModelError: the weights are quantised already.
        MissingDependency: bitsandbytes is needed and not installed.
    """
    if stored is not None and quantize is not None:
        raise ModelError(f"{spec} is stored quantised already: leave out --quantize {quantize}")
    method = None if stored is None else (stored if isinstance(stored, dict) else vars(stored)).get("quant_method")
    if quantize is None and getattr(method, "value", method) != "bitsandbytes":
        return {}
    import torch
    import transformers

    for needed in ("bitsandbytes", "accelerate"):
        require(needed, command=f"--quantize {quantize}" if quantize else f"{spec} (quantised)", install=needed)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of each layer that it computes in float16
    told: dict[str, Any] = {"device_map": {"": device}}  # layers are rounded on the way there, and cannot move later
    if quantize == "4bit":
        told["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
        )
    elif quantize == "8bit":
        told["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=True)
    return told
