"""From the sample ids of a slot to the tensors of one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import torch

from crossfoot.arithmetic.layout import slot_shape
from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.index.store import DataIndex


@dataclass(frozen=True)
class Batch:
    """One forward on one rank.

    input_ids, labels: int64 [rows, columns]; labels are -100 where nothing is trained. predicting: int64 [p],
    the columns whose next token is trained in at least one row (only their logits are computed). segments:
    (row, start, end) of every sample; what lies outside is padding.

    Padded: one row a sample, padded on the right; causal attention never looks right, so no mask is needed,
    and the two others are None. Packed: one row; position_ids: int64 [1, columns], from 0 in every sample;
    segment_ends: where a sample ends (Python integers), and the row.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    predicting: torch.Tensor
    segments: tuple[tuple[int, int, int], ...]
    position_ids: torch.Tensor | None = None
    segment_ends: tuple[int, ...] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device. From pinned memory: a copy from any other may wait for the GPU to
        be done with all that it was given before.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {
            name: (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)
            for name, value in values.items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def collate(index: DataIndex, sample_ids: Sequence[int] | np.ndarray, *, packed: bool) -> Batch:
    """The batch of one slot. An empty slot becomes one row that trains nothing: its rank must still run a
    forward and a backward, since ZeRO's collectives wait for it.
    """
    samples = [index.sample(int(sample_id)) for sample_id in sample_ids]
    lengths = [len(ids) for ids, _ in samples]
    if packed:
        ends = np.cumsum([0, *lengths]).tolist()
        segments = tuple((0, start, end) for start, end in pairwise(ends))
    else:
        segments = tuple((row, 0, length) for row, length in enumerate(lengths))
    input_ids = np.zeros(slot_shape(lengths, packed=packed), dtype=np.int64)
    labels = np.full_like(input_ids, IGNORED_LABEL)
    for (row, start, end), (ids, trained) in zip(segments, samples, strict=True):
        input_ids[row, start:end] = ids
        labels[row, start:end] = np.where(trained, ids, IGNORED_LABEL)
        labels[row, start] = IGNORED_LABEL  # nothing of its own stands before it
    predicting = np.flatnonzero((labels[:, 1:] != IGNORED_LABEL).any(axis=0))
    if predicting.size == 0:
        predicting = np.zeros(1, dtype=np.int64)
    batch = Batch(
        input_ids=torch.from_numpy(input_ids),
        labels=torch.from_numpy(labels),
        predicting=torch.from_numpy(predicting),
        segments=segments,
    )
    return _with_places(batch, ends) if packed else batch


def _with_places(batch: Batch, ends: Sequence[int]) -> Batch:
    """The packed batch with positions; ends: 0 and where each sample ends. The rest of the row is a segment
    too.
    """
    columns = batch.input_ids.shape[1]
    ends = [*ends, columns] if ends[-1] < columns else list(ends)
    positions = np.concatenate([np.arange(end - start) for start, end in pairwise(ends)])
    return replace(
        batch,
        position_ids=torch.from_numpy(positions[np.newaxis, :]),
        segment_ends=tuple(ends[1:]),
    )
