"""What the page shows of a prompt: its turns, a draft answer, a line for lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thriftune.study import Study

_SNIPPET = 160


def material(study: Study, run: str | None, ids: Sequence[str], *, drafts: bool) -> dict[str, dict[str, Any]]:
    """Prompts as the page needs them.

    Args:
        study: where they are.
        run: the score run that the picks were made from, whose drafts are shown.
        ids: which.
        drafts: with models' answers.

    Returns:
        By id: ``task``, ``turns``, ``draft`` (``text`` and ``by``, or None), ``snippet`` and ``search``.
    """
    shown = _drafts(study, run, ids) if drafts else {}
    return {
        prompt.id: {
            "task": prompt.task,
            "turns": prompt.turns,
            "draft": shown.get(prompt.id),
            # What tells prompts apart stands in the last turn, not in a system turn that all of them share.
            "snippet": " ".join(prompt.turns[-1]["content"][: 4 * _SNIPPET].split())[:_SNIPPET],
            "search": f"{prompt.text}\n{prompt.task or ''}".casefold(),
        }
        for prompt in study.prompts(list(ids))
    }


def _drafts(study: Study, run: str | None, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """The answers of models by prompt: a teacher's where there is one, else that of the score run."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, dict[str, str]] = {}
    runs = study.score_runs()
    if runs:
        table = study.scores(run if run in runs else None, ["id", "response"])
        table = table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))
        for prompt_id, response in zip(table["id"].to_pylist(), table["response"].to_pylist(), strict=True):
            found[prompt_id] = {"text": response, "by": "the model"}
    wanted = set(ids)
    for a in study.annotations.in_force():
        if a.source == "teacher" and a.status == "final" and a.prompt_id in wanted:
            found[a.prompt_id] = {"text": a.response, "by": a.annotator or "the teacher"}
    return {i: draft for i, draft in found.items() if draft["text"].strip()}
