"""LoRA layers with fewer passes: against PEFT's own, values and gradients, and where they are not used."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from thriftune.lora import lean


class Two(torch.nn.Module):
    """Two linear maps, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 10)
        self.second = torch.nn.Linear(10, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def layers(**more: Any) -> Any:
    torch.manual_seed(0)
    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["first", "second"], "init_lora_weights": False}
    return peft.get_peft_model(Two(), peft.LoraConfig(**{**settings, **more})).train()


def outcome(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, 7, 6).to(dtype).requires_grad_()
    y = model(x)
    (y.float() * torch.randn(y.shape)).sum().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"y": y.detach(), "x": x.grad, **found}


def test_values_and_gradients_equal_peft() -> None:
    model = layers()
    expected = outcome(model)
    settled = lean(model, torch.float32)
    found = outcome(model)
    assert settled and len([m for m in model.modules() if "forward" in vars(m)]) == 2
    assert found.keys() == expected.keys() and len(found) == 6
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)
    assert not [m for m in model.unload().modules() if "forward" in vars(m)]


def test_a_half_precision_base_computes_in_its_own() -> None:
    model = layers()
    expected = outcome(model)
    for layer in (model.base_model.model.first, model.base_model.model.second):
        layer.base_layer.to(torch.bfloat16)
    assert lean(model, torch.bfloat16)
    found = outcome(model, torch.bfloat16)
    assert found["y"].dtype == torch.bfloat16
    for name, value in expected.items():
        assert found[name].dtype == (torch.bfloat16 if name in {"x", "y"} else torch.float32)
        error = (found[name].float() - value).norm() / value.norm()
        assert error < 0.03, name


@pytest.mark.parametrize("more", [{"lora_dropout": 0.5}, {"use_dora": True}, {"bias": "all"}])
def test_other_kinds_are_left_to_peft(more: dict[str, Any]) -> None:
    model = layers(**more)
    expected = outcome(model)
    assert not lean(model, torch.float32)
    found = outcome(model)
    assert found.keys() >= {"x", "y"} and all(torch.allclose(found[n], v, atol=1e-5) for n, v in expected.items())


def test_dropout_is_no_hindrance_once_it_is_off() -> None:
    model = layers(lora_dropout=0.5).eval()
    expected = outcome(model)
    assert lean(model, torch.float32)
    torch.testing.assert_close(outcome(model)["y"], expected["y"])
