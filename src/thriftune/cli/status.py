"""`thriftune status`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    study: Annotated[Path, typer.Argument(help="The study directory.", metavar="STUDY")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what is done in a study, what is next, and the command for it."""
    from thriftune.overview import overview
    from thriftune.study import Study

    state = overview(Study(study))
    if as_json:
        import json

        print(json.dumps(state, indent=2, ensure_ascii=False))
        return
    for label, text in _done(state):
        print(f"{label:<12}{text}")
    for number, step in enumerate(state["next"]):
        print(f"\n{'next' if number == 0 else 'also'}: {step['what']}")
        for line in step["commands"]:
            print(f"  {line}")


def _done(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    pool, held = state["pool"], state["holdout"]
    text = f"{pool['prompts']:,} prompts"
    if pool["tasks"]:
        text += f", {pool['tasks']} tasks"
    if pool["references"]:
        text += ", reference responses kept aside"
    if pool["rejected_rows"]:
        text += f", {pool['rejected_rows']:,} rejected (see rejects.jsonl)"
    yield "pool", text
    if held["prompts"]:
        known = f"; {held['references']:,} have a reference response" if held["references"] else ""
        yield "holdout", f"{held['answered']:,} of {held['prompts']:,} answered{known}"
    yield from _rows("scores", (_run(run) for run in state["score_runs"]), "none yet")
    yield from _rows("selections", (_selection(s) for s in state["selections"]), "none yet")
    answers = (
        f"{source}: {', '.join(f'{count:,} {status}' for status, count in counts.items())}"
        for source, counts in state["annotations"].items()
    )
    yield from _rows("answers", answers, "none yet")
    if state["models"]:
        yield from _rows("models", (_model(m) for m in state["models"]), "")
    if state["evaluations"]:
        yield "evaluations", ", ".join(state["evaluations"])
    if state["benches"]:
        yield from _rows("benches", (_bench(b) for b in state["benches"]), "")
    report = state["report"]
    if report is None:
        yield "report", "none yet"
    else:
        yield "report", report["file"] + ("" if report["up_to_date"] else " (older than what it reports)")


def _rows(label: str, lines: Iterator[str], nothing: str) -> Iterator[tuple[str, str]]:
    shown = list(lines) or [nothing]
    yield label, shown[0]
    yield from (("", line) for line in shown[1:])


def _run(run: dict[str, Any]) -> str:
    model = f" with {run['model']}" if run["model"] else ""
    if run["finished"]:
        return f"{run['name']}: {run['prompts']:,} prompts{model}"
    return f"{run['name']}: UNFINISHED, {run['scored']:,} of {run['prompts']:,} prompts{model}"


def _selection(selection: dict[str, Any]) -> str:
    if "damaged" in selection:
        return f"{selection['name']}: DAMAGED ({selection['damaged']})"
    cut = ", interrupted before its budget" if selection["partial"] else ""
    return (
        f"{selection['name']}: {selection['prompts']:,} by {selection['strategy']}{cut}, "
        f"{selection['answered']:,} answered"
    )


def _model(model: dict[str, Any]) -> str:
    if "damaged" in model:
        return f"{model['name']}: DAMAGED ({model['damaged']})"
    return f"{model['name']}: {model['method']} on {model['examples']:,} answers"


def _bench(bench: dict[str, Any]) -> str:
    if "damaged" in bench:
        return f"{bench['name']}: DAMAGED ({bench['damaged']})"
    return f"{bench['name']}: {bench['done']:,} of {bench['cells']:,} cells"
