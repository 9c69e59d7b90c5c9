"""Where users may have files written: never over what a study keeps."""

from __future__ import annotations

import os
from pathlib import Path

from thriftune.errors import StudyError

# What stages keep in a study, by file or folder; not report.html and report-figures, which can be made again.
_OWN = {
    *("study.json", "pool.parquet", "references.parquet", "rejects.jsonl", "teacher.jsonl"),
    *("scores", "selections", "models", "evaluations", "bench"),
}


def check_output(path: Path) -> None:
    """Refuse a path to write to that is, or would be, one of a study's own files; new names beside them are fine.

    Args:
        path: where a user wants a file or a directory.

    Raises:
        StudyError: a stage reads or writes there.
    """
    real = Path(os.path.realpath(path))
    for directory in real.parents:
        first = real.relative_to(directory).parts[0].lower()  # some file systems take Pool.parquet for pool.parquet
        # Under the name and a suffix SQLite keeps its journals, and later imports their conflicts.
        own = first in _OWN or first.startswith(("annotations.sqlite", "import-conflicts"))
        if own and (directory / "study.json").exists():
            raise StudyError(f"{path} belongs to the study {directory}: give another name or directory to write to")
