"""How an evaluation was computed: time, throughput, memory, the slowest items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from crossfoot.scores.item_score import Scored

SLOWEST = 10
CANNOT_TELL = (
    "It grows with the batch even where nothing gets faster, and falls with memory that nobody else would "
    "have used; it compares runs of one model on the same items, and says nothing beyond them."
)
"""What the one figure of performance does not say."""


@dataclass(frozen=True)
class SlowItem:
    """One of the slowest."""

    task: str
    id: str
    place: str
    bucket: int
    milliseconds: float


@dataclass(frozen=True)
class WorkSummary:
    """seconds: of computing, of the rank that had most. token_slots_per_second: tokens computed, padding in.
    mean_rows: in a forward, as an item finds it. peak_bytes: of the fullest device; None where nothing was
    measured. performance: items a second x mean rows / peak memory in GB; CANNOT_TELL says what of.
    """

    ranks: int
    seconds: float
    items_per_second: float | None
    token_slots_per_second: float | None
    mean_rows: float
    peak_bytes: int | None
    performance: float | None
    slowest: tuple[SlowItem, ...]


@dataclass(frozen=True)
class Moment:
    """seconds: of computing that a rank had done. peak_bytes: at that time, of that rank."""

    seconds: float
    peak_bytes: int


def work_summary(items: Sequence[Scored]) -> WorkSummary:
    """items: at least one."""
    by_rank = _seconds_by_rank(items)
    seconds = max(by_rank.values())
    rows = sum(one.work.rows_in_forward for one in items) / len(items)
    peak = max(one.work.peak_bytes for one in items) or None
    per_second = len(items) / seconds if seconds else None
    tokens = sum(one.work.token_slots for one in items)
    return WorkSummary(
        len(by_rank),
        seconds,
        per_second,
        tokens / seconds if seconds else None,
        rows,
        peak,
        per_second * rows / (peak / 1e9) if per_second and peak else None,
        tuple(_slowest(items)),
    )


def _seconds_by_rank(items: Sequence[Scored]) -> dict[int, float]:
    milliseconds: dict[int, float] = defaultdict(float)
    for one in items:
        milliseconds[one.work.rank] += one.work.milliseconds
    return {rank: spent / 1000 for rank, spent in milliseconds.items()}


def _slowest(items: Sequence[Scored]) -> Iterator[SlowItem]:
    for one in sorted(items, key=lambda item: -item.work.milliseconds)[:SLOWEST]:
        score, work = one.score, one.work
        yield SlowItem(score.task, score.id, work.short_place, score.bucket, work.milliseconds)


def memory_by_rank(written: Sequence[Scored]) -> dict[int, list[Moment]]:
    """written: in the order of the log's lines."""
    moments: dict[int, list[Moment]] = {}
    in_order = sorted(written, key=lambda one: one.work.rank)
    for rank, own in groupby(in_order, key=lambda one: one.work.rank):
        spent = 0.0
        moments[rank] = []
        for one in own:
            spent += one.work.milliseconds / 1000
            moments[rank].append(Moment(spent, one.work.peak_bytes))
    return moments
