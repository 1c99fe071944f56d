"""The validation loss: the mean over all trained tokens of the set, exact on any number of ranks."""

from __future__ import annotations

import math

import numpy as np
import torch

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.index.store import DataIndex
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.training.batches import collate
from crossfoot.training.engine import Engine


def validation_loss(
    engine: Engine, index: DataIndex, ranks: Ranks, micro_batch_size: int, packed: bool
) -> float:
    """Mean cross entropy per trained token over the whole index, all ranks. Every rank runs the same number
    of forwards.
    """
    order = np.argsort(-index.lengths.astype(np.int64), kind="stable")
    rounds = ceil_div(index.num_samples, micro_batch_size * ranks.world_size)
    loss_sum = 0.0
    engine.evaluating(True)
    with torch.no_grad():
        for slot in range(ranks.rank, rounds * ranks.world_size, ranks.world_size):
            ids = order[slot * micro_batch_size : (slot + 1) * micro_batch_size]
            loss_sum += float(engine.forward(collate(index, ids, packed=packed)))
    engine.evaluating(False)
    total = ranks.total(loss_sum)[0]
    trained_tokens = int(index.trained_tokens.sum(dtype=np.int64))
    return total / trained_tokens if trained_tokens else math.nan
