"""How evenly a plan fills its slots: what ranks that wait for each other lose, and what padding costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.arithmetic.epoch_order import Ids
from crossfoot.arithmetic.layout import Layout, PackedLayout, PaddedLayout, slot_shape
from crossfoot.arithmetic.schedule import Schedule

FEWEST_STEPS, MOST_STEPS, MOST_SAMPLES = 8, 64, 1 << 17
"""Looked at, evenly spaced: a plan is there at once, however long the run and however large its steps."""


@dataclass(frozen=True)
class Balance:
    """Of `steps` steps, all ranks.

    fullest: tokens of the fullest rank over the mean of the ranks, forward by forward, as all wait for the
    fullest. worst: the same of the worst step, whose index from 0 is worst_step. computed: tokens computed
    for one real token, padding in. padded_fullest, padded_computed: the same in the padded layout. forwards:
    of each rank in a step, the fewest and the most.
    """

    steps: int
    fullest: float
    worst: float
    worst_step: int
    computed: float
    padded_fullest: float
    padded_computed: float
    forwards: tuple[int, int]


def balance_of(schedule: Schedule, layout: Layout, lengths: np.ndarray) -> Balance:
    """Deal out some steps of the run and count. lengths: tokens of every sample, [num_samples]."""
    few, _rest = divmod(MOST_SAMPLES, schedule.global_batch_size)
    places = np.linspace(0, schedule.total_steps - 1, min(MOST_STEPS, max(FEWEST_STEPS, few)))
    steps = np.unique(places.astype(np.int64)).tolist()
    _largest, samples = schedule.largest_step
    in_a_slot = max(layout.micro_batch_size, ceil_div(samples, layout.slots_per_step))
    in_rows = PaddedLayout(layout.dp_degree, layout.grad_accum_steps, in_a_slot)
    longest = mean = real = worst = padded_longest = padded_mean = 0.0
    worst_step = 0
    forwards = set()
    for step in steps:
        ids = schedule.samples(step)
        tokens = _computed(layout, ids, lengths[ids])
        fullest, average = _of_ranks(tokens)
        longest, mean, real = longest + fullest, mean + average, real + float(lengths[ids].sum())
        padded = _of_ranks(_computed(in_rows, ids, lengths[ids]))
        padded_longest, padded_mean = padded_longest + padded[0], padded_mean + padded[1]
        forwards.add(tokens.shape[1])
        if fullest / average > worst:
            worst, worst_step = fullest / average, step
    return Balance(
        steps=len(steps),
        fullest=longest / mean,
        worst=worst,
        worst_step=worst_step,
        computed=mean * layout.dp_degree / real,
        padded_fullest=padded_longest / padded_mean,
        padded_computed=padded_mean * layout.dp_degree / real,
        forwards=(min(forwards), max(forwards)),
    )


def _of_ranks(tokens: np.ndarray) -> tuple[float, float]:
    """Of the fullest rank and of the mean one, forward by forward, in sum."""
    return float(tokens.max(axis=0).sum()), float(tokens.mean(axis=0).sum())


def _computed(layout: Layout, ids: Ids, lengths: np.ndarray) -> np.ndarray:
    """Tokens that each rank computes in each forward of a step, float64[ranks, forwards]."""
    is_packed = isinstance(layout, PackedLayout)
    at = dict(zip(ids.tolist(), lengths.tolist(), strict=True))
    return np.array(
        [
            [math.prod(slot_shape([at[i] for i in slot.tolist()], packed=is_packed)) for slot in forwards]
            for forwards in layout.slots(ids, lengths)
        ],
        dtype=np.float64,
    )
