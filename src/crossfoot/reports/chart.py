"""A chart of two axes: lines with bands, dots with intervals. Also bars, one below the other.

The picture is stretched to the room it has; texts and strokes are not: they are as large on a phone as on a
wide screen. All texts are HTML around the picture, so that they wrap, can be read aloud and found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Literal

from crossfoot.reports.axes import Axis, Scale
from crossfoot.reports.page import figure
from crossfoot.reports.text import Html, Text, english, escaped, shown
from crossfoot.reports.thinning import Place, Point, thinned_dots, thinned_line

__all__ = ["COLOURS", "Axis", "Bar", "Point", "Series", "bars", "chart"]

COLOURS = 8
"""As many as page.css has."""
_WIDTH, _HEIGHT = 2000, 1000
_MOST_MARKS = 24
_MANY = 300


@dataclass(frozen=True)
class Series:
    """label: for the legend; "" for none. points: of a line, x ascending; one whose y is NaN or infinite is a
    gap. how: intervals of a line's points are drawn as a band, those of dots as a stroke each. colour: a
    number, taken modulo COLOURS; None: its place in the chart. is_dashed: a second line of the same colour.
    """

    label: Text
    points: Sequence[Point]
    how: Literal["line", "dots"] = "line"
    colour: int | None = None
    is_dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A value, from 0 on. text: how it is written. low, high: its interval."""

    label: Text
    value: float
    text: Text
    low: float | None = None
    high: float | None = None
    colour: int = 0


def chart(
    title: Text, across: Axis, up: Axis, series: Sequence[Series], note: Text = "", is_wide: bool = False
) -> Html:
    """A figure with its legend; empty without a point to show. note: below it. is_wide: as the page."""
    points = [point for one in series for point in one.points if across.shows(point.x) and up.shows(point.y)]
    heights = (y for point in points for y in (point.y, point.low, point.high) if y is not None)
    xs, ys = across.scale(point.x for point in points), up.scale(heights, is_upright=True)
    if xs is None or ys is None:
        return Html("")
    drawn = _Drawing(across, up, xs, ys)
    paths = "".join(
        drawn.paths(one, (number if one.colour is None else one.colour) % COLOURS)
        for number, one in enumerate(series)
    )
    picture = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escaped(english(title))}">{drawn.grid()}{paths}</svg>'
    )
    words = f'<div class="up">{shown(up.label)}</div>' if up.label else ""
    below = f'<div class="across">{shown(across.label)}</div>' if across.label else ""
    gutter = max(len(label) for _, label in ys.ticks)
    plot = f'<div class="plot" style="--gutter:{gutter}ch">{picture}{drawn.ticks()}</div>'
    return figure(title, f"{words}{plot}{below}{_legend(series)}", note, is_wide)


@dataclass(frozen=True)
class _Drawing:
    across: Axis
    up: Axis
    xs: Scale
    ys: Scale

    def grid(self) -> str:
        """A line at each tick of the vertical axis."""
        lines = "".join(f"M0 {self._y(y)}h{_WIDTH}" for y, _ in self.ys.ticks)
        return f'<path class="grid" d="{lines}"/>'

    def ticks(self) -> str:
        """The numbers at the axes."""
        xs = (
            f'<span class="x" style="left:{100 * self.xs.share(x):.4g}%">{label}</span>'
            for x, label in self.xs.ticks
        )
        ys = (
            f'<span class="y" style="top:{100 - 100 * self.ys.share(y):.4g}%">{label}</span>'
            for y, label in self.ys.ticks
        )
        return "".join(chain(xs, ys))

    def paths(self, series: Series, colour: int) -> str:
        """All of one series: a band below it, the line or the dots."""
        is_line = series.how == "line"
        thin = thinned_line if is_line else thinned_dots
        stretches = [thin(part, self._place) for part in self._stretches(series.points)]
        points = list(chain.from_iterable(stretches))
        shapes = {
            "band": "".join(map(self._band, stretches)) if is_line else "",
            "line": "".join(map(self._line, stretches)) if is_line else "",
            "whisker": "" if is_line else "".join(map(self._whisker, points)),
            "dots": self._dots(points) if not is_line or len(points) <= _MOST_MARKS else "",
        }
        look = f"c{colour}{' dashed' if series.is_dashed else ''}{' many' if len(points) > _MANY else ''}"
        return "".join(f'<path class="{name} {look}" d="{path}"/>' for name, path in shapes.items() if path)

    def _stretches(self, points: Sequence[Point]) -> Iterator[list[Point]]:
        """Without the gaps."""
        for is_shown, part in groupby(points, self._shows):
            if is_shown:
                yield list(part)

    def _shows(self, point: Point) -> bool:
        return self.across.shows(point.x) and self.up.shows(point.y)

    def _line(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{self._x(point.x)} {self._y(point.y)}" for point in points)

    def _dots(self, points: Iterable[Point]) -> str:
        return "".join(f"M{self._x(point.x)} {self._y(point.y)}h0" for point in points)

    def _whisker(self, point: Point) -> str:
        if point.low is None or point.high is None:
            return ""
        return f"M{self._x(point.x)} {self._y(point.low)}V{self._y(point.high)}"

    def _band(self, points: Sequence[Point]) -> str:
        """Around the points that have an interval."""
        known = [(self._x(one.x), one.low, one.high) for one in points]
        edge = [f"{x} {self._y(high)}" for x, low, high in known if low is not None and high is not None]
        back = [f"{x} {self._y(low)}" for x, low, high in known if low is not None and high is not None]
        return f"M{'L'.join([*edge, *reversed(back)])}z" if len(edge) > 1 else ""

    @property
    def _place(self) -> Place:
        return lambda point: (self.xs.share(point.x), self.ys.share(point.y))

    def _x(self, x: float) -> int:
        return round(_WIDTH * self.xs.share(x))

    def _y(self, y: float) -> int:
        """Of an interval that reaches below a logarithmic axis: its floor."""
        share = self.ys.share(y) if self.up.shows(y) else 0.0
        return round(_HEIGHT * (1 - min(1.0, max(0.0, share))))


def _legend(series: Sequence[Series]) -> str:
    entries = (
        f'<li><svg class="key" viewBox="0 0 24 8"><path class="{one.how} '
        f'c{(number if one.colour is None else one.colour) % COLOURS}{" dashed" if one.is_dashed else ""}" '
        f'd="M{"12 4h0" if one.how == "dots" else "0 4h24"}"/></svg>{shown(one.label)}</li>'
        for number, one in enumerate(series)
        if one.label and one.points
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def bars(
    title: Text, each: Sequence[Bar], note: Text = "", is_wide: bool = False, end: float | None = None
) -> Html:
    """Bars from 0 to the right, one below the other; values below 0 are written, and have no bar. end: what
    the whole width stands for; None: the longest bar.
    """
    longest = end or max((bar.value if bar.high is None else bar.high for bar in each), default=0.0)
    rows = "".join(_bar(bar, longest if longest > 0 else 1.0) for bar in each)
    return figure(title, f'<div class="bars">{rows}</div>', note, is_wide) if each else Html("")


def _bar(bar: Bar, longest: float) -> str:
    reach = _share(bar.value, longest)
    drawn = f'<path class="bar c{bar.colour % COLOURS}" d="M0 0H{reach}V8H0z"/>'
    if bar.low is not None and bar.high is not None:
        drawn += f'<path class="whisker" d="M{_share(bar.low, longest)} 4H{_share(bar.high, longest)}"/>'
    picture = f'<svg viewBox="0 0 {_WIDTH} 8" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
    name, value = shown(bar.label).replace("_", "_<wbr>"), shown(bar.text)
    return f'<span class="name">{name}</span>{picture}<span class="value">{value}</span>'


def _share(value: float, longest: float) -> int:
    return round(_WIDTH * min(1.0, max(0.0, value / longest)))
