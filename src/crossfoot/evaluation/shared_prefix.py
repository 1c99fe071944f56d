"""What the items of a subject begin with, computed once: its keys and values stand before every row."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer


class _Shared(DynamicLayer):  # type: ignore[misc]
    """A layer whose keys and values are read, and never added to: a forward holds those of one layer at a
    time.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the prefix and of these rows."""
        rows = key_states.shape[0]
        keys, values = (one.expand(rows, -1, -1, -1) for one in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def empty_cache(config: Any) -> Cache:
    """For a first forward. config: of the model."""
    return DynamicCache(config=config)


def is_shareable(cache: Cache) -> bool:
    """Whether every layer remembers keys and values alone. One that carries a state from token to token, or
    forgets what is beyond a window, is not shared: then rows are computed as a whole.
    """
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def shared(cache: Cache) -> Cache:
    """The same for any number of rows. cache: of one row, filled."""
    layers = []
    for layer in cache.layers:
        one = copy.copy(layer)
        one.__class__ = _Shared
        layers.append(one)
    return Cache(layers=layers)
