"""Few points instead of many, which look the same when they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

MOST_POINTS = 1000
_COLUMNS = 250
_ROWS = 125


class Point(NamedTuple):
    """low, high: the interval of y; None: there is none."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


Place = Callable[[Point], tuple[float, float]]
"""Where a point stands in the picture: its shares of width and height."""


def thinned_line(points: Sequence[Point], place: Place) -> list[Point]:
    """Of points in the order of x: in each column of the picture the first and the last, and those where y or
    an end of the interval is largest or smallest, so that no peak is lost.
    """
    if len(points) <= MOST_POINTS:
        return list(points)
    return [point for column in _columns(points, place) for point in _outermost(column)]


def _columns(points: Sequence[Point], place: Place) -> Iterator[list[Point]]:
    column: list[Point] = []
    at = -1
    for point in points:
        if (here := int(place(point)[0] * _COLUMNS)) != at:
            if column:
                yield column
            column, at = [], here
        column.append(point)
    yield column


def _outermost(column: Sequence[Point]) -> Iterator[Point]:
    places = range(len(column))
    kept = {0, len(column) - 1}
    kept |= {min(places, key=lambda at: column[at].y), max(places, key=lambda at: column[at].y)}
    lows = [(one.low, at) for at, one in enumerate(column) if one.low is not None]
    highs = [(one.high, at) for at, one in enumerate(column) if one.high is not None]
    kept |= {at for _, at in (*(lows and [min(lows)]), *(highs and [max(highs)]))}
    return (column[at] for at in sorted(kept))


def thinned_dots(points: Sequence[Point], place: Place) -> list[Point]:
    """One of those that would lie on one another."""
    if len(points) <= MOST_POINTS:
        return list(points)
    cells: dict[tuple[int, int], Point] = {}
    for point in points:
        across, up = place(point)
        cells.setdefault((int(across * _COLUMNS), int(up * _ROWS)), point)
    return list(cells.values())
