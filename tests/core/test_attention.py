"""Attention of one prompt in bfloat16 against torch's, and what is left to torch."""

import pytest
import torch

from thriftune import attention
from thriftune.model import load
from thriftune.scoring.transformers import Pass


class Module:
    num_key_value_groups = 3
    is_causal = True
    training = False


def heads(count, length, seed, rows=1, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, count, 16, generator=generator).to(dtype).transpose(1, 2)


@pytest.mark.parametrize("length", [2, 127, 128, 129, 300])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_one_prompt_equals_torch(length, scaling):
    q, k, v = heads(6, length, 0), heads(2, length, 1), heads(2, length, 2)
    ours, _ = attention.attend(Module(), q, k, v, None, scaling=scaling)
    exact = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=True, scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(ours.double(), exact, atol=0.03, rtol=0.02)


@pytest.mark.parametrize("case", ["several rows", "a mask", "float32", "not causal", "more keys"])
def test_all_else_is_torchs(case, monkeypatch):
    monkeypatch.setattr(attention, "_Sequences", None)  # to call it would fail
    rows = 2 if case == "several rows" else 1
    dtype = torch.float32 if case == "float32" else torch.bfloat16
    q, k, v = (heads(n, 40, n, rows, dtype) for n in (6, 2, 2))
    mask = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril() if case == "a mask" else None
    if case == "more keys":
        q = q[:, :, -1:]
    found, _ = attention.attend(Module(), q, k, v, mask, is_causal=case != "not causal")
    assert found.shape == (rows, q.shape[2], 6, 16)


def test_models_that_attend_otherwise_are_left_alone(tiny_model):
    for dtype in ("bfloat16", "float32"):
        lm = load(str(tiny_model), dtype=dtype, device="cpu")
        Pass(lm, max_new_tokens=2).check()
        assert lm.model.config._attn_implementation == attention.NAME
    lm = load(str(tiny_model), dtype="bfloat16", device="cpu")
    lm.model.set_attn_implementation("eager")
    Pass(lm, max_new_tokens=2)
    assert lm.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("prefix", [0, 3, 130])
def test_packed_sequences_and_their_gradients_equal_each_alone(prefix):
    lengths = (1, 5, 129, 300)
    total = prefix + sum(lengths)
    q, k, v = (heads(n, total, seed, dtype=torch.float64).requires_grad_() for seed, n in enumerate((6, 2, 2)))
    slope = heads(6, total, 9, dtype=torch.float64).transpose(1, 2)
    with attention.packed(attention.Packed(prefix, lengths)):
        ours, _ = attention.attend(Module(), q, k, v, None)
    found = torch.autograd.grad(ours, (q, k, v), slope)
    pieces, start = [], prefix
    for number, length in enumerate(lengths):
        columns = torch.cat([torch.arange(prefix), torch.arange(start, start + length)])
        alone = torch.nn.functional.scaled_dot_product_attention(
            q[:, :, columns], k[:, :, columns], v[:, :, columns], is_causal=True, enable_gqa=True
        ).transpose(1, 2)
        pieces.append(alone if number == 0 else alone[:, prefix:])
        start += length
    exact = torch.cat(pieces, dim=1)
    torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(found, torch.autograd.grad(exact, (q, k, v), slope), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
