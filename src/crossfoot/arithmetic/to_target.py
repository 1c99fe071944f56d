"""How far a curve of losses is when it comes down to a target. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class At(NamedTuple):
    """A loss, in nats a trained token, measured after so many samples."""

    samples: float
    loss: float


def samples_to(curve: Sequence[At], target: float) -> float | None:
    """After how many samples the loss is at the target or below it for the first time; None: never.

    curve: in the order of samples. Between two measurements the loss is taken to fall evenly with the
    logarithm of the samples, as it nearly does over a small part of a power law; from 0 samples on, evenly
    with the samples.
    """
    if curve and curve[0].loss <= target:
        return curve[0].samples
    for before, after in pairwise(curve):
        if after.loss <= target < before.loss:
            share = (before.loss - target) / (before.loss - after.loss)
            return _between(before.samples, after.samples, share)
    return None


def loss_after(curve: Sequence[At], samples: float) -> float:
    """The loss after so many samples, between two measurements as in `samples_to`. NaN: the curve ends
    before.
    """
    for before, after in pairwise(curve):
        if before.samples <= samples <= after.samples:
            share = _share(before.samples, after.samples, samples)
            return before.loss + share * (after.loss - before.loss)
    return math.nan


def _between(low: float, high: float, share: float) -> float:
    return low * (high / low) ** share if low > 0 else high * share


def _share(low: float, high: float, value: float) -> float:
    return math.log(value / low) / math.log(high / low) if low > 0 else value / high
