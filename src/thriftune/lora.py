"""A LoRA layer's forward and backward with fewer passes over memory than PEFT's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import torch

if TYPE_CHECKING:
    from torch import Tensor


class _Adapted(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen; computed in the precision of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        y = torch.nn.functional.linear(x, weight, bias)
        low = x.reshape(-1, x.shape[-1]) @ a.T
        # Added in place: PEFT makes three more tensors of y's size.
        y.view(-1, y.shape[-1]).addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, a, b, low = ctx.saved_tensors
        flat = slope.reshape(-1, slope.shape[-1])
        down = flat @ b
        down *= ctx.scale
        to_a = (down.T @ x.reshape(-1, x.shape[-1])).float()
        to_b = (low.T @ flat).T.float().contiguous().mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = flat @ weight
            to_x.addmm_(down, a)
            to_x = to_x.view(x.shape)
        return to_x, None, None, to_a, to_b, None


def lean(model: Any, computed: torch.dtype) -> bool:
    """Let plain LoRA layers of ``model`` compute as `_Adapted` does, for as long as they are there.

    Args:
        model: a model with PEFT's layers in it, or any other, which is left alone.
        computed: the precision of the base's weights.

    Returns:
        Whether every adapter is such a layer: nothing else then needs autocast to compute in ``computed``.
    """
    layers = [m for m in model.modules() if isinstance(m, peft.tuners.tuners_utils.BaseTunerLayer)]
    plain = [m for m in layers if _is_plain(m, computed)]
    for layer in plain:
        layer.forward = _forward(layer)
    return bool(layers) and len(plain) == len(layers)


def _is_plain(layer: Any, computed: torch.dtype) -> bool:
    """Whether a layer is one adapter on one frozen linear map, with nothing in between."""
    if type(layer) is not peft.tuners.lora.Linear or type(layer.base_layer) is not torch.nn.Linear:
        return False
    (name, *more) = layer.active_adapters
    return (
        not more
        and not layer.merged
        and not layer.lora_variant
        and layer.base_layer.weight.dtype == computed
        and not any(p.requires_grad for p in layer.base_layer.parameters())
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and (isinstance(layer.lora_dropout[name], torch.nn.Identity) or not layer.training)
    )


def _forward(layer: Any) -> Any:
    (name,) = layer.active_adapters
    base, a, b, scale = layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.scaling[name]

    def forward(x: Tensor) -> Tensor:
        y: Tensor = _Adapted.apply(x.to(base.weight.dtype), base.weight, base.bias, a.weight, b.weight, scale)
        return y

    return forward
