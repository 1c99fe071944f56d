"""How sure a share of right answers is, and the difference of two shares over the same items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95
"""Of every interval."""
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Interval:
    """A value, and between what the true one lies."""

    value: float
    low: float
    high: float


def wilson(right: int, of: int) -> Interval:
    """Of a share: the shares that a score test would not reject (Wilson 1927). Without an item: 0 to 1 around
    NaN.
    """
    if not of:
        return Interval(math.nan, 0.0, 1.0)
    share, weight = right / of, _Z * _Z / of
    middle = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    low = 0.0 if right == 0 else middle - reach
    return Interval(share, low, 1.0 if right == of else middle + reach)


@dataclass(frozen=True)
class Pairs:
    """Items that two have answered. only_first, only_second: right in one of them alone."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def items(self) -> int:
        """All of them."""
        return self.both + self.only_first + self.only_second + self.neither

    def p_value(self) -> float:
        """McNemar's test, exact: were both equally good, the items that only one has right would fall to
        either side like coins; how often such a throw, two-sided, is as uneven as this one or more.
        """
        thrown = self.only_first + self.only_second
        fewer = min(self.only_first, self.only_second)
        tail = sum(math.comb(thrown, heads) for heads in range(fewer + 1))
        return min(1.0, float(2 * tail / 2**thrown))

    def difference(self) -> Interval:
        """The second share less the first: Newcombe's interval for paired shares (Statistics in Medicine 17,
        1998, 2635-2650, method 10): the two Wilson intervals, joined by how the answers hang together.
        """
        if not self.items:
            return Interval(math.nan, -1.0, 1.0)
        first = wilson(self.both + self.only_first, self.items)
        second = wilson(self.both + self.only_second, self.items)
        value = (self.only_second - self.only_first) / self.items
        together = self._correlation()
        below = _joined(second.value - second.low, first.high - first.value, together)
        above = _joined(second.high - second.value, first.value - first.low, together)
        return Interval(value, max(-1.0, value - below), min(1.0, value + above))

    def _correlation(self) -> float:
        """Phi of the four counts, with Newcombe's correction for continuity."""
        margins = math.prod(
            (
                self.both + self.only_first,
                self.only_second + self.neither,
                self.both + self.only_second,
                self.only_first + self.neither,
            )
        )
        if not margins:
            return 0.0
        product = float(self.both * self.neither - self.only_first * self.only_second)
        if product > 0:
            product = max(product - self.items / 2, 0.0)
        return product / math.sqrt(margins)


def _joined(one: float, other: float, together: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * together * one * other + other * other))
