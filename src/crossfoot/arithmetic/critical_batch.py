"""The batch from which more samples a step save few steps: fitted to steps until a target loss. Pure.

Batches of B samples take S steps and E = B S samples to the same loss, and (S/S_min - 1)(E/E_min - 1) = 1: no
batch takes fewer than S_min steps or E_min samples (McCandlish et al. 2018, arXiv 1812.06162, equation 2.11).
In one line S = S_min (1 + B_crit / B), with B_crit = E_min / S_min. It is an approximation: how far each
batch is from it is part of the fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.intervals import Interval
from crossfoot.arithmetic.means import student_t

FEWEST_BATCHES = 3
"""Two unknowns, and one batch more to see whether they fit."""
OVERHEAD = 0.2
"""By so much the samples of a batch may exceed the fewest (Zhang et al. 2024, arXiv 2410.21676)."""
_BEYOND, _GRID, _ZOOM, _ZOOMS = 1e4, 4000, 100, 4
"""B_crit is looked for from the smallest batch / 10,000 to the largest x 10,000, in steps of 0.6 %."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """least_steps: S_min. least_samples: E_min. critical_batch: in samples; the interval is of CONFIDENCE and
    without end where the steps do not bound it. misfit: by batch, the steps that were measured over those
    that are fitted.
    """

    least_steps: float
    least_samples: float
    critical_batch: Interval
    misfit: Mapping[int, float]

    @property
    def says_something(self) -> bool:
        """Whether the interval has an end at all: else any critical batch fits."""
        return self.critical_batch.low > 0 or math.isfinite(self.critical_batch.high)

    def steps(self, batch: float) -> float:
        """That the fit expects until the target."""
        return self.least_steps + self.least_samples / batch

    def samples(self, batch: float) -> float:
        """The same in samples."""
        return batch * self.steps(batch)


def fitted(steps: Mapping[int, float]) -> Fit | None:
    """Of steps until one target by batch; None with fewer than FEWEST_BATCHES.

    The relative errors are made small: the squares of log(measured / fitted). For a given B_crit the best
    S_min is a mean, so that one number is searched. The interval holds every B_crit whose squares exceed the
    smallest ones by no more than Student's t (batches - 2) allows: a profile. What is left over is the misfit
    of the form and the chance of the seeds, together.
    """
    if len(steps) < FEWEST_BATCHES:
        return None
    profile = _Profile(np.array(list(steps), float), np.log(np.array(list(steps.values()), float)))
    critical = profile.critical_batch
    left = profile.left_over(np.array([critical.value]))[0]
    misfit = dict(zip(steps, np.exp(left - left.mean()).tolist(), strict=True))
    least = float(np.exp(left.mean()))
    if math.isfinite(critical.value):
        return Fit(least, critical.value * least, critical, misfit)
    return Fit(0.0, least, critical, misfit)


@dataclass(frozen=True)
class _Profile:
    """How well each B_crit fits, from 0 (all batches take as many steps) to without end (as many samples)."""

    batches: _Floats
    log_steps: _Floats

    def left_over(self, criticals: _Floats) -> _Floats:
        """log(steps / form), a row for each: but for a constant, log S_min, and log E_min without end."""
        beyond = np.log1p(np.where(np.isfinite(criticals), criticals, 0.0)[:, None] / self.batches)
        form = np.where(np.isfinite(criticals)[:, None], beyond, -np.log(self.batches))
        return np.asarray(self.log_steps - form)

    def squares(self, criticals: _Floats) -> _Floats:
        """Their sum, for each."""
        left = self.left_over(criticals)
        return np.asarray(((left - left.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))

    @property
    def critical_batch(self) -> Interval:
        """The best, and to the next of the grid what is as good by Student's t."""
        low, high = self.batches.min() / _BEYOND, self.batches.max() * _BEYOND
        grid = np.array([0.0, *np.geomspace(low, high, _GRID), math.inf])
        squares = self.squares(grid)
        at, last = int(squares.argmin()), len(grid) - 1
        best = float(grid[at])
        if 0 < at < last:
            best = self._lowest(grid[max(1, at - 1)], grid[min(last - 1, at + 1)])
        freedom = len(self.batches) - 2
        limit = self.squares(np.array([best]))[0] * (1 + student_t(freedom) ** 2 / freedom)
        inside = np.append(np.flatnonzero(squares <= limit), at)
        return Interval(best, float(grid[max(0, inside.min() - 1)]), float(grid[min(last, inside.max() + 1)]))

    def _lowest(self, low: float, high: float) -> float:
        """The best between two, which are above 0 and have an end."""
        for _ in range(_ZOOMS):
            near = np.geomspace(low, high, _ZOOM)
            at = int(self.squares(near).argmin())
            low, high = near[max(0, at - 1)], near[min(_ZOOM - 1, at + 1)]
        return math.sqrt(low * high)


@dataclass(frozen=True)
class LargestWithin:
    """The largest batch that takes at most OVERHEAD more samples than `fewest`. is_bounded: a larger batch
    was seen to take more than that; without it this is the largest batch there was.
    """

    batch: float
    fewest_at: int
    fewest_samples: float
    is_bounded: bool


def largest_within(samples: Mapping[int, float]) -> LargestWithin | None:
    """Of samples until one target by batch; None without any.

    As arXiv 2410.21676 defines a critical batch: from the batch that takes the fewest samples, how far up
    they exceed these by at most 20 %. Between two batches they are taken to grow as a power of the batch. No
    fit is needed.
    """
    if not samples:
        return None
    fewest_at = min(samples, key=lambda batch: (samples[batch], batch))
    limit = samples[fewest_at] * (1 + OVERHEAD)
    larger = [batch for batch in sorted(samples) if batch >= fewest_at]
    for before, after in pairwise(larger):
        if samples[after] > limit:
            share = math.log(limit / samples[before]) / math.log(samples[after] / samples[before])
            batch = before * (after / before) ** share
            return LargestWithin(batch, fewest_at, samples[fewest_at], is_bounded=True)
    return LargestWithin(float(larger[-1]), fewest_at, samples[fewest_at], is_bounded=False)
