"""Keys and values of prompts that were read in groups, in one cache with room for their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.cache_utils import DynamicCache, DynamicLayer

from thriftune.attention import Packed


class RoomyLayer(DynamicLayer):
    """A layer whose storage already has room for the answers: a step writes a column where others copy everything.

    Args:
        keys, values: storage [b x heads x columns x d].
        filled: columns in use.
    """

    def __init__(self, keys: Any, values: Any, filled: int) -> None:
        super().__init__()
        self._storage = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._show(filled)

    def _show(self, filled: int) -> None:
        self.keys, self.values = (s[:, :, :filled] for s in self._storage)

    def update(self, key_states: Any, value_states: Any, *_args: Any, **_kwargs: Any) -> tuple[Any, Any]:
        """Store the next columns [b x heads x new x d] and give all."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for storage, new in zip(self._storage, (key_states, value_states), strict=True):
            storage[:, :, start:end] = new
        self._show(end)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Any) -> None:
        """Keep some rows."""
        filled = self.get_seq_length()
        keys, values = self._storage
        self._storage = keys.index_select(0, beam_idx), values.index_select(0, beam_idx)
        self._show(filled)


def joinable(cache: Any) -> bool:
    """Whether a cache is keys and values alone: no sliding window, no recurrent state, no quantisation."""
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


def join(groups: Sequence[tuple[Any, Packed | None]], columns: int, room: int) -> Any:
    """One cache of several, emptied on the way so that not both are held.

    Args:
        groups: caches, see `joinable`, of left-padded prompts, or of packed ones and where those are.
        columns: columns of the joined cache, at least those of the longest group; shorter ones are padded on the left.
        room: columns for answers.

    Returns:
        The cache, its rows in the order of the groups.
    """
    whole = DynamicCache()
    rows = sum(cache.layers[0].keys.shape[0] if packed is None else len(packed.lengths) for cache, packed in groups)
    for number in range(len(groups[0][0].layers)):
        layers = [(cache.layers[number], packed) for cache, packed in groups]
        storage = []
        for name in ("keys", "values"):
            first = getattr(layers[0][0], name)
            # Zeros: what is masked has weight 0, but 0 times what lies in fresh memory may be NaN.
            joined = first.new_zeros(rows, first.shape[1], columns + room, first.shape[3])
            row = 0
            for layer, packed in layers:
                part = getattr(layer, name)
                if packed is None:
                    joined[row : row + len(part), :, columns - part.shape[2] : columns] = part
                    row += len(part)
                else:
                    row += _unpack(part[0], packed, joined[row:, :, :columns])
                setattr(layer, name, None)
            storage.append(joined)
        whole.layers.append(RoomyLayer(storage[0], storage[1], columns))
    return whole


def _unpack(part: Any, packed: Packed, rows: Any) -> int:
    """Packed columns [heads x t x d] to the ends of rows [b x heads x columns x d]; returns how many rows those are."""
    start = packed.prefix
    for row, length in zip(rows, packed.lengths, strict=False):
        row[:, -length:] = part[:, start : start + length]
        row[:, -length - packed.prefix : -length] = part[:, : packed.prefix]
        start += length
    return len(packed.lengths)
