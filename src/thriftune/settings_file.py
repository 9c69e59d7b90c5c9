"""Settings in a TOML file: which keys and tables it may have."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from thriftune.errors import ConfigError

KEYS = ("study", "pool", "holdout_from")  # of a bench file, above its tables
TABLES = ("init", "score", "embed", "select", "annotate", "teach", "finetune", "evaluate", "judge", "bench")


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file's document.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has a key or a table that no command reads.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not TOML, not UTF-8, a NUL in the name
        said = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "strerror", None) or error
        raise ConfigError(f"{file}: {said}: mend the file, or name another") from None
    for key, value in document.items():
        if key not in (*KEYS, *TABLES):
            near = difflib.get_close_matches(key, TABLES if isinstance(value, dict) else KEYS, 1)
            raise ConfigError(
                f"{file}: unknown key {key!r}: {f'did you mean {near[0]}?' if near else 'leave it out'} "
                f"(settings stand below the name of their command: {', '.join(f'[{table}]' for table in TABLES)})"
            )
    return document
