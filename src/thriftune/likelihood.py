"""Negative log-likelihood of responses; only their positions go through the vocabulary projection."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thriftune.attention import packed
from thriftune.errors import ModelError
from thriftune.examples import Example
from thriftune.packing import common, pack, packable, places

if TYPE_CHECKING:
    from torch import Tensor

_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 27}  # logits held at once

# Models whose forward can be continued from the vocabulary projection on its own; found out once for each.
_CONTINUED: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def response_nll(model: Any, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each example's response given its prompt.

    Differentiable unless gradients are off. Logits are reduced in float32, some rows at a time, so that no
    (batch, time, vocabulary) tensor exists; whatever the model does after its projection (a soft cap, a scale) is done
    by its own code.

    Args:
        model: a transformers causal language model, or a PEFT model around one.
        batch: b examples.

    Returns:
        Nats summed over each response, (b,) float32, and the number of its tokens, (b,) int64.

    Raises:
        ModelError: the model has no vocabulary projection that can be found.
    """
    base = _base(model)
    device = base.get_input_embeddings().weight.device
    _continued(base)  # runs the model: not among packed sequences
    if packable(base, max(len(e.ids) for e in batch)):
        with contextlib.suppress(NotImplementedError):  # dropout, which is not there before training
            return _packed_nll(model, base, batch)
    rows, columns, targets, ids = (t.to(device) for t in _layout(batch))
    # No attention mask: padding stands at the end, where no token of an example can see it.
    nll = _nll_at(model, base, {"input_ids": ids, "use_cache": False}, rows, columns, targets)
    total = torch.zeros(len(batch), dtype=torch.float32, device=nll.device)
    return total.index_add(0, rows, nll), torch.bincount(rows, minlength=len(batch))


def computed(model: Any, batch: Sequence[Example]) -> int:
    """Tokens that go through the model in `response_nll`, padding included.

    Args:
        model: as there.
        batch: b examples.
    """
    rows = [e.ids for e in batch]
    longest = max(map(len, rows))
    if packable(_base(model), longest):
        return sum(map(len, rows)) - (len(rows) - 1) * common(rows)
    return len(rows) * longest


def _nll_at(model: Any, base: Any, inputs: dict[str, Any], rows: Tensor, columns: Tensor, targets: Tensor) -> Tensor:
    """(m,) float32 negative log-likelihood of targets at the given positions."""
    if _continued(base):
        hidden, tail = _body(model, base, inputs, rows, columns)
        return _in_chunks(hidden, targets, tail, base)
    with _at_projection(base, lambda states: states[rows, columns][None]):
        return _token_nll(model(**inputs).logits[0], targets)


def _packed_nll(model: Any, base: Any, batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """`response_nll` with all examples in one row: no padding, and what all begin with is computed once."""
    sequences, ids, positions = pack([e.ids[:-1] for e in batch])
    predicts = [np.flatnonzero(e.response[1:]) for e in batch]
    columns = torch.from_numpy(np.concatenate([places(sequences, row, p) for row, p in enumerate(predicts)]))
    targets = torch.from_numpy(np.concatenate([e.ids[p + 1] for e, p in zip(batch, predicts, strict=True)]))
    inputs = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    with packed(sequences):
        nll = _nll_at(model, base, inputs, torch.zeros_like(columns), columns, targets)
    counts = torch.tensor([len(p) for p in predicts])
    rows = torch.repeat_interleave(torch.arange(len(batch)), counts)
    return torch.zeros(len(batch)).index_add(0, rows, nll), counts


def _base(model: Any) -> Any:
    """The transformers model inside wrappers for adapters or several devices."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _layout(batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row and column of each position that predicts a response token, that token, and (b, t) input ids."""
    width = max(len(e.ids) for e in batch) - 1
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    predicts = torch.zeros(len(batch), width, dtype=torch.bool)
    nexts = torch.zeros_like(ids)
    for row, e in enumerate(batch):
        length = len(e.ids) - 1
        ids[row, :length] = torch.from_numpy(e.ids[:-1])
        nexts[row, :length] = torch.from_numpy(e.ids[1:])
        predicts[row, :length] = torch.from_numpy(e.response[1:])
    rows, columns = predicts.nonzero(as_tuple=True)
    return rows, columns, nexts[rows, columns], ids


@contextlib.contextmanager
def _at_projection(base: Any, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While the block runs, the vocabulary projection sees ``replace`` of its (b, t, d) input."""
    head = base.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(base).__name__} has no vocabulary projection: give a causal language model")
    handle = head.register_forward_pre_hook(lambda _module, inputs: (replace(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _body(
    model: Any, base: Any, inputs: dict[str, Any], rows: Tensor, columns: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Hidden states (m, d) at the chosen positions, and what the model makes of such rows: (c, d) to (c, V) logits."""
    caught: list[Tensor] = []
    outputs: list[Any] = []

    def catch(states: Tensor) -> Tensor:
        caught.append(states[rows, columns])
        # One position, so that the model's forward can end cheaply. Not states[:1, :1]: `model._dense` says why.
        return states[0, :1][None]

    decoder = base.get_decoder()
    handle = decoder.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        with _at_projection(base, catch):
            model(**inputs)
    finally:
        handle.remove()
    if len(caught) != 1 or len(outputs) != 1:
        raise ModelError(f"{type(base).__name__} does not end in one vocabulary projection: thriftune cannot train it")
    decoded = outputs[0]

    def tail(hidden: Tensor) -> Tensor:
        chunk = hidden[None]
        if isinstance(decoded, tuple):
            output: Any = (chunk, *decoded[1:])
        else:
            output = dataclasses.replace(decoded, last_hidden_state=chunk)
        kept = vars(decoder).get("forward")
        decoder.forward = lambda *_args, **_kwargs: output
        try:
            # The projection's input is given too: some models rescale between decoder and projection.
            with _at_projection(base, lambda _states: chunk):
                logits: Tensor = base(input_ids=inputs["input_ids"][:1, :1], use_cache=False).logits[0]
        finally:
            del decoder.forward
            if kept is not None:
                decoder.forward = kept
        return logits

    return caught[0], tail


def _continued(base: Any) -> bool:
    """Whether a model's forward, continued from its projection alone, gives what its whole forward gives."""
    if base not in _CONTINUED:
        try:
            device = base.get_input_embeddings().weight.device
            ids = torch.tensor([[0, 1, 2]], device=device)
            where = torch.tensor([0, 0], device=device), torch.tensor([1, 2], device=device)
            with torch.no_grad():
                training = base.training
                base.eval()
                try:
                    plain = base(input_ids=ids, use_cache=False).logits[0, 1:]
                    hidden, tail = _body(base, base, {"input_ids": ids, "use_cache": False}, *where)
                    again = tail(hidden)
                finally:
                    base.train(training)
            near = 1e-4 if plain.dtype == torch.float32 else 0.1
            _CONTINUED[base] = plain.shape == again.shape and torch.allclose(plain, again, rtol=near, atol=near)
        except (AttributeError, TypeError, ModelError, IndexError, NotImplementedError):
            _CONTINUED[base] = False
    return _CONTINUED[base]


def _in_chunks(hidden: Tensor, targets: Tensor, tail: Callable[[Tensor], Tensor], base: Any) -> Tensor:
    """(m,) float32 negative log-likelihood of ``targets`` from (m, d) hidden states."""
    from torch.utils.checkpoint import checkpoint

    head = base.get_output_embeddings()
    size = _rows_at_once(base, hidden.device.type)
    pieces = list(zip(hidden.split(size), targets.split(size), strict=True))
    if not pieces:
        return hidden.sum(dim=-1).float()
    if not torch.is_grad_enabled():
        return torch.cat([_token_nll(tail(h), y) for h, y in pieces])
    if any(p.requires_grad for p in head.parameters()):

        def piece(h: Tensor, y: Tensor) -> Tensor:
            return _token_nll(tail(h), y)

        return torch.cat([checkpoint(piece, h, y, use_reentrant=False) for h, y in pieces])
    nll: Tensor = _FrozenProjection.apply(hidden, targets, tail, size)
    return nll


def projection_bytes(device: str) -> int:
    """Memory that logits take while they are reduced: their own precision, a float32 copy, and gradients of both."""
    return 12 * _ELEMENTS.get(device.partition(":")[0], _ELEMENTS["cuda"])


def _rows_at_once(base: Any, device: str) -> int:
    elements = _ELEMENTS.get(device, _ELEMENTS["cuda"])
    return max(16, elements // int(base.config.get_text_config().vocab_size))


def _token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


class _FrozenProjection(torch.autograd.Function):
    """Negative log-likelihoods whose gradient is made with them, chunk by chunk, so that no logits are kept.

    Each token's depends on its own hidden state only: the gradient for any weights of the tokens is the stored one
    times the weight.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, tail: Callable[[Tensor], Tensor], size: int) -> Tensor:
        gradient = torch.empty_like(hidden)
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            with torch.enable_grad():
                rows = hidden[part].detach().requires_grad_()
                logits = tail(rows)
            # d nll / d logits = softmax - one hot, made in place of a float32 copy.
            slope = logits.detach().float()
            total = slope.logsumexp(dim=-1, keepdim=True)
            target = targets[part, None]
            nll[part] = (total - slope.gather(1, target)).squeeze(1)
            slope.sub_(total).exp_()
            slope.scatter_add_(1, target, torch.full_like(total, -1))
            (gradient[part],) = torch.autograd.grad(logits, rows, slope.to(logits.dtype))
        ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient.float() * weight[:, None]).to(gradient.dtype), None, None, None
