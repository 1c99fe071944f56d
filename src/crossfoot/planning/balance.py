"""How evenly a plan fills its slots: what ranks that wait for each other lose, and what padding costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from crossfoot.arithmetic.layout import Layout, PackedLayout, slot_shape
from crossfoot.arithmetic.schedule import Schedule

MOST_STEPS = 64
"""Looked at, evenly spaced: a plan is there at once, however long the run."""


@dataclass(frozen=True)
class Balance:
    """Of `steps` steps, all ranks.

    fullest: tokens of the fullest rank over the mean of the ranks, forward by forward, as all wait for the
    fullest. worst: the same of the worst step, whose index from 0 is worst_step. computed: tokens computed
    for one real token, padding in.
    """

    steps: int
    fullest: float
    worst: float
    worst_step: int
    computed: float
    forwards: int


def balance_of(schedule: Schedule, layout: Layout, lengths: np.ndarray) -> Balance:
    """Deal out some steps of the run and count. lengths: tokens of every sample, [num_samples]."""
    steps = np.unique(np.linspace(0, schedule.total_steps - 1, MOST_STEPS).astype(np.int64)).tolist()
    is_packed = isinstance(layout, PackedLayout)
    longest = mean = real = worst = 0.0
    worst_step = 0
    for step in steps:
        ids = schedule.samples(step)
        slots = layout.slots(ids, lengths[ids])
        tokens = np.array(
            [
                [math.prod(slot_shape(lengths[slot].tolist(), packed=is_packed)) for slot in forwards]
                for forwards in slots
            ],
            dtype=np.float64,
        )
        fullest, average = tokens.max(axis=0).sum(), tokens.mean(axis=0).sum()
        longest, mean, real = longest + fullest, mean + average, real + float(lengths[ids].sum())
        if fullest / average > worst:
            worst, worst_step = fullest / average, step
    return Balance(
        steps=len(steps),
        fullest=longest / mean,
        worst=worst,
        worst_step=worst_step,
        computed=mean * layout.dp_degree / real,
        forwards=layout.forwards(schedule.global_batch_size),
    )
