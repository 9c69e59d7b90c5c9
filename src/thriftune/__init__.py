"""thriftune chooses which prompts to annotate, so that fine-tuning a language model costs fewer annotations."""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own takes most of the time in which Ctrl-C finds nobody to answer it
if TYPE_CHECKING:
    from typing import Any

    from thriftune.selection.registry import strategy
    from thriftune.selection.run import select
    from thriftune.selection.selector import Selector
    from thriftune.study import Study
    from thriftune.types import Candidates, Picks, Selection

__all__ = ["Candidates", "Picks", "Selection", "Selector", "Study", "__version__", "select", "strategy"]

_HOME = {
    "Candidates": "thriftune.types",
    "Picks": "thriftune.types",
    "Selection": "thriftune.types",
    "Selector": "thriftune.selection.selector",
    "Study": "thriftune.study",
    "select": "thriftune.selection.run",
    "strategy": "thriftune.selection.registry",
}


def __getattr__(name: str) -> Any:
    # On first use: `import thriftune` and `thriftune --help` must stay fast.
    if name not in _HOME:
        raise AttributeError(f"module 'thriftune' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
