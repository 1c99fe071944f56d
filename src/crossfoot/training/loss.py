"""The loss, summed over trained tokens: whoever calls it divides, and knows by what beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from crossfoot.data.samples import IGNORED_LABEL
from crossfoot.models.head_loss import head_loss, loss_and_hits
from crossfoot.training.batches import Batch


class SummedLoss(nn.Module):  # type: ignore[misc]  # torch is taken as Any
    """The model and its loss in one module: what the engine wraps, so that labels pass through what is
    measured.

    Forward returns the sum (not the mean) of the cross entropy over all trained tokens of the batch, in
    float32: a scalar that belongs to this rank and this forward. While the module is evaluating, two numbers:
    that sum, and for how many trained tokens the right one was the likeliest. Logits are computed only for
    columns that predict something, and, where the output layer can, only for tokens that do.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._head = head_loss(model)

    def forward(self, batch: Batch) -> torch.Tensor:
        """batch: on the model's device. The meter sees the same one, segments included."""
        kept = batch.predicting
        targets = batch.labels[:, kept + 1]
        given: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False, "logits_to_keep": kept}
        if batch.position_ids is not None:
            given |= {"position_ids": batch.position_ids, "segment_ends": batch.segment_ends}
        if self._head is not None:
            with self._head.given(targets):
                loss: torch.Tensor = self.model(**given).logits
            return loss
        logits = self.model(**given).logits
        if not self.training:
            return loss_and_hits(logits.flatten(0, 1), targets.flatten())
        return functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )
