"""Axes of a chart: where a number stands on them, and which numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from crossfoot.reports.text import Text

_FEWEST_TICKS, _MOST_TICKS = 2, 6
_MOST_WIDE_TICKS = 4
_WIDE_LETTERS = 5
_STEPS = (1, 2, 2.5, 5, 10)
_NEAREST = 0.08
_LETTER = 0.027
"""Of the width of the narrowest picture, on a phone."""
_SAME = 1e-9


@dataclass(frozen=True)
class Axis:
    """label: what it shows, with the unit. is_whole: counts, no tick lies between two of them. has_zero: it
    begins at 0. is_log: 1, 10 and 100 are equally far apart; what is not above 0 is not shown. at: the only
    ticks, in ascending order, left out where they come too near.
    """

    label: Text
    is_whole: bool = False
    has_zero: bool = False
    is_log: bool = False
    at: Sequence[float] = ()

    def scale(self, values: Iterable[float], is_upright: bool = False) -> Scale | None:
        """That holds these; None without one that can be shown. is_upright: it ends at ticks."""
        known = [value for value in values if self.shows(value)]
        if not known:
            return None
        low, high = min(known), max(known)
        if self.is_log:
            return self._log_scale(low, high, is_upright)
        low = min(low, 0.0) if self.has_zero else low
        if high - low <= _SAME * max(abs(low), abs(high)):
            about = max(abs(low) / 2, float(self.is_whole)) or 1.0
            low, high = (low, low + about) if self.has_zero else (low - about, high + about)
        ticks = self.at or _round_numbers(low, high, _MOST_TICKS, self.is_whole, is_upright)
        if not (self.at or is_upright) and max(map(len, _labels(ticks))) > _WIDE_LETTERS:
            ticks = _round_numbers(low, high, _MOST_WIDE_TICKS, self.is_whole, is_upright)
        if is_upright:
            low, high = min(low, ticks[0]), max(high, ticks[-1])
        named = tuple(zip(ticks, _labels(ticks), strict=True))
        return Scale(low, high, _apart(Scale(low, high, named), is_upright))

    def shows(self, value: float) -> bool:
        """Whether it has a place here."""
        return math.isfinite(value) and (value > 0 or not self.is_log)

    def _log_scale(self, low: float, high: float, is_upright: bool) -> Scale:
        if low == high:
            low, high = low / 2, high * 2
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1,) if len(decades) > _WIDE_LETTERS else (1, 2, 5)
        ticks = self.at or [factor * 10.0**decade for decade in decades for factor in factors]
        if not self.at and sum(low <= tick <= high for tick in ticks) < _FEWEST_TICKS:
            ticks = _round_numbers(low, high, _MOST_TICKS, self.is_whole, is_around=False)
        named = tuple((tick, f"{tick:,.6g}") for tick in ticks)
        return Scale(low, high, _apart(Scale(low, high, named, is_log=True), is_upright), is_log=True)


@dataclass(frozen=True)
class Scale:
    """From low to high. ticks: numbers, and how they are written."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """0 at low, 1 at high."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def _apart(scale: Scale, is_upright: bool) -> tuple[tuple[float, str], ...]:
    """The ticks that lie on it and not too near to each other."""

    def room(label: str) -> float:
        return _NEAREST if is_upright else _LETTER * (len(label) + 1)

    kept: list[tuple[float, str]] = []
    for value, label in scale.ticks:
        here = scale.share(value) if value > 0 or not scale.is_log else -1.0
        is_inside = -1e-9 <= here <= 1 + 1e-9
        if not is_inside:
            continue
        if not kept or here - scale.share(kept[-1][0]) >= (room(kept[-1][1]) + room(label)) / 2:
            kept.append((value, label))
    return tuple(kept)


def _round_numbers(low: float, high: float, most: int, is_whole: bool, is_around: bool) -> list[float]:
    """At most this many, evenly apart, between low and high; is_around: from below low to above high."""
    for step in _round_steps((high - low) / most):
        if is_whole and step != round(step):
            continue
        if is_around:
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        else:
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [number * step for number in range(first, last + 1)]
    raise AssertionError("there is always a larger step")


def _round_steps(least: float) -> Iterator[float]:
    decade = math.floor(math.log10(least))
    while True:
        yield from (step * 10.0**decade for step in _STEPS if step * 10.0**decade >= least * (1 - 1e-9))
        decade += 1


def _labels(ticks: Sequence[float]) -> list[str]:
    """All with the digits that the finest of them needs."""
    size = max(map(abs, ticks))
    if size and not 1e-3 <= size < 1e6:
        return [f"{tick:.6g}" for tick in ticks]
    digits = max(len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in ticks)
    return [f"{tick:,.{digits}f}" for tick in ticks]
