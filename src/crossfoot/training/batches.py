"""From the sample ids of a slot to the tensors of one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.index.store import DataIndex


@dataclass(frozen=True)
class Batch:
    """One forward on one rank, padded on the right.

    input_ids, labels: int64 [rows, columns]; labels are -100 where nothing is trained. predicting: int64 [p],
    the columns whose next token is trained in at least one row (only their logits are computed). segments:
    (row, start, end) of every sample; what lies outside is padding. Causal attention never looks right, so no
    mask is needed.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    predicting: torch.Tensor
    segments: tuple[tuple[int, int, int], ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(moved(self.input_ids), moved(self.labels), moved(self.predicting), self.segments)


def collate(index: DataIndex, sample_ids: Sequence[int] | np.ndarray) -> Batch:
    """The batch of one slot. An empty slot becomes one row of two tokens that trains nothing: its rank must
    still run a forward and a backward, since ZeRO's collectives wait for it.
    """
    samples = [index.sample(int(sample_id)) for sample_id in sample_ids]
    columns = max((len(ids) for ids, _ in samples), default=2)
    columns = max(columns, 2)
    input_ids = np.zeros((max(len(samples), 1), columns), dtype=np.int64)
    labels = np.full_like(input_ids, IGNORED_LABEL)
    for row, (ids, trained) in enumerate(samples):
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = np.where(trained, ids, IGNORED_LABEL)
    labels[:, 0] = IGNORED_LABEL
    predicting = np.flatnonzero((labels[:, 1:] != IGNORED_LABEL).any(axis=0))
    if predicting.size == 0:
        predicting = np.zeros(1, dtype=np.int64)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        labels=torch.from_numpy(labels),
        predicting=torch.from_numpy(predicting),
        segments=tuple((row, 0, len(ids)) for row, (ids, _) in enumerate(samples)),
    )
