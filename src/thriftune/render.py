"""From prompt to the tokens a model reads: scoring and training must render alike, so both do it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftune.errors import ModelError
from thriftune.types import BoolArray, IntArray, Message, Prompt

# Private-use characters stand for the contents while the template is taken apart; they occur in no template.
_MARK = "\ue000{}\ue001"
_BATCH = 1024


@dataclass(frozen=True)
class Rendered:
    """A prompt as the model reads it.

    Args:
        ids: (t,) int64 token ids, up to where the answer begins.
        user: (t,) bool, tokens of the user's own text (template, system and assistant text excluded).
        truncated: True when user text was cut to fit the context.
    """

    ids: IntArray
    user: BoolArray
    truncated: bool


class Renderer:
    """Renders prompts with a tokenizer's chat template, or plainly where it has none.

    Args:
        tokenizer: a transformers fast tokenizer.
        limit: longest rendered prompt in tokens; longer ones lose the middle of their longest user turn, because
            instructions stand at either end.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self._pieces: dict[tuple[str, ...], list[str]] = {}

    def render(self, prompts: Sequence[Prompt]) -> list[Rendered]:
        """Render prompts, in order.

        Raises:
            ModelError: the template refuses a prompt, or alone exceeds the limit.
        """
        rendered: list[Rendered] = []
        for start in range(0, len(prompts), _BATCH):
            block = prompts[start : start + _BATCH]
            laid = [self.lay_out(p) for p in block]
            encoded = self.tokenizer(
                [text for text, _ in laid],
                add_special_tokens=not self.tokenizer.chat_template,  # a template writes its own
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,  # no warning about lengths: we cut below
            )
            for prompt, (_, spans), ids, offsets in zip(
                block, laid, encoded["input_ids"], encoded["offset_mapping"], strict=True
            ):
                if not ids:
                    raise ModelError(
                        f"prompt {prompt.id!r} becomes no token at all with this model's tokenizer: leave it out"
                    )
                rendered.append(self._cut(prompt, np.array(ids, np.int64), np.array(offsets, np.int64), spans))
        return rendered

    def lay_out(self, prompt: Prompt) -> tuple[str, list[tuple[int, int, str]]]:
        """The text the model continues, and where in it each turn's content stands.

        Returns:
            The text, and (start, end, role) of every turn in characters.
        """
        turns = prompt.turns
        if not self.tokenizer.chat_template:
            return _plain(turns)
        text = self._apply(turns, prompt.id)
        roles = tuple(t["role"] for t in turns)
        for _ in range(2):
            pieces = self._template(roles, prompt.id)
            for contents in ([t["content"] for t in turns], [t["content"].strip() for t in turns]):
                joined, spans = _join(pieces, contents, roles)
                if joined == text:
                    return text, spans
            del self._pieces[roles]  # a template may print the date: take it apart once more
        return text, _search(text, turns)

    def complete(self, prompt: Prompt, response: str) -> tuple[str, str]:
        """The text the model continues, and what the template writes after it when the answer is ``response``.

        Returns:
            The prompt's text as `lay_out` gives it, and the continuation: the response and the end of its turn.
        """
        text, _ = self.lay_out(prompt)
        if not self.tokenizer.chat_template:
            return text, response if text[-1:].isspace() else f" {response}"
        whole = self._apply(prompt.turns, prompt.id, response)
        if whole.startswith(text):
            return text, whole[len(text) :]
        # The template opens the answer otherwise than it opens a finished turn (a reasoning block): keep the opening.
        mark = _MARK.format("answer")
        return text, response + self._apply(prompt.turns, prompt.id, mark).partition(mark)[2]

    def _template(self, roles: tuple[str, ...], prompt_id: str) -> list[str]:
        if roles not in self._pieces:
            marked = [Message(role=r, content=_MARK.format(i)) for i, r in enumerate(roles)]
            rest = self._apply(marked, prompt_id)
            pieces = []
            for i in range(len(roles)):
                before, _, rest = rest.partition(_MARK.format(i))
                pieces.append(before)
            self._pieces[roles] = [*pieces, rest]
        return self._pieces[roles]

    def _apply(self, turns: Sequence[Message], prompt_id: str, answer: str | None = None) -> str:
        chat = list(turns) if answer is None else [*turns, Message(role="assistant", content=answer)]
        # Templates that let a model think aloud first are asked not to: what is scored and learned is the answer.
        options = {"tokenize": False, "add_generation_prompt": answer is None, "enable_thinking": False}
        try:
            text = str(self.tokenizer.apply_chat_template(chat, **options))
            if turns[0]["role"] == "system" and turns[0]["content"].strip() not in text:
                raise ValueError("it leaves the system turn out")
            return text
        except Exception as error:  # a template can fail in every way that code can
            if len(turns) > 1 and turns[0]["role"] == "system" and turns[1]["role"] == "user":
                # Some templates know no system turn (Gemma's): it then leads the user's first turn.
                first = Message(role="user", content=f"{turns[0]['content']}\n\n{turns[1]['content']}")
                return self._apply([first, *turns[2:]], prompt_id, answer)
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(
                f"the model's chat template refuses prompt {prompt_id!r} ({said}): leave the prompt out, or mend the "
                "template"
            ) from error

    def _cut(self, prompt: Prompt, ids: IntArray, offsets: IntArray, spans: list[tuple[int, int, str]]) -> Rendered:
        begin, end = offsets[:, 0], offsets[:, 1]
        turn = np.full(len(ids), -1)
        for number, (start, stop, _) in enumerate(spans):
            # Overlap: a token may begin at the template's space and hold the user's first word.
            turn[(end > start) & (begin < stop) & (end > begin)] = number
        roles = [role for _, _, role in spans]
        keep = np.ones(len(ids), bool)
        excess = len(ids) - self.limit
        # Longest user turn first; earlier assistant turns only when user text does not suffice.
        order = sorted(range(len(spans)), key=lambda s: (roles[s] != "user", -int((turn == s).sum())))
        for number in order:
            if excess <= 0:
                break
            rows = np.flatnonzero(turn == number)
            cut = min(excess, max(len(rows) - 2, 0))
            middle = (len(rows) - cut) // 2
            keep[rows[middle : middle + cut]] = False
            excess -= cut
        if excess > 0:
            raise ModelError(
                f"prompt {prompt.id!r} cannot be cut to {self.limit} tokens: its template and turns alone exceed them"
            )
        user = np.isin(turn, [i for i, role in enumerate(roles) if role == "user"])
        return Rendered(ids[keep], user[keep], not keep.all())


def _plain(turns: Sequence[Message]) -> tuple[str, list[tuple[int, int, str]]]:
    """Without a chat template: one turn stands alone on its lines; several are labelled with their roles."""
    roles = [t["role"] for t in turns]
    labels = [""] if len(turns) == 1 else [f"{role.capitalize()}: " for role in roles]
    pieces = [label if i == 0 else f"\n{label}" for i, label in enumerate(labels)]
    return _join([*pieces, "\n" if len(turns) == 1 else "\nAssistant:"], [t["content"] for t in turns], roles)


def _join(
    pieces: Sequence[str], contents: Sequence[str], roles: Sequence[str]
) -> tuple[str, list[tuple[int, int, str]]]:
    text, spans = "", []
    for piece, content, role in zip(pieces, contents, roles, strict=False):
        text += piece
        spans.append((len(text), len(text) + len(content), role))
        text += content
    return text + pieces[-1], spans


def _search(text: str, turns: Sequence[Message]) -> list[tuple[int, int, str]]:
    """Spans for a template that rewrites contents: each is looked for after the one before; none where not found.

    A system turn may stand anywhere: some templates put it into the user's last turn.
    """
    spans, position = [], 0
    for turn in turns:
        content = turn["content"].strip()
        system = turn["role"] == "system"
        found = text.find(content, 0 if system else position) if content else -1
        if found >= 0:
            spans.append((found, found + len(content), turn["role"]))
            position = position if system else found + len(content)
    return spans
