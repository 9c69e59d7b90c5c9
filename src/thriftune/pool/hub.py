"""Hugging Face datasets as rows: ``owner/name``, optionally ``owner/name:config`` and ``@split``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from thriftune.errors import PoolError, ThriftuneError, require
from thriftune.pool.rows import Row

_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<config>[^@:]+))?(?:@(?P<split>[^@]+))?\Z")


class HubDataset(NamedTuple):
    """One split of a dataset, ready to stream."""

    stream: Any
    split: str
    rows: int | None
    revision: str | None


def looks_like_id(source: str) -> bool:
    """Whether ``source`` has the form of a hub id."""
    return _ID.match(source) is not None


def open_dataset(source: str) -> HubDataset:
    """Start streaming a dataset; nothing is downloaded as a whole.

    Args:
        source: ``owner/name[:config][@split]``; without a split ``train`` is taken, or the first one there is.

    Returns:
        The stream, the split taken, its rows where the hub knows them, and the revision read.

    Raises:
        MissingDependency: the ``datasets`` package is not installed.
        PoolError: the dataset cannot be reached or has no such configuration or split.
    """
    datasets = require("datasets", command=f"--pool {source}", install="'thriftune[hub]'")
    match = _ID.match(source)
    assert match is not None
    name, config, split = match["name"], match["config"], match["split"]
    with _explained(source):
        revision = _revision(name)
        loaded = datasets.load_dataset(name, config, revision=revision, streaming=True)
        chosen = split or ("train" if "train" in loaded else next(iter(loaded)))
        if chosen not in loaded:
            raise PoolError(f"{source}: no split {chosen!r} (there: {', '.join(loaded)})")
        stream = loaded[chosen]
        known = getattr(stream.info, "splits", None) or {}
        rows = known[chosen].num_examples if chosen in known else None
    return HubDataset(stream, chosen, rows or None, revision)


def read_dataset(source: str, dataset: HubDataset) -> Iterator[Row]:
    """Stream the rows, numbered from 1.

    Raises:
        PoolError: the connection or the data failed.
    """
    with _explained(source):
        for number, values in enumerate(dataset.stream, 1):
            yield Row(number, dict(values))


def _revision(name: str) -> str | None:
    """The commit at the head of the dataset, to be recorded; None where the hub cannot be asked (a local cache)."""
    with contextlib.suppress(Exception):
        hub = require("huggingface_hub", command="--pool", install="'thriftune[hub]'")
        return str(hub.HfApi().dataset_info(name, timeout=10).sha)
    return None


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    try:
        yield
    except (ThriftuneError, GeneratorExit):
        raise
    except Exception as error:
        # datasets raises dozens of types, its own, the hub's, the network's; their first line says what it is.
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        hint = "name one as owner/name:config" if "config" in said.lower() else "check the id and the connection"
        raise PoolError(f"{source} is neither a file here nor readable from the hub ({said}): {hint}") from error
