"""The memory of the device that a rank computes on: what is free, what a forward has taken, what one will."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from crossfoot.evaluation.rows import Shape
from crossfoot.processes import free_memory, peak_memory

Result = TypeVar("Result")
_REFUSALS = ("not enough memory", "can't allocate memory", "out of memory", "alloc_failed", "bad_alloc")
"""How allocators say it in a RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether something did not fit."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _REFUSALS)


def if_it_fits(compute: Callable[[], Result]) -> Result | None:
    """What `compute` returns; None where memory does not hold it."""
    try:
        return compute()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


class Memory:
    """Of one device. sharing: ranks of this machine that take of the same memory."""

    def __init__(self, device: str, sharing: int = 1) -> None:
        self._device = torch.device(device)
        self._is_cuda = self._device.type == "cuda"
        self._sharing = 1 if self._is_cuda else sharing
        self._before = 0

    def free(self) -> int:
        """Bytes that this rank may still take."""
        if not self._is_cuda:
            free, _ = divmod(free_memory(), self._sharing)
            return free
        given, _whole = torch.cuda.mem_get_info(self._device)
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(given + kept)

    def begin(self) -> None:
        """Measure from here on."""
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return
        with suppress(OSError):  # resets the peak, where Linux lets us
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = psutil.Process().memory_info().rss

    def taken(self) -> tuple[int, int]:
        """(bytes that were in use at most since `begin`, how many more than there)."""
        if self._is_cuda:
            torch.cuda.synchronize(self._device)
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = max(peak_memory(), self._before)
        return peak, peak - self._before

    def give_back(self) -> None:
        """What nobody holds any more, after something did not fit."""
        gc.collect()
        if self._is_cuda:
            torch.cuda.empty_cache()


def estimated_bytes(config: Any, item_bytes: int, shape: Shape, prefix_tokens: int, later: int = 0) -> int:
    """Of one row in a forward: an assumption, until a forward was seen. config: of the model. item_bytes: of
    a number that is computed with. later: tokens that are generated behind it; then keys and values are kept.

    Of one layer, because nothing is kept for a backward: eight vectors of the hidden size and three of the
    inner one for each token, and keys and values of all heads for what each looks at, read and joined; the
    mask, as numbers; logits, those that are read of them, and their logarithms in float32.
    """
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    inner = int(getattr(text, "intermediate_size", None) or 4 * hidden)
    seen = prefix_tokens + shape.padded
    tokens = shape.padded * (8 * hidden + 3 * inner) * item_bytes
    attention = 4 * seen * hidden * item_bytes + 5 * shape.padded * seen
    kept = 2 * int(text.num_hidden_layers) * hidden * item_bytes * (seen + later) if later else 0
    return kept + tokens + attention + shape.kept * int(text.vocab_size) * (2 * item_bytes + 4)
