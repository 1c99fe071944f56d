"""How sure a mean is: Student's t over what was measured independently. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % point of Student's t with 1, 2, ... degrees of freedom: of intervals of CONFIDENCE."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval; of a single value the interval is without end."""

    mean: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether there may be no difference at all."""
        return self.low <= 0 <= self.high

    def within(self, least: float, most: float) -> Estimate:
        """The interval cut to what there can be."""
        if not math.isfinite(self.low):
            return self
        return Estimate(self.mean, max(self.low, least), min(self.high, most))


def estimate(values: Sequence[float]) -> Estimate:
    """Of values that are independent of each other."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    reach = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)


def difference(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """Of one from the other, pair by pair. A single value is beside others the same for each of them."""
    longest = max(len(one), len(other))
    left, right = (list(each) * longest if len(each) == 1 else list(each) for each in (one, other))
    return estimate([a - b for a, b in zip(left, right, strict=True)])


def student_t(freedom: int) -> float:
    """How many standard errors an interval of CONFIDENCE reaches to each side; freedom: from 1 on. Beyond the
    table its expansion, which is exact to 0.002 there.
    """
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.4 / freedom
