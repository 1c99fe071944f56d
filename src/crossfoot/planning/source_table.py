"""The sources of a plan as a table: how much each of them is of what is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from crossfoot.index.planned_sources import PlannedSource, are_told_apart
from crossfoot.index.store import DataIndex

MOST_ROWS = 30
_LONGEST_NAME = 36
_HEAD = ("source", "samples", "times", "an epoch", "share", "of trained tokens", "left out", "cut short")


def source_table(sources: Sequence[PlannedSource], index: DataIndex | None) -> Iterator[str]:
    """A head and a line a source; nothing of one that has neither weight nor limit. index: None while nothing
    is tokenised, so that only samples are known.
    """
    if not are_told_apart(sources):
        return
    shown = sources[:MOST_ROWS]
    samples = _shares([source.share.per_epoch for source in sources])
    rows = [
        [_short(one.name), _used(one), f"{one.times:.4g}", f"{one.share.per_epoch:,}", samples[place]]
        for place, one in enumerate(shown)
    ]
    if index is not None:
        tokens = _shares([_trained_tokens(source, index) for source in sources])
        left_out = Counter(reject.place.file for reject in index.rejects)
        for place, (one, row) in enumerate(zip(shown, rows, strict=True)):
            rejected = sum(left_out[file] for file in one.source.files)
            row += [tokens[place], f"{rejected:,}", f"{_cut_short(one, index):,}"]
    yield ""
    yield from _aligned([list(_HEAD[: len(rows[0])]), *rows])
    if len(sources) > MOST_ROWS:
        yield f"    and {len(sources) - MOST_ROWS:,} more sources"


def _used(source: PlannedSource) -> str:
    """`24`, or `20 of 24` where a limit leaves some out."""
    used = source.share.samples
    return f"{used:,} of {source.samples:,}" if used < source.samples else f"{used:,}"


def _trained_tokens(source: PlannedSource, index: DataIndex) -> float:
    """Of an epoch, on average over all epochs."""
    share = source.share
    used = index.trained_tokens[share.first : share.first + share.samples]
    return source.times * int(used.sum(dtype=np.int64))


def _cut_short(source: PlannedSource, index: DataIndex) -> int:
    first = source.share.first
    return int(np.count_nonzero(index.lost_tokens[first : first + source.samples]))


def _shares(numbers: Sequence[float]) -> list[str]:
    whole = sum(numbers) or 1
    return [f"{100 * number / whole:.1f} %" for number in numbers]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True))
        yield f"    {name:<{widths[0]}}   {'   '.join(cells)}"
