"""The validation loss: the mean over all trained tokens of the set, exact on any number of ranks."""

from __future__ import annotations

import math

import numpy as np
import torch

from crossfoot.arithmetic.batch import BatchPlan, ceil_div
from crossfoot.arithmetic.layout import room
from crossfoot.index.store import DataIndex
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.training.batches import collate
from crossfoot.training.engine import Engine


def validation_loss(engine: Engine, index: DataIndex, ranks: Ranks, batch: BatchPlan, packed: bool) -> float:
    """Mean cross entropy per trained token over the whole index, all ranks. Every rank runs the same number
    of forwards; one is as large as in training.
    """
    slots = _slots(index.lengths, batch)
    rounds = ceil_div(len(slots), ranks.world_size)
    loss_sum = 0.0
    engine.evaluating(True)
    with torch.no_grad():
        for slot in range(ranks.rank, rounds * ranks.world_size, ranks.world_size):
            ids = slots[slot] if slot < len(slots) else []
            loss_sum += float(engine.forward(collate(index, ids, packed=packed)))
    engine.evaluating(False)
    total = ranks.total(loss_sum)[0]
    trained_tokens = int(index.trained_tokens.sum(dtype=np.int64))
    return total / trained_tokens if trained_tokens else math.nan


def _slots(lengths: np.ndarray, batch: BatchPlan) -> list[list[int]]:
    """Sample ids, longest first, cut where a slot has no room for the next."""
    taken, most = room(lengths.astype(np.int64), batch.micro_batch_size, batch.micro_batch_tokens)
    slots: list[list[int]] = []
    held = most
    for sample in np.argsort(-lengths.astype(np.int64), kind="stable").tolist():
        takes = int(taken[sample])
        if held + takes > most:
            slots.append([])
            held = 0
        slots[-1].append(sample)
        held += takes
    return slots
