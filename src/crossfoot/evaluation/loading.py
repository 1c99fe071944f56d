"""A model made ready to be scored: whether it fits, its weights, and what a forward of it will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from crossfoot.evaluation.budget import MOST, Budget
from crossfoot.evaluation.fitting import refuse_too_large
from crossfoot.evaluation.memory import Memory, estimated_bytes
from crossfoot.evaluation.rows import Piece, shape_of
from crossfoot.evaluation.scorer import Scorer
from crossfoot.generating.asking import Asking
from crossfoot.generating.options import FolderValues, settle
from crossfoot.generating.speaker import load_speaker
from crossfoot.model_source.source import ModelSource

_FIXED_ROWS = 16
"""Of a forward on a GPU, where numbers depend on how many there are."""


@dataclass(frozen=True)
class Loading:
    """Where a model goes, and how its base is kept. dtype: that is computed in. first_device: of those that
    it is divided over; else the device itself.
    """

    dtype: str
    quantization: str
    device: str
    first_device: str


def load_scorer(
    voice: ModelSource, asks: Asking, loading: Loading, memory: Memory, tell: Callable[[str], None]
) -> Scorer:
    """memory: of the device. tell: hears what is loaded. Raises Refused (CF877) before it is read."""
    dtype, quantization, device = loading.dtype, loading.quantization, loading.device
    if device == loading.first_device:
        refuse_too_large(voice.base, dtype, quantization, memory.free(), device)
    tell(f"loading {voice.what} in {dtype} on {device} ...")
    settings, _ = settle({}, FolderValues())
    return Scorer(load_speaker(voice, asks, settings, dtype=dtype, quantization=quantization, device=device))


def least_rows(device: str) -> int:
    """Of a forward. device: the first one."""
    return _FIXED_ROWS if torch.device(device).type == "cuda" else 1


def begin_budget(
    asked: int | None,
    memory: Memory,
    pieces: Sequence[Piece],
    scorer: Scorer,
    report: Callable[[int, str, int], None],
) -> Budget:
    """The budget of these pieces, begun. asked: tokens; None: auto. report: as of Budget."""
    budget = Budget(asked or MOST, asked is None, memory.free, report, _bytes_a_token(pieces, scorer))
    budget.begin()
    return budget


def _bytes_a_token(pieces: Sequence[Piece], scorer: Scorer) -> float:
    """By the estimate: of the row that takes most. pieces: none, where there are more ranks than items."""
    shapes = {
        (shape_of(row, len(piece.prefix)), len(piece.prefix), row.later)
        for piece in pieces
        for row in piece.rows
    }
    item_bytes = scorer.dtype.itemsize
    return max(
        (
            estimated_bytes(scorer.config, item_bytes, shape, prefix, later) / (prefix + shape.padded + later)
            for shape, prefix, later in shapes
        ),
        default=1.0,
    )
