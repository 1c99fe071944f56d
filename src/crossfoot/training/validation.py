"""Validation: means over all trained tokens of the set, exact on any number of ranks."""

from __future__ import annotations

import math

import numpy as np
import torch

from crossfoot.arithmetic.batch import BatchPlan, ceil_div
from crossfoot.arithmetic.layout import room
from crossfoot.index.store import DataIndex
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.runs.validations import Validation
from crossfoot.training.batches import collate
from crossfoot.training.engine import Engine


def validated(
    engine: Engine, index: DataIndex, ranks: Ranks, batch: BatchPlan, packed: bool, step: int, attempt: int
) -> Validation:
    """The weights, which are those after `step` steps, on the whole index, all ranks. Every rank runs the
    same number of forwards; one is as large as in training.
    """
    slots = _slots(index.lengths, batch)
    rounds = ceil_div(len(slots), ranks.world_size)
    found = torch.zeros(2, dtype=torch.float64)
    engine.evaluating(True)
    with torch.no_grad():
        for slot in range(ranks.rank, rounds * ranks.world_size, ranks.world_size):
            ids = slots[slot] if slot < len(slots) else []
            found += engine.forward(collate(index, ids, packed=packed)).cpu()
    engine.evaluating(False)
    loss, hits = ranks.total(*found.tolist())
    tokens = int(index.trained_tokens.sum(dtype=np.int64))
    means = (loss / tokens, hits / tokens) if tokens else (math.nan, math.nan)
    return Validation(step, attempt, *means, index.num_samples, tokens)


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
