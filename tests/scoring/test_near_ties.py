"""The largest logits in float32 of a model in 16 bits."""

from types import SimpleNamespace

import pytest
import torch

from thriftune.scoring.near_ties import resolved


def a_model(head):
    return SimpleNamespace(get_output_embeddings=lambda: head)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64,), (5, 1, 64), (1, 7, 64)])
def test_the_largest_are_the_product_in_float32(dtype, bias, shape):
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 300, bias=bias, dtype=dtype)
    hidden = (10 * torch.randn(shape)).to(dtype)
    with torch.inference_mode():
        rounded = head(hidden)
        with resolved(a_model(head)):
            found = head(hidden)
        exact = torch.nn.functional.linear(hidden.float(), head.weight.float(), head.bias.float() if bias else None)
    largest = rounded.topk(8).indices
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.gather(-1, largest), exact.gather(-1, largest))
    rest = found.scatter(-1, largest, 0)
    assert torch.equal(rest, rounded.float().scatter(-1, largest, 0))
    assert torch.equal(head(hidden), rounded)  # nothing is left behind


def test_a_tie_that_is_none_is_told_apart():
    head = torch.nn.Linear(2, 3, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[16, 0], [16, 0.03125], [0, 0]]))
        hidden = torch.ones(1, 2, dtype=torch.bfloat16)
        assert head(hidden)[0, 0] == head(hidden)[0, 1]
        with resolved(a_model(head)):
            assert head(hidden).tolist() == [[16, 16.03125, 0]]  # a vocabulary of less than eight, too


def test_other_heads_are_left_alone():
    class Adapted(torch.nn.Linear):
        """Does more than its weights say."""

    for head in (torch.nn.Linear(2, 9), Adapted(2, 9, dtype=torch.bfloat16), None):
        with resolved(a_model(head)):
            assert head is None or not head._forward_hooks
