"""Names of lm-evaluation-harness tasks: what a user may type and the single tasks it stands for."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftune.errors import EvaluationError, require

INSTALL = "'thriftune[evaluate]'"

# The harness gives the plain name bbh to the chain-of-thought setting; here the plain name is the plain setting.
ALIASES = {"bbh": "bbh_fewshot", "bbh_cot": "bbh_cot_fewshot"}
_SHOTS = re.compile(r"(?P<name>.+)_(?P<shots>\d{1,3})shot\Z")
_FUNCTION = "thriftune.evaluation.harness_tasks.documents.documents"


@dataclass(frozen=True)
class Leaf:
    """One task of the harness as it is to be run.

    Args:
        label: its name in results: the harness' name, with ``_Nshot`` where N is not the task's own default.
        name: the harness' name.
        shots: few-shot examples; None for the task's own default.
    """

    label: str
    name: str
    shots: int | None


@dataclass(frozen=True)
class Wanted:
    """What one name typed by the user stands for: ``leaves`` by way of ``name``, a task, group or tag."""

    name: str
    suffix: str
    leaves: tuple[Leaf, ...]


def harness_root() -> Path:
    """Where the harness keeps its own task files.

    Raises:
        MissingDependency: lm-evaluation-harness is not installed.
    """
    require("lm_eval", command="evaluating on MMLU, BBH and other public benchmarks", install=INSTALL)
    tasks = importlib.import_module("lm_eval.tasks")
    return Path(str(tasks.__file__)).parent


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the harness' log lines and bars for building requests off the terminal."""
    logs = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub")]
    task = importlib.import_module("lm_eval.api.task")
    levels, bar = [log.level for log in logs], getattr(task, "tqdm", None)
    for log in logs:
        log.setLevel(logging.ERROR)
    task.tqdm = lambda items, **_: items  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        task.tqdm = bar  # type: ignore[attr-defined]


def write_tasks(directory: Path, data: Path) -> list[str]:
    """Write task files by which the harness, also its own command line, takes MMLU and BBH from local files.

    Each includes the harness' own file of the same task and replaces nothing but the source of its documents, so that
    prompts and scoring are the harness'. Use: ``lm_eval run --include_path DIRECTORY --tasks mmlu ...``.

    Args:
        directory: where to, made if absent.
        data: the directory of ``mmlu.parquet`` and ``bbh.parquet``; a file that is absent is noticed when used.

    Returns:
        The names of the tasks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, entry in sorted(index(None).items()):
        if entry.kind.name != "TASK":
            continue
        benchmark = name.partition("_")[0]
        file = (data / f"{benchmark}.parquet").resolve()
        lines = [
            f"include: {_quoted(entry.yaml_path)}",
            f"task: {name}",
            f"custom_dataset: !function {_FUNCTION}",
            "dataset_kwargs:",
            f"  benchmark: {benchmark}",
            f"  file: {_quoted(file)}",
            f"  part: {_quoted(entry.cfg['dataset_name'])}",
        ]
        (directory / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        written.append(name)
    return written


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


@functools.lru_cache(maxsize=8)
def manager(data: str | None, every: bool = False) -> Any:
    """The harness' task manager: of MMLU and BBH, which takes a moment, or of ``every`` task, which takes seconds.

    Args:
        data: directory of local files for MMLU and BBH; None for the hub.
        every: index all tasks of the harness (only from the hub).
    """
    root = harness_root()
    tasks = importlib.import_module("lm_eval.tasks")
    with quiet():
        if every:
            return tasks.TaskManager()
        places: list[Path] = [root / "mmlu" / "default", root / "bbh"]
        if data is not None:
            # The manager reads a task's file again when it builds the task: these stay until the process ends.
            made = tempfile.TemporaryDirectory(prefix="thriftune-tasks-")
            _KEPT.append(made)
            write_tasks(Path(made.name), Path(data))
            places.append(Path(made.name))
        return tasks.TaskManager(include_defaults=False, include_path=places)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def index(data: str | None, name: str | None = None) -> dict[str, Any]:
    """The harness' entries by name: of MMLU and BBH, or of all its tasks where those two lack ``name``."""
    found: dict[str, Any] = manager(data).task_index
    if name is not None and name not in found:
        found = manager(None, True).task_index
    return found


def resolve(names: Sequence[str], *, data: str | None = None, shots: int | None = None) -> list[Wanted]:
    """The tasks that typed names stand for.

    Args:
        names: ``mmlu``, ``mmlu_anatomy``, ``bbh``, ``bbh_cot``, ``bbh_cot_snarks`` or any task, group or tag of the
            harness; with ``_Nshot`` behind it, N few-shot examples are shown.
        data: directory of local files for MMLU and BBH; None for the hub.
        shots: few-shot examples for names without ``_Nshot``; None for each task's own default.

    Returns:
        One a name, in the order given.

    Raises:
        EvaluationError: an unknown name, or a group that cannot be taken apart.
    """
    wanted = []
    for typed in names:
        name, own = _find(typed, data)
        entries = index(data, name)
        leaves = tuple(_leaf(entries[leaf], own, shots) for leaf in dict.fromkeys(members(entries, name)))
        suffixes = {leaf.label.removeprefix(leaf.name) for leaf in leaves}
        wanted.append(Wanted(name, suffixes.pop() if len(suffixes) == 1 else "", leaves))
    return wanted


def _find(typed: str, data: str | None) -> tuple[str, int | None]:
    candidates: list[tuple[str, int | None]] = [(typed, None)]
    if parts := _SHOTS.match(typed):
        candidates.append((parts["name"], int(parts["shots"])))
    for every in (False,) if data is not None else (False, True):
        entries = manager(data, every).task_index
        for name, own in candidates:
            for spelling in (*_expanded(name), name):
                if spelling in entries:
                    return spelling, own
    known = [*ALIASES, *entries, *(n.replace("_fewshot_", "_") for n in entries if n.startswith("bbh_"))]
    close = difflib.get_close_matches(candidates[-1][0], dict.fromkeys(known), n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if data is not None:
        raise EvaluationError(
            f"task {typed!r} is not among those that --data serves (mmlu, mmlu_SUBJECT, bbh, bbh_cot, bbh_TASK, "
            f"bbh_cot_TASK){hint or ': for other tasks of lm-evaluation-harness leave --data out'}"
        )
    raise EvaluationError(
        f"lm-evaluation-harness has no task {typed!r}{hint or ': `lm_eval ls tasks` lists those that it has'}"
    )


def _expanded(name: str) -> Iterator[str]:
    """``bbh_cot_snarks`` is ``bbh_cot_fewshot_snarks``."""
    for short in sorted(ALIASES, key=len, reverse=True):
        if name == short or name.startswith(f"{short}_"):
            yield ALIASES[short] + name.removeprefix(short)


def _leaf(entry: Any, own: int | None, shots: int | None) -> Leaf:
    default = (entry.cfg or {}).get("num_fewshot")
    if default == 0:  # fixed at none by the task itself; the harness keeps to that, too
        if own:
            raise EvaluationError(f"{entry.name} is defined without few-shot examples: leave _{own}shot out")
        own = shots = None
    if own is None and shots == (default or 0):
        shots = None
    wanted = shots if own is None else own
    return Leaf(entry.name if wanted is None else f"{entry.name}_{wanted}shot", entry.name, wanted)


def members(entries: dict[str, Any], name: str) -> Iterator[str]:
    entry = entries[name]
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    elif entry.kind.name != "GROUP":
        yield name
    else:
        for child in children(entry):
            yield from members(entries, child)


def children(entry: Any) -> list[str]:
    listed = entry.cfg.get("task") or []
    children = [listed] if isinstance(listed, str) else listed
    own = set(entry.cfg) - {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}
    if own or not all(isinstance(child, str) for child in children):
        inside = [c if isinstance(c, str) else c.get("task") or c.get("group") for c in children]
        raise EvaluationError(
            f"group {entry.name!r} of lm-evaluation-harness gives its tasks settings of its own: "
            f"name the tasks themselves ({', '.join(str(i) for i in inside[:4] if isinstance(i, str))} ...)"
        )
    return list(children)
