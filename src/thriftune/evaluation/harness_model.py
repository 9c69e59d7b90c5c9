"""A loaded language model as lm-evaluation-harness wants it. Imported only where the harness is used."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from thriftune.model import LanguageModel

_FLOAT = 4  # bytes
_COPIES = 3  # logits, their float32 log-softmax, and what the slices hold on to
_CPU_MEMORY = 3 << 29  # bytes a batch may take beside the model
_CPU_TOKENS = 768  # larger batches are slower on a CPU
_CPU_GENERATING = 8
_GPU_SHARE = 0.3
_GPU_GENERATING = 64
_WORTH_SHARING = 32  # tokens

# Models for which it is known whether reading a common beginning once is right.
_KNOWN: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


class HarnessModel(HFLM):
    """The harness' own transformers model around one that is loaded: silent, in batches that fit, and faster.

    Prompts, tokens and what is made of the logits are the harness'. Three things differ, none of them in the numbers
    (beyond rounding): batches are sized here, because the harness finds their size by running out of memory, which on
    a CPU ends the process; only positions that are scored go through the vocabulary projection; and the few-shot
    examples that all prompts of a task begin with are read once.

    Args:
        language_model: in eval mode; an adapter may be attached.
        batch_size: rows, or ``auto``.
    """

    batch_size_per_gpu: Any

    def __init__(self, language_model: LanguageModel, batch_size: int | str) -> None:
        tokenizer = language_model.tokenizer
        if tokenizer.pad_token_id is None:
            # The harness sets one: the caller's tokenizer stays as it is.
            tokenizer = copy.deepcopy(tokenizer)
        super().__init__(pretrained=language_model.model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        self.cut = 0
        self.shrink = 1.0
        config = language_model.model.config.get_text_config()
        self._vocabulary = int(getattr(config, "vocab_size", 0) or len(tokenizer))
        attention = int(getattr(config, "num_attention_heads", 0) or 1)
        heads = int(getattr(config, "num_key_value_heads", 0) or attention)
        width = int(getattr(config, "head_dim", 0) or int(getattr(config, "hidden_size", 1024)) // attention)
        self._cache_token = 2 * int(getattr(config, "num_hidden_layers", 32)) * heads * width * _FLOAT
        plain = getattr(language_model.model, "get_base_model", lambda: language_model.model)()
        self._can_trim = "logits_to_keep" in inspect.signature(plain.forward).parameters
        self._sharing = _KNOWN.get(language_model.model)
        self._next = self._rows = self._longest_answer = 0
        self._beginning: list[int] = []
        self._cache: Any = None

    def advance_with(self, advance: Callable[[float], None]) -> None:
        """Call ``advance(1)`` whenever a request is done."""
        self.set_cache_hook(_Advance(advance))

    # --- batches ----------------------------------------------------------------------------------------------------

    def _memory(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] * _GPU_SHARE * self.shrink
        return _CPU_MEMORY * self.shrink

    def rows(self, length: int, shared: int = 0) -> int:
        """How many sequences of ``length`` tokens, ``shared`` of them read already, are read in a batch."""
        tokens = self._memory() / (_COPIES * _FLOAT * self._vocabulary + self._cache_token)
        if self.device.type != "cuda":
            tokens = min(tokens, _CPU_TOKENS * self.shrink)
        fitting = self._memory() / (self._cache_token * max(length, 1))
        return max(1, int(min(tokens / max(length - shared, 1), fitting)))

    def generating_rows(self, length: int) -> int:
        """How many answers are written at once, of ``length`` tokens with their prompts."""
        most = _GPU_GENERATING if self.device.type == "cuda" else _CPU_GENERATING
        return max(1, min(int(self._memory() / (self._cache_token * max(length, 1))), int(most * self.shrink)))

    def _batch_scheduler(self, pos: int, n_reordered_requests: Sequence[Any]) -> int:
        # Asked at every request, longest first; the answer must not change before the batch is full.
        if pos == 0:
            self._next = 0
        if pos == self._next:
            _, context, continuation = n_reordered_requests[pos]
            length = min(len(context) + len(continuation) - 1, self.max_length)
            self._rows = self.rows(length, len(self._beginning))
            self._next = pos + self._rows
        return self._rows

    def new_tokens(self, settings: dict[str, Any]) -> int:
        """How many tokens a request may generate."""
        names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        return int(next((settings[n] for n in names if settings.get(n)), self.max_gen_toks))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        new = [self.new_tokens(request.args[1]) for request in requests]
        self.cut += sum(length > self.max_length - n for length, n in zip(lengths, new, strict=True))
        chosen = self.batch_size_per_gpu
        if chosen == "auto":
            longest = max(length + n for length, n in zip(lengths, new, strict=True))
            self.batch_size_per_gpu = self.generating_rows(min(longest, self.max_length))
        try:
            return list(super().generate_until(requests, disable_tqdm=True))
        finally:
            self.batch_size_per_gpu = chosen

    # --- likelihoods ------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        cut = sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
        self.cut += cut
        self._longest_answer = max((len(answer) for *_, answer in requests), default=0)
        self._beginning = [] if cut or self._sharing is False else common_beginning([c for _, c, _ in requests])
        try:
            return list(super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs))
        finally:
            self._longest_answer, self._beginning, self._cache = 0, [], None

    def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
        if not self._longest_answer or not self._can_trim:
            return super()._model_call(inps, attn_mask, labels)
        # The harness pads at the end with zeros and looks for the scored positions from the end, however many it gets.
        used = (inps.ne(0) * torch.arange(1, inps.shape[1] + 1, device=inps.device)).amax(1)
        keep = min(inps.shape[1], int(inps.shape[1] - used.min()) + self._longest_answer)
        with torch.no_grad():
            if self._beginning:
                found = self._continued(inps, min(keep, inps.shape[1] - len(self._beginning)))
                if found is not None:
                    return found
            return self.model(inps, logits_to_keep=keep).logits

    def read(self, batch: Any) -> None:
        """Let the model read ``batch`` (rows, tokens) as for a one-token answer."""
        with torch.no_grad():
            self.model(batch, **({"logits_to_keep": 1} if self._can_trim else {}))

    def _continued(self, inps: Any, keep: int) -> Any:
        """Logits of the last ``keep`` positions, from the stored reading of the common beginning."""
        start = len(self._beginning)
        if self._cache is None:
            beginning = torch.tensor([self._beginning], dtype=torch.long, device=inps.device)
            self._cache = self.model(beginning, use_cache=True, logits_to_keep=1).past_key_values
        if type(self._cache).__name__ != "DynamicCache":
            return self._not_shared()
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(inps.shape[0])
        logits = self.model(inps[:, start:], past_key_values=cache, use_cache=True, logits_to_keep=keep).logits
        if self._sharing is None:
            # An architecture that keeps its past some other way would be measured wrongly without a sound.
            plain = torch.log_softmax(self.model(inps[:1], logits_to_keep=keep).logits.float(), -1)
            likely = plain.topk(min(20, plain.shape[-1])).indices
            off = (torch.log_softmax(logits[:1].float(), -1) - plain).gather(-1, likely).abs().max()
            self._sharing = _KNOWN[self.model] = bool(off < (0.01 if logits.dtype == torch.float32 else 0.5))
            if not self._sharing:
                return self._not_shared()
        return logits

    def _not_shared(self) -> None:
        self._sharing, self._cache, self._beginning = False, None, []


def common_beginning(sequences: Sequence[list[int]]) -> list[int]:
    """The tokens that all ``sequences`` begin with; empty where reading them once is not worth it.

    At least one token of each sequence is left over, because the first scored position needs one to be read.
    """
    if len(sequences) < 2:
        return []
    # The first and the last in order differ soonest.
    first, last = min(sequences), max(sequences)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    length = min(length, min(len(s) for s in sequences) - 1)
    return list(first[:length]) if length >= _WORTH_SHARING else []


class _Advance:
    """Stands where the harness reports each answered request to its cache."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self.advance = advance

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self.advance(1)
