"""A line chart as SVG, small enough to be read on a phone."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 14, 42
COLOURS = ("#1f6fb2", "#d1495b", "#2a8c5a", "#b3741a", "#7a4fb5", "#4a4a4a", "#0f8b8d", "#a83f8f")
_INK, _GRID = "#444", "#e3e3e3"
_FEWEST_TICKS = 3
_MOST_LETTERS = 34


@dataclass(frozen=True)
class Line:
    """label: for the legend. points: (x, y), x ascending. is_dashed: a second one of the same colour."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    is_dashed: bool = False


def chart(title: str, across: str, lines: Sequence[Line]) -> str:
    """A figure with its title, the word for its x axis and a legend; y begins at 0. "" without a point."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    xs = _ticks(min(x for x, _ in points), max(x for x, _ in points))
    ys = _ticks(0.0, max(y for _, y in points) or 1.0)
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    drawn = [
        *_axes(xs, ys, left, right),
        *(_path(line, left, right, ys[-1]) for line in lines if line.points),
    ]
    words = html.escape(title)
    return (
        f"<figure><figcaption>{words}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}">{"".join(drawn)}'
        f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(across)}</text>'
        f"</svg>{_legend(lines)}</figure>"
    )


def _axes(xs: Sequence[float], ys: Sequence[float], left: float, right: float) -> Iterator[str]:
    for y in ys:
        at = _y(y, ys[-1])
        yield f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:.6g}</text>'
    floor = HEIGHT - _BOTTOM
    yield f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}" stroke="{_INK}"/>'
    for x in xs:
        if left <= x <= right:
            at = _x(x, left, right)
            anchor = "end" if at > WIDTH - 2 * _RIGHT else "middle"
            yield f'<text x="{at:.1f}" y="{floor + 16}" text-anchor="{anchor}">{x:.6g}</text>'


def _path(line: Line, left: float, right: float, top: float) -> str:
    where = [(_x(x, left, right), _y(y, top)) for x, y in line.points]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{line.colour}"/>' for x, y in where)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
    return (
        f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{_dashes(line)}/>'
        f"{dots if len(where) <= len(COLOURS) * 2 else ''}"
    )


def _legend(lines: Sequence[Line]) -> str:
    return f"<ul>{''.join(map(_entry, (line for line in lines if line.points)))}</ul>"


def _entry(line: Line) -> str:
    key = f'<line x1="0" x2="24" y1="4" y2="4" stroke="{line.colour}" stroke-width="3"{_dashes(line)}/>'
    label = html.escape(line.label if len(line.label) <= _MOST_LETTERS else f"{line.label[:_MOST_LETTERS]}…")
    return f'<li><svg class="key" viewBox="0 0 24 8">{key}</svg> {label}</li>'


def _dashes(line: Line) -> str:
    return ' stroke-dasharray="5 4"' if line.is_dashed else ""


def _x(x: float, left: float, right: float) -> float:
    share = (x - left) / (right - left) if right > left else 0.5
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _y(y: float, top: float) -> float:
    return HEIGHT - _BOTTOM - y / top * (HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low on, the last one at high or above it."""
    span = max(high - low, abs(high) * 1e-6, 1e-9)
    step = 10.0 ** math.floor(math.log10(span))
    while span / step < _FEWEST_TICKS:
        step /= 2
    first = math.floor(low / step)
    return [number * step for number in range(first, math.ceil(high / step - 1e-9) + 1)] or [low, low + step]
