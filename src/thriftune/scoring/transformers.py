"""The scoring pass with transformers: prefill, greedy answer, statistics and embedding of one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftune.errors import ModelError, ScoreError
from thriftune.model import LanguageModel
from thriftune.render import Rendered
from thriftune.scoring.near_ties import resolved
from thriftune.scoring.plan import group_tokens, groups
from thriftune.scoring.pooling import Pooling, pool
from thriftune.scoring.prompt_nll import check_projection, overflow, prompt_nll
from thriftune.scoring.uncertainty import Step, reduce_logits
from thriftune.types import FloatArray

if TYPE_CHECKING:
    from thriftune.attention import Packed

_COMPACT = 0.25  # finished share of a batch at which its cache is worth copying


@dataclass
class Answer:
    """What one pass yields for one prompt.

    Args:
        tokens: (t,) greedy tokens, the one that ended the answer included.
        entropy, nll, margin: (t,) per step, see `uncertainty.Step`.
        finished: True when the model ended the answer itself.
        embedding: (d,) float32.
        prompt_nll: nats a token, or None when not asked for or no token can be predicted.
    """

    tokens: list[int] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    margin: list[float] = field(default_factory=list)
    finished: bool = False
    embedding: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    prompt_nll: float | None = None


class Pass:
    """One pass of a model over batches of prompts.

    Args:
        lm: the model.
        max_new_tokens: longest draft answer; 0 for none.
        layers: hidden states to embed with, comma-separated: ``last`` (after the final norm), layer numbers or shares
            of the depth, ``60%``; layer i is the output of block i, 0 the token embeddings; several are concatenated.
        pooling: of the user's tokens, see `pooling.pool`.
        prompt_nll: also project the user's tokens on the vocabulary.

    Raises:
        ModelError: a layer does not exist, or its output cannot be found in this architecture.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        max_new_tokens: int,
        layers: str = "last",
        pooling: Pooling = "last",
        prompt_nll: bool = True,
    ) -> None:
        self.lm = lm
        self.max_new_tokens = max_new_tokens
        self.pooling = pooling
        self.prompt_nll = prompt_nll
        self.decoder = lm.model.get_decoder()
        if lm.device == "cpu":
            from thriftune import attention

            attention.use(lm.model)
        self.layers = self._resolve(layers)
        self._projection_checked = False
        self._group_tokens: int | None = group_tokens(lm.device)
        self._together = True

    def _resolve(self, layers: str) -> list[int]:
        count = int(self.lm.model.config.get_text_config().num_hidden_layers)
        numbers = [_number(part.strip(), count) for part in layers.split(",")]
        wrong = [n for n in numbers if not 0 <= n <= count]
        if wrong:
            raise ModelError(f"layer {wrong[0]} does not exist: {self.lm.spec} has layers 0 to {count}")
        return numbers

    def _module(self, layer: int) -> Any:
        """The module whose output is hidden state ``layer``."""
        import torch

        count = int(self.lm.model.config.get_text_config().num_hidden_layers)
        if layer == count:
            return self.decoder
        if layer == 0:
            return self.lm.model.get_input_embeddings()
        for child in self.decoder.children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                return child[layer - 1]
        raise ModelError(f"cannot find the layers of {self.lm.spec}: use --layer last")

    def run(self, prompts: Sequence[Rendered]) -> list[Answer]:
        """Score one batch.

        Args:
            prompts: the batch; together with the answers they must fit the model's context.

        Returns:
            One answer each, in order.
        """
        import torch

        with torch.inference_mode():
            answers = [Answer() for _ in prompts]
            # Longest first: prompts of like lengths then read together need little padding.
            order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids))
            self._answer([prompts[i] for i in order], [answers[i] for i in order])
        return answers

    def _answer(self, prompts: Sequence[Rendered], answers: list[Answer]) -> None:
        import torch

        from thriftune.packing import common, packable
        from thriftune.scoring.cache import join, joinable

        decode = self.max_new_tokens > 1
        logits, caches = [], []
        together = self._together and packable(self.lm.model, len(prompts[0].ids))
        prefix = common([p.ids for p in prompts]) if together else None
        for start, end in groups([len(p.ids) for p in prompts], self._group_tokens, prefix):
            last, cache, packed = self._prefill(prompts[start:end], answers[start:end], together and end - start > 1)
            if decode and (together or end - start < len(prompts)) and not joinable(cache):
                self._together, self._group_tokens = False, None  # from now on a batch is read at once
                self._answer(prompts, answers)
                return
            logits.append(last)
            caches.append((cache, packed))
        if not self.max_new_tokens:
            return
        lengths = torch.tensor([len(p.ids) for p in prompts], device=self.lm.device)
        columns = int(lengths[0])
        if decode and joinable(caches[0][0]):
            # One column that nobody sees: without padding transformers drops the mask, and then attends to grouped
            # keys in a way that takes four times as long on a CPU.
            columns += 1
            caches = [(join(caches, columns, self.max_new_tokens - 1), None)]
        mask = (torch.arange(columns, device=self.lm.device) >= columns - lengths[:, None]).long()
        self._decode(answers, torch.cat(logits), caches[0][0], mask, lengths)

    def check(self) -> None:
        """Compare two padded prompts and two steps with the model's plain forward, before anything depends on them.

        Raises:
            ScoreError: its numbers are not finite in this dtype.
            ModelError: the model ignores padding, positions, cache or ``logits_to_keep``, or has none of them.
        """
        import torch

        some = [i for i in range(5, 12) if i not in self.lm.stop_ids]
        prompts = [Rendered(np.array(ids, np.int64), np.ones(len(ids), bool), False) for ids in (some, some[:3])]
        new_tokens, self.max_new_tokens = self.max_new_tokens, 2
        try:
            answers = self.run(prompts)
            for prompt, answer in zip(prompts, answers, strict=True):
                ids = torch.tensor([[*prompt.ids, *answer.tokens[:-1]]], device=self.lm.device)
                with torch.inference_mode():
                    plain = reduce_logits(
                        self.lm.model(input_ids=ids, use_cache=False).logits[0, len(prompt.ids) - 1 :]
                    )
                if not np.isfinite([*answer.entropy, *answer.nll]).all():
                    raise ScoreError(overflow(self.lm))
                exact = self.lm.dtype == "float32" and not getattr(self.lm.model, "is_quantized", False)
                near = 1e-2 if exact else 1.0
                if not np.allclose([answer.entropy, answer.nll], [plain.entropy.cpu(), plain.nll.cpu()], atol=near):
                    raise ModelError(
                        f"{self.lm.spec} gives other answers in a batch than alone: thriftune cannot run it"
                    )
        except (AttributeError, TypeError, IndexError, NotImplementedError) as error:
            raise ModelError(f"{self.lm.spec} is not a decoder that thriftune can run ({error})") from error
        finally:
            self.max_new_tokens = new_tokens

    # --- prefill ----------------------------------------------------------------------------------------------------

    def _prefill(
        self, prompts: Sequence[Rendered], answers: list[Answer], together: bool
    ) -> tuple[Any, Any, Packed | None]:
        """The last position's logits, the cache, and where in it prompts are that were read ``together`` in a row."""
        import torch

        from thriftune.attention import packed
        from thriftune.packing import pack, places

        device = self.lm.device
        lengths = [len(p.ids) for p in prompts]
        longest = max(lengths)
        starts = [longest - n for n in lengths]
        inputs: dict[str, Any]
        if together:
            sequences, ids, positions = pack([p.ids for p in prompts])
            # Each prompt's places, as if it were padded on the left.
            rows = [places(sequences, row, np.arange(n)) for row, n in enumerate(lengths)]
            where = torch.from_numpy(np.stack([np.pad(r, (longest - len(r), 0)) for r in rows]))
            inputs = {"logits_to_keep": where[:, -1]}
        else:
            ids = torch.full((len(prompts), longest), next(iter(self.lm.stop_ids), 0), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
                ids[row, start:] = torch.from_numpy(prompt.ids)
                mask[row, start:] = 1
            positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
            inputs = {"attention_mask": mask.to(device), "logits_to_keep": 1}

        def by_prompt(hidden: Any) -> Any:
            return hidden[0, where] if together else hidden

        pooled: list[Any] = []
        final: list[Any] = []

        def embed(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) or hasattr(output, "to_tuple") else output
            pooled.append(pool(by_prompt(hidden), prompts, starts, self.pooling))

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            final.append(by_prompt(output[0]))

        # Hooks see each layer's output as it is made, so that not all layers are held at once. One at a time, in the
        # order asked for: hooks of several layers fire in depth order, not in the user's.
        order = sorted(range(len(self.layers)), key=lambda i: self.layers[i])
        handles = [self._module(self.layers[i]).register_forward_hook(embed) for i in order]
        if self.prompt_nll:
            handles.append(self.decoder.register_forward_hook(keep))
        try:
            with packed(sequences) if together else contextlib.nullcontext(), resolved(self.lm.model):
                output = self.lm.model(
                    input_ids=ids.to(device),
                    position_ids=positions.to(device),
                    use_cache=self.max_new_tokens > 1,
                    **inputs,
                )
        finally:
            for handle in handles:
                handle.remove()
        logits = output.logits.transpose(0, 1) if together else output.logits
        if logits.shape[:2] != (len(prompts), 1) or len(pooled) != len(order):
            raise ModelError(f"{self.lm.spec} is not a decoder that thriftune can run")
        logits = logits[:, -1]
        embeddings = torch.cat([pooled[order.index(i)] for i in range(len(order))], dim=1).cpu().numpy()
        for answer, embedding in zip(answers, embeddings, strict=True):
            answer.embedding = embedding
        if self.prompt_nll:
            if not self._projection_checked:
                check_projection(self.lm, final[0][:, -1], logits)
                self._projection_checked = True
            for answer, nll in zip(answers, prompt_nll(self.lm, prompts, starts, final[0]), strict=True):
                answer.prompt_nll = nll
        cache = output.past_key_values if self.max_new_tokens > 1 else None
        return logits, cache, sequences if together else None

    # --- decoding ---------------------------------------------------------------------------------------------------

    def _decode(self, answers: list[Answer], logits: Any, cache: Any, mask: Any, positions: Any) -> None:
        """Greedy decoding; sequences that end leave the batch."""
        import torch

        device = self.lm.device
        stops = self.lm.stop_ids
        rows = list(range(len(answers)))  # which answer each row of the cache belongs to
        for number in range(self.max_new_tokens):
            step = reduce_logits(logits)
            self._record(answers, rows, step, stops)
            going = [i for i, row in enumerate(rows) if not answers[row].finished]
            if not going or number + 1 == self.max_new_tokens:
                return
            tokens = step.token
            if len(rows) - len(going) >= _COMPACT * len(rows):
                keep = torch.tensor(going, device=device)
                cache.reorder_cache(keep)  # every kind of cache has it, and takes fewer rows
                mask, positions, tokens = mask[keep], positions[keep], tokens[keep]
                rows = [rows[i] for i in going]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            with resolved(self.lm.model):
                output = self.lm.model(
                    input_ids=tokens[:, None],
                    attention_mask=mask,
                    position_ids=positions[:, None],
                    past_key_values=cache,
                    use_cache=True,
                )
            logits, cache = output.logits[:, -1], output.past_key_values
            positions = positions + 1

    def _record(self, answers: list[Answer], rows: list[int], step: Step, stops: set[int]) -> None:
        columns = (c.cpu().tolist() for c in step)
        for row, token, entropy, nll, margin in zip(rows, *columns, strict=True):
            answer = answers[row]
            if answer.finished:  # waits in the cache until enough others are done
                continue
            answer.tokens.append(token)
            answer.entropy.append(entropy)
            answer.nll.append(nll)
            answer.margin.append(margin)
            answer.finished = token in stops


def _number(layer: str, count: int) -> int:
    """Which of ``count`` layers is meant; what does not exist is left for the caller to refuse."""
    if layer == "last":
        return count
    if layer.endswith("%"):
        return round(int(layer[:-1]) / 100 * count)
    number = int(layer)
    return number + count + 1 if number < 0 else number
