"""Many steps as the few points of a curve."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from crossfoot.reports.thinning import Point


def curve(
    xs: Sequence[float],
    tops: Sequence[float],
    bottoms: Sequence[float] | None,
    most: int,
    has_band: bool,
) -> list[Point]:
    """The ratio of tops to bottoms (None: of 1 each) over xs, in ascending order: a point for each, or for
    `most` stretches of equally many the ratio of the sums over it, with its lowest and highest ratio as
    interval (has_band). What is NaN or infinite, or has a bottom of 0, is left out of a stretch; where
    nothing else is, there is a gap.
    """
    x, top = np.asarray(xs, dtype=np.float64), np.asarray(tops, dtype=np.float64)
    bottom = np.ones_like(top) if bottoms is None else np.asarray(bottoms, dtype=np.float64)
    ratio = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
    if len(x) <= most:
        return [Point(*pair) for pair in zip(x.tolist(), ratio.tolist(), strict=True)]
    edges = np.linspace(0, len(x), most + 1).astype(int).tolist()
    points = []
    for first, end in pairwise(edges):
        known = np.isfinite(ratio[first:end])
        middle = float(x[first:end].mean())
        if not known.any():
            points.append(Point(middle, np.nan))
            continue
        each = ratio[first:end][known]
        mean = float(top[first:end][known].sum() / bottom[first:end][known].sum())
        interval = (float(each.min()), float(each.max())) if has_band else (None, None)
        points.append(Point(middle, mean, *interval))
    return points


def steps_of_point(steps: int, most: int) -> int:
    """Of how many steps, at most, a point is the mean."""
    return -(-steps // most) if steps > most else 1
