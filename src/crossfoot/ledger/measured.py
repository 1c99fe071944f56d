"""What all ranks measured in one step, as columns: the sums, times and digests of a ledger line."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfoot.ledger.matching import Content, FlatSlots, PlannedStep
from crossfoot.ledger.naming import WEIGHT_TOLERANCE, rate_is_planned
from crossfoot.ledger.rank_counts import PerRank, per_rank_of
from crossfoot.ledger.seen_samples import SeenSamples
from crossfoot.ledger.witness import StepWitness, WitnessRows

Int64Array = npt.NDArray[np.int64]
Uint64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class SlotColumns:
    """Slots as they were met, int64[slots]: rank, forward, samples; digests: of the samples, slot after slot,
    uint64.
    """

    ranks: Int64Array
    forwards: Int64Array
    sizes: Int64Array
    digests: Uint64Array


@dataclass(frozen=True, eq=False)
class Measured:
    """One step. per_rank: with its columns. loss_sum, seconds: of each rank. grad_norm: of the lowest rank.
    applied: on every rank. retries: of the rank that has most.
    """

    per_rank: PerRank
    slots: SlotColumns
    lr: float
    group_lrs: Mapping[str, float]
    loss_sums: Sequence[float]
    grad_norm: float
    applied: bool
    retries: int
    seconds: Sequence[float]

    @property
    def loss_sum(self) -> float:
        """The exactly rounded sum, so that it does not depend on the order of the ranks; inf or NaN where one
        is.
        """
        values = self.loss_sums
        return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)

    @property
    def times(self) -> dict[str, Any]:
        """How long the ranks took, by the names of a ledger line."""
        if not self.seconds:
            return {"seconds": 0.0, "median_seconds": None, "fastest_seconds": None, "slowest_rank": None}
        assert self.per_rank.columns is not None
        slowest = max(self.seconds)
        return {
            "seconds": slowest,
            "median_seconds": round(median(self.seconds), 6),
            "fastest_seconds": round(min(self.seconds), 6),
            "slowest_rank": self.per_rank.columns.rank[self.seconds.index(slowest)],
        }


def measured_of(witnesses: Sequence[StepWitness], told: StepWitness | None = None) -> Measured:
    """Of witnesses in ascending order of their ranks, whatever is in them. told: whose rates are told; None:
    the first one's.
    """
    told = told or next(iter(witnesses), None)
    columns: dict[str, list[int]] = {"rank": [witness.rank for witness in witnesses]}
    for name in ("real_tokens", "trained_tokens", "token_slots"):
        columns[name] = [
            sum(getattr(forward, name) for forward in witness.forwards) + getattr(witness.lost, name)
            for witness in witnesses
        ]
    columns["samples"] = [
        sum(len(forward.segments) for forward in witness.forwards) + witness.lost.segments
        for witness in witnesses
    ]
    columns["forwards"] = [len(witness.forwards) + witness.lost.forwards for witness in witnesses]
    return Measured(
        per_rank=per_rank_of(columns),
        slots=slots_of(witnesses),
        lr=math.nan if told is None else told.lr,
        group_lrs={} if told is None else told.group_lrs,
        loss_sums=[witness.loss_sum for witness in witnesses],
        grad_norm=witnesses[0].grad_norm if witnesses else math.nan,
        applied=bool(witnesses) and all(witness.applied for witness in witnesses),
        retries=max((witness.retries for witness in witnesses), default=0),
        seconds=[witness.seconds for witness in witnesses],
    )


def measured_as_planned(
    planned: PlannedStep, flat: FlatSlots, rows: WitnessRows, content: Content, seen: SeenSamples
) -> Measured | None:
    """The same of packed rows in which nothing differs from the plan, by comparing whole columns; None where
    anything does, or may: then every sample is looked at.
    """
    forwards = rows.forwards()
    ranks = np.arange(len(planned.slots))
    if not planned.trained_tokens or forwards is None or not _are_heads_planned(planned, rows, ranks):
        return None
    count = forwards.shape[1]
    sizes = forwards[:, :, 5]
    are_planned = (
        bool((flat.forwards == count).all())
        and bool((forwards[:, :, 0] == np.arange(count)).all())
        and not forwards[:, :, 4].any()
        and np.array_equal(sizes.ravel(), flat.sizes)
    )
    segments = rows.segments(sizes.sum(axis=1)) if are_planned else None
    if segments is None or not _is_content_planned(flat, segments, content, seen):
        return None
    weights, losses = (np.ascontiguousarray(forwards[:, :, place]).view(np.float64) for place in (2, 3))
    ratios = weights[sizes > 0] / (len(ranks) / planned.trained_tokens)
    if not np.isfinite(losses).all() or not (abs(ratios - 1) <= WEIGHT_TOLERANCE).all():
        return None
    return _measured_of_rows(rows, forwards, segments)


def _are_heads_planned(planned: PlannedStep, rows: WitnessRows, ranks: Int64Array) -> bool:
    """Whether each rank of the plan sent one whole record of this step, updated at its rate, and met numbers
    only.
    """
    rates, groups = rows.column("lr"), rows.group_rates()
    return (
        np.array_equal(rows.column("rank"), ranks)
        and bool((rows.column("step") == planned.step).all())
        and rows.are_all_applied
        and not rows.has_lost
        and bool((rates == rates[0]).all())
        and rate_is_planned(float(rows.floats("lr")[0]), planned.lr)
        and groups is not None
        and groups.keys() == planned.group_lrs.keys()
        and all(rate_is_planned(groups[group], rate) for group, rate in planned.group_lrs.items())
        and bool(np.isfinite(rows.floats("loss_sum")).all())
        and bool(np.isfinite(rows.floats("grad_norm")).all())
    )


def _is_content_planned(flat: FlatSlots, segments: Int64Array, content: Content, seen: SeenSamples) -> bool:
    """Whether each segment is the planned sample of its place, counted as the index does, and is new to its
    epoch.
    """
    return (
        np.array_equal(_digests(segments), content.digests[flat.ids])
        and np.array_equal(segments[:, 2], content.lengths[flat.ids])
        and np.array_equal(segments[:, 3], content.trained_tokens[flat.ids])
        and not seen.were_any_trained(flat.ids, flat.epochs)
    )


def _measured_of_rows(rows: WitnessRows, forwards: Int64Array, segments: Int64Array) -> Measured:
    ranks, count = np.arange(forwards.shape[0]), forwards.shape[1]
    sizes = forwards[:, :, 5]
    samples = sizes.sum(axis=1)
    ends = np.cumsum(samples)
    sums = np.concatenate((np.zeros((1, 2), dtype=np.int64), np.cumsum(segments[:, 2:], axis=0)))
    tokens = sums[ends] - sums[ends - samples]
    columns = {"rank": ranks, "samples": samples, "real_tokens": tokens[:, 0], "trained_tokens": tokens[:, 1]}
    columns |= {"token_slots": forwards[:, :, 1].sum(axis=1), "forwards": np.full(len(ranks), count)}
    return Measured(
        per_rank=per_rank_of({name: column.tolist() for name, column in columns.items()}),
        slots=SlotColumns(
            np.repeat(ranks, count), forwards[:, :, 0].ravel(), sizes.ravel(), _digests(segments)
        ),
        lr=float(rows.floats("lr")[0]),
        group_lrs=rows.group_rates() or {},
        loss_sums=rows.floats("loss_sum").tolist(),
        grad_norm=float(rows.floats("grad_norm")[0]),
        applied=rows.are_all_applied,
        retries=int(rows.column("retries").max()),
        seconds=rows.floats("seconds").tolist(),
    )


def _digests(segments: Int64Array) -> Uint64Array:
    return np.ascontiguousarray(segments[:, 1]).view(np.uint64)


def slots_of(witnesses: Sequence[StepWitness]) -> SlotColumns:
    """Every slot as it was met."""
    slots = [(witness.rank, forward) for witness in witnesses for forward in witness.forwards]
    return SlotColumns(
        np.array([rank for rank, _ in slots], dtype=np.int64),
        np.array([forward.forward for _, forward in slots], dtype=np.int64),
        np.array([len(forward.segments) for _, forward in slots], dtype=np.int64),
        np.array([segment.digest for _, forward in slots for segment in forward.segments], dtype=np.uint64),
    )


def samples_sha256(digests: Uint64Array) -> str:
    """First 16 hex digits of the sha256 over the sorted digests, little-endian: a step's set of samples by
    content.
    """
    return hashlib.sha256(np.sort(digests).astype("<u8").tobytes()).hexdigest()[:16]


def slots_sha256(slots: SlotColumns) -> str:
    """First 16 hex digits of the sha256 over every slot as it was met, forward by forward: forward, rank,
    number of samples, their sorted digests, as little-endian 64-bit words.
    """
    order = np.lexsort((slots.ranks, slots.forwards))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    held = np.repeat(place, slots.sizes)  # of each sample
    by_slot = np.lexsort((slots.digests, held))
    sizes = slots.sizes[order]
    heads = np.cumsum(sizes + 3) - sizes - 3
    words = np.empty(3 * len(order) + len(held), dtype=np.uint64)
    words[heads], words[heads + 1], words[heads + 2] = slots.forwards[order], slots.ranks[order], sizes
    words[np.arange(len(held)) + 3 * (held[by_slot] + 1)] = slots.digests[by_slot]
    return hashlib.sha256(words.astype("<u8").tobytes()).hexdigest()[:16]
