"""The exception tree: a message says what is wrong, the value seen, and what to do next."""

from __future__ import annotations

import importlib
from types import ModuleType


class ThriftuneError(Exception):
    """Anything a user can mend; the command line prints it in one line and exits 2."""

    def __str__(self) -> str:
        # What files and servers put into a message could hold line ends, half characters or rewrite the terminal.
        return "".join(c if c.isprintable() or c == "\u00a0" else ascii(c)[1:-1] for c in super().__str__())


class ConfigError(ThriftuneError):
    """A flag or a TOML key is unknown or has an impossible value."""


class PoolError(ThriftuneError):
    """The pool cannot be read, or nothing in it is usable."""


class StudyError(ThriftuneError):
    """The study directory lacks something, is damaged, is in use, or was written by another version."""


class ModelError(ThriftuneError):
    """The language model cannot be loaded or does not do what scoring needs."""


class ScoreError(ThriftuneError):
    """Scoring cannot go on."""


class StrategyError(ThriftuneError):
    """A selection request is impossible, or a strategy broke its contract."""


class AnnotationError(ThriftuneError):
    """Answers cannot be exported or brought back."""


class FinetuneError(ThriftuneError):
    """Fine-tuning cannot start or go on."""


class EvaluationError(ThriftuneError):
    """A model cannot be evaluated as asked."""


class BenchError(ThriftuneError):
    """An experiment is planned impossibly, or cannot go on."""


class EndpointError(ThriftuneError):
    """A model server refuses, fails or would cost more than allowed."""


class ClusterError(ThriftuneError):
    """A Ray cluster cannot be reached, or its workers do not start."""


class MissingDependency(ThriftuneError):
    """An optional package is not installed."""


class ThriftuneWarning(UserWarning):
    """Something a user should look at that does not stop the work."""


def require(module: str, *, command: str, install: str) -> ModuleType:
    """Import an optional dependency or say how to install it.

    Args:
        module: dotted module name.
        command: what needs it, as the user would type it, e.g. ``thriftune score``.
        install: the exact pip arguments, e.g. ``'thriftune[score]'``.

    Returns:
        The imported module.

    Raises:
        MissingDependency: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingDependency(f"{command} needs {module}, which is not installed: pip install {install}") from None
