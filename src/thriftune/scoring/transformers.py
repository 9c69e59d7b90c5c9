"""The scoring pass with transformers: prefill, greedy answer, statistics and embedding of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from thriftune.errors import ModelError, ScoreError
from thriftune.model import LanguageModel
from thriftune.render import Rendered
from thriftune.scoring.uncertainty import Step, reduce_logits
from thriftune.types import FloatArray

_VOCABULARY_ROWS = 256  # rows of (row, vocabulary) logits held at once for prompt_nll
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


def overflow(lm: LanguageModel) -> str:
    """What to say when the model's numbers are not finite."""
    return f"{lm.spec} yields numbers that are not finite in {lm.dtype}: use --dtype bfloat16 or float32"


class Pass:
    """One pass of a model over batches of prompts.

    Args:
        lm: the model.
        max_new_tokens: longest draft answer.
        layers: hidden states to embed with: ``last`` (after the final norm) or layer numbers, comma-separated;
            layer i is the output of block i, 0 the token embeddings; several are concatenated.
        pooling: ``mean``, ``last`` or ``weighted`` (position-weighted mean) over the user's tokens.
        prompt_nll: also project the user's tokens on the vocabulary.
        padding_side: where batches are padded; results agree to rounding.

    Raises:
        ModelError: a layer does not exist, or its output cannot be found in this architecture.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        max_new_tokens: int,
        layers: str = "last",
        pooling: Literal["mean", "last", "weighted"] = "mean",
        prompt_nll: bool = True,
        padding_side: Literal["left", "right"] = "left",
    ) -> None:
        self.lm = lm
        self.max_new_tokens = max_new_tokens
        self.pooling = pooling
        self.prompt_nll = prompt_nll
        self.padding_side = padding_side
        self.decoder = lm.model.get_decoder()
        self.layers = self._resolve(layers)
        self._projection_checked = False

    def _resolve(self, layers: str) -> list[int]:
        count = int(self.lm.model.config.get_text_config().num_hidden_layers)
        numbers = [count if part.strip() == "last" else int(part) for part in layers.split(",")]
        numbers = [n + count + 1 if n < 0 else n for n in numbers]
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
            logits, cache, mask, positions = self._prefill(prompts, answers)
            self._decode(answers, logits, cache, mask, positions)
        return answers

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
                near = 1e-2 if self.lm.dtype == "float32" else 1.0
                if not np.allclose([answer.entropy, answer.nll], [plain.entropy.cpu(), plain.nll.cpu()], atol=near):
                    raise ModelError(
                        f"{self.lm.spec} gives other answers in a batch than alone: thriftune cannot run it"
                    )
        except (AttributeError, TypeError, IndexError, NotImplementedError) as error:
            raise ModelError(f"{self.lm.spec} is not a decoder that thriftune can run ({error})") from error
        finally:
            self.max_new_tokens = new_tokens

    # --- prefill ----------------------------------------------------------------------------------------------------

    def _prefill(self, prompts: Sequence[Rendered], answers: list[Answer]) -> tuple[Any, Any, Any, Any]:
        import torch

        device = self.lm.device
        lengths = [len(p.ids) for p in prompts]
        longest = max(lengths)
        starts = [longest - n if self.padding_side == "left" else 0 for n in lengths]
        ids = torch.full((len(prompts), longest), next(iter(self.lm.stop_ids), 0), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
            ids[row, start : start + len(prompt.ids)] = torch.from_numpy(prompt.ids)
            mask[row, start : start + len(prompt.ids)] = 1
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        last = torch.tensor([s + n - 1 for s, n in zip(starts, lengths, strict=True)])
        ends, where = last.unique(return_inverse=True)

        pooled: list[list[Any]] = [[] for _ in prompts]
        pools = [self._weights(p, s) for p, s in zip(prompts, starts, strict=True)]
        final: list[Any] = []

        def pool(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) or hasattr(output, "to_tuple") else output
            for row, (rows, weights) in enumerate(pools):
                pooled[row].append(weights.to(device) @ hidden[row, rows.to(device)].float())

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            final.append(output[0])

        # Hooks see each layer's output as it is made, so that not all layers are held at once. One at a time, in the
        # order asked for: hooks of several layers fire in depth order, not in the user's.
        order = sorted(range(len(self.layers)), key=lambda i: self.layers[i])
        handles = [self._module(self.layers[i]).register_forward_hook(pool) for i in order]
        if self.prompt_nll:
            handles.append(self.decoder.register_forward_hook(keep))
        try:
            output = self.lm.model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                use_cache=True,
                logits_to_keep=ends.to(device),
            )
        finally:
            for handle in handles:
                handle.remove()
        if output.logits.shape[1] != len(ends) or not all(len(p) == len(order) for p in pooled):
            raise ModelError(f"{self.lm.spec} is not a decoder that thriftune can run")
        logits = output.logits[torch.arange(len(prompts)), where]
        for row, answer in enumerate(answers):
            parts = [pooled[row][order.index(i)] for i in range(len(order))]
            answer.embedding = torch.cat(parts).cpu().numpy()
        if self.prompt_nll:
            self._check_projection(final[0][torch.arange(len(prompts)), last.to(device)], logits)
            self._prompt_nll(prompts, starts, final[0], answers)
        return logits, output.past_key_values, mask.to(device), torch.tensor(lengths)

    def _weights(self, prompt: Rendered, start: int) -> tuple[Any, Any]:
        """Positions in the padded row to pool, and their weights."""
        import torch

        rows = np.flatnonzero(prompt.user)
        if len(rows) > 1 and rows[0] == 0:
            rows = rows[1:]  # the first position holds massive activations whatever the token
        if not len(rows):
            rows = np.array([len(prompt.ids) - 1])
        if self.pooling == "last":
            rows = rows[-1:]
        weights = np.arange(1, len(rows) + 1) if self.pooling == "weighted" else np.ones(len(rows))
        return torch.from_numpy(rows + start), torch.from_numpy((weights / weights.sum()).astype(np.float32))

    # --- prompt NLL -------------------------------------------------------------------------------------------------

    def _project(self, hidden: Any) -> Any:
        """Vocabulary logits of final hidden states [m x d], as the model's own forward makes them."""
        config = self.lm.model.config.get_text_config()
        logits = self.lm.model.get_output_embeddings()(hidden).float()
        if getattr(config, "logits_scaling", None):
            logits = logits / config.logits_scaling
        if getattr(config, "logit_scale", None):
            logits = logits * config.logit_scale
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if not cap else (logits / cap).tanh() * cap

    def _check_projection(self, hidden: Any, logits: Any) -> None:
        import torch

        if self._projection_checked:
            return
        if not torch.isfinite(logits).all():
            raise ScoreError(overflow(self.lm))
        tolerance = 1e-3 if self.lm.dtype == "float32" else 0.5
        if not torch.allclose(self._project(hidden), logits.float(), atol=tolerance, rtol=0.02):
            raise ModelError(f"{self.lm.spec} changes its logits in a way thriftune does not know: add --no-prompt-nll")
        self._projection_checked = True

    def _prompt_nll(self, prompts: Sequence[Rendered], starts: list[int], hidden: Any, answers: list[Answer]) -> None:
        import torch

        # Position i - 1 predicts token i; the very first token has nothing before it.
        targets = [np.flatnonzero(p.user[1:]) + 1 for p in prompts]
        owner = np.repeat(np.arange(len(prompts)), [len(t) for t in targets])
        if not len(owner):
            return
        column = np.concatenate([t - 1 + s for t, s in zip(targets, starts, strict=True)])
        token = np.concatenate([p.ids[t] for p, t in zip(prompts, targets, strict=True)])
        sums = np.zeros(len(prompts))
        for begin in range(0, len(owner), _VOCABULARY_ROWS):
            part = slice(begin, begin + _VOCABULARY_ROWS)
            rows = hidden[torch.from_numpy(owner[part]), torch.from_numpy(column[part])]
            logits = self._project(rows)
            wanted = torch.from_numpy(token[part]).to(logits.device)
            nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
            np.add.at(sums, owner[part], nll.cpu().double().numpy())
        for answer, total, target in zip(answers, sums, targets, strict=True):
            answer.prompt_nll = total / len(target) if len(target) else None

    # --- decoding ---------------------------------------------------------------------------------------------------

    def _decode(self, answers: list[Answer], logits: Any, cache: Any, mask: Any, lengths: Any) -> None:
        """Greedy decoding; sequences that end leave the batch."""
        import torch

        device = self.lm.device
        stops = self.lm.stop_ids
        rows = list(range(len(answers)))  # which answer each row of the cache belongs to
        positions = lengths.to(device)
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
