"""Answers that an import left out because others are in force: kept in a file that is ready to be imported."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from thriftune.artifacts import atomic_path, sync_directory
from thriftune.study import Study
from thriftune.types import Annotation

_NAME = re.compile(r"import-conflicts(-[0-9]+)?\.jsonl")
_PATIENCE_S = 60  # another import may be at work


@dataclass(frozen=True, slots=True)
class Conflict:
    """An answer in the file that differs from the one in force.

    Args:
        line: of the file.
        offered: the answer as it would be stored.
        in_force: the answer it differs from.
    """

    line: int
    offered: Annotation
    in_force: Annotation


def keep_conflicts(study: Study, path: Path, conflicts: Sequence[Conflict]) -> Path:
    """Keep differing answers in ``import-conflicts.jsonl`` of the study, ready to be pruned and imported.

    Where the file is there already the new one is ``import-conflicts-2.jsonl``, and so on.

    Args:
        study: where to.
        path: the file they came from.
        conflicts: the differing answers.

    Returns:
        The file written; docs/artifacts.md lists what its lines have.

    Raises:
        StudyError: another import is at work for too long.
    """
    with study.lock("import", wait=_PATIENCE_S):  # two imports are not to choose the same name
        names = (f"import-conflicts{f'-{n}' if n > 1 else ''}.jsonl" for n in count(1))
        place = next(p for p in (study.path / name for name in names) if not p.exists())
        with atomic_path(place) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
            for c in conflicts:
                record = {
                    "id": c.offered.prompt_id,
                    "response": c.offered.response,
                    "annotator": c.offered.annotator,
                    "source": c.offered.source,
                    "seconds": c.offered.seconds,
                    "in_force": c.in_force.response,
                    "in_force_annotator": c.in_force.annotator,
                    "file": str(path),
                    "line": c.line,
                }
                handle.write(json.dumps(record, ensure_ascii=False) + "\n")
    return place


def drop_conflicts(study: Study, path: Path) -> bool:
    """Remove a file of `keep_conflicts` that was imported, so that it cannot bring outdated answers back later.

    Args:
        study: where it is.
        path: any file that was imported as a whole.

    Returns:
        Whether it was such a file of this study.
    """
    if not _NAME.fullmatch(path.name) or path.resolve().parent != study.path.resolve():
        return False
    path.unlink()
    sync_directory(study.path)
    return True
