"""Which real segment is which planned sample: multisets of content, matched slot by slot, then over the whole
step.

Samples with equal content share a digest; each is matched as often as it was planned, never more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from crossfoot.ledger.witness import SegmentWitness

Int64Array = npt.NDArray[np.int64]
Uint64Array = npt.NDArray[np.uint64]
Left = TypeVar("Left")
Right = TypeVar("Right")


@dataclass(frozen=True, eq=False)
class PlannedStep:
    """What one optimizer step was planned to be, over all ranks.

    epoch: of its first sample. lr: the rate to step at. group_lrs: of the parameters that have a rate of
    their own. trained_tokens: of the whole step. slots:
    [rank][forward] -> int64 ids, empty slots included. sample_epochs: None when all samples are of `epoch`;
    else the epoch of each id in `samples` (the step's ids in any order, one id possibly under two epochs), or
    a mapping id -> epoch.
    """

    step: int
    epoch: int
    lr: float
    trained_tokens: int
    slots: Sequence[Sequence[Int64Array]]
    samples: Int64Array | None = None
    sample_epochs: Int64Array | Mapping[int, int] | None = None
    group_lrs: Mapping[str, float] = field(default_factory=dict)

    @property
    def forwards(self) -> int:
        """Forwards planned over all ranks, empty ones too."""
        return sum(len(slots) for slots in self.slots)


@dataclass(frozen=True)
class PlannedSample:
    """One sample where the plan put it."""

    rank: int
    forward: int
    sample: int
    epoch: int


@dataclass(frozen=True)
class RealSegment:
    """One segment where it was really differentiated."""

    rank: int
    forward: int
    seen: SegmentWitness


@dataclass(frozen=True)
class StepMatch:
    """The outcome: every planned sample and every real segment of the step stands in exactly one of these
    lists.
    """

    as_planned: list[tuple[PlannedSample, RealSegment]] = field(default_factory=list)
    moved: list[tuple[PlannedSample, RealSegment]] = field(default_factory=list)
    masked: list[tuple[PlannedSample, RealSegment]] = field(default_factory=list)
    altered: list[tuple[PlannedSample, RealSegment]] = field(default_factory=list)
    missing: list[PlannedSample] = field(default_factory=list)
    again: list[tuple[PlannedSample, RealSegment]] = field(default_factory=list)
    """Real beyond what the step planned, with the planned sample of equal content (already matched above)."""
    unplanned: list[tuple[Int64Array, RealSegment]] = field(default_factory=list)
    """Samples of the data that this step did not plan, with all ids of that content."""
    unplanned_masked: list[tuple[Int64Array, RealSegment]] = field(default_factory=list)
    """The same, but only the tokens are known: the label mask is not the sample's."""
    unknown: list[RealSegment] = field(default_factory=list)


class DigestLookup:
    """64-bit digest -> ids of all samples that have it. Sorted once at the first question: 8 bytes a
    sample.
    """

    def __init__(self, digests: Uint64Array) -> None:
        self._digests = digests

    @cached_property
    def _order(self) -> Int64Array:
        return np.argsort(self._digests, kind="stable").astype(np.int64, copy=False)

    def ids(self, digest: int) -> Int64Array:
        """int64 ids in ascending order, empty when no sample has this digest."""
        wanted = np.uint64(digest)
        low = int(np.searchsorted(self._digests, wanted, side="left", sorter=self._order))
        high = int(np.searchsorted(self._digests, wanted, side="right", sorter=self._order))
        return self._order[low:high]


@dataclass(frozen=True, eq=False)
class Content:
    """What the data index knows of each of its N samples: arrays of length N, and the way back from a
    digest.
    """

    digests: Uint64Array
    token_digests: Uint64Array
    lengths: npt.NDArray[np.int32]
    trained_tokens: npt.NDArray[np.int32]
    by_digest: DigestLookup
    by_token_digest: DigestLookup


@dataclass(frozen=True, eq=False)
class FlatSlots:
    """The slots of a planned step, rank after rank and forward after forward, int64. ids, epochs: of the
    samples. sizes: samples of each slot. forwards: of each rank.
    """

    ids: Int64Array
    epochs: Int64Array
    sizes: Int64Array
    forwards: Int64Array


def flat_slots(planned: PlannedStep) -> FlatSlots:
    """The slots in a row. Raises ValueError when `samples` is not what they hold."""
    slots = [ids for forwards in planned.slots for ids in forwards]
    ids = np.concatenate([np.empty(0, dtype=np.int64), *slots])
    sizes = np.array([len(slot) for slot in slots], dtype=np.int64)
    forwards = np.array([len(own) for own in planned.slots], dtype=np.int64)
    return FlatSlots(ids, _epochs(planned, ids), sizes, forwards)


def planned_samples(planned: PlannedStep, flat: FlatSlots) -> list[PlannedSample]:
    """The plan's samples in slot order. flat: its slots."""
    places = [
        (rank, forward)
        for rank, slots in enumerate(planned.slots)
        for forward, ids in enumerate(slots)
        for _ in ids
    ]
    ids, epochs = flat.ids.tolist(), flat.epochs.tolist()
    return [PlannedSample(*place, *what) for place, *what in zip(places, ids, epochs, strict=True)]


def match_step(planned: Sequence[PlannedSample], real: Sequence[RealSegment], content: Content) -> StepMatch:
    """Match one step. The closest reading wins: same slot and content, same content, same tokens, same
    place.
    """
    ids = np.array([sample.sample for sample in planned], dtype=np.int64)
    digest_of = dict(zip(planned, content.digests[ids].tolist(), strict=True))
    token_digest_of = dict(zip(planned, content.token_digests[ids].tolist(), strict=True))
    match = StepMatch()
    planned_of_digest: dict[int, PlannedSample] = {}
    for sample in planned:
        planned_of_digest.setdefault(digest_of[sample], sample)
    pairs, left, rest = pair_off(
        planned,
        real,
        lambda p: (p.rank, p.forward, digest_of[p]),
        lambda r: (r.rank, r.forward, r.seen.digest),
    )
    match.as_planned.extend(pairs)
    pairs, left, rest = pair_off(left, rest, lambda p: digest_of[p], lambda r: r.seen.digest)
    match.moved.extend(pairs)
    unplaced = []
    for segment in rest:
        if segment.seen.digest in planned_of_digest:
            match.again.append((planned_of_digest[segment.seen.digest], segment))
        elif (known := content.by_digest.ids(segment.seen.digest)).size:
            match.unplanned.append((known, segment))
        else:
            unplaced.append(segment)
    _match_unplaced(match, left, unplaced, token_digest_of, content)
    return match


def pair_off(
    left: Iterable[Left],
    right: Iterable[Right],
    left_key: Callable[[Left], Hashable],
    right_key: Callable[[Right], Hashable],
) -> tuple[list[tuple[Left, Right]], list[Left], list[Right]]:
    """Pair elements of equal key, each used once, in order. Returns the pairs and what is left of both
    sides.
    """
    waiting: dict[Hashable, deque[int]] = {}
    left = list(left)
    for position, element in enumerate(left):
        waiting.setdefault(left_key(element), deque()).append(position)
    pairs, rest, used = [], [], set()
    for other in right:
        if line := waiting.get(right_key(other)):
            position = line.popleft()
            used.add(position)
            pairs.append((left[position], other))
        else:
            rest.append(other)
    return pairs, [element for position, element in enumerate(left) if position not in used], rest


def _match_unplaced(
    match: StepMatch,
    left: list[PlannedSample],
    unplaced: list[RealSegment],
    token_digest_of: Mapping[PlannedSample, int],
    content: Content,
) -> None:
    """Segments whose digest is in no sample: a lost label mask first, then altered tokens by slot and
    likeness.
    """
    pairs, left, unplaced = pair_off(
        left,
        unplaced,
        lambda p: (p.rank, p.forward, token_digest_of[p]),
        lambda r: (r.rank, r.forward, r.seen.token_digest),
    )
    match.masked.extend(pairs)
    pairs, left, unplaced = pair_off(
        left, unplaced, lambda p: token_digest_of[p], lambda r: r.seen.token_digest
    )
    match.masked.extend(pairs)
    unknown = []
    for segment in unplaced:
        ids = content.by_token_digest.ids(segment.seen.token_digest)
        if ids.size:
            match.unplanned_masked.append((ids, segment))
        else:
            unknown.append(segment)

    def likeness(sample: PlannedSample) -> tuple[int, int]:
        return int(content.lengths[sample.sample]), int(content.trained_tokens[sample.sample])

    for depth in (2, 1, 0):  # equal length and trained tokens, equal length, the slot alone
        pairs, left, unknown = pair_off(
            left,
            unknown,
            lambda p: (p.rank, p.forward, *likeness(p)[:depth]),  # noqa: B023
            lambda r: (r.rank, r.forward, *(r.seen.real_tokens, r.seen.trained_tokens)[:depth]),  # noqa: B023
        )
        match.altered.extend(pairs)
    match.missing.extend(left)
    match.unknown.extend(unknown)


def _epochs(planned: PlannedStep, ids: Int64Array) -> Int64Array:
    """The epoch of each id in slot order; an id under two epochs gets each of them once."""
    epochs = planned.sample_epochs
    if epochs is None:
        return np.full(len(ids), planned.epoch, dtype=np.int64)
    if isinstance(epochs, Mapping):
        return np.array([epochs[sample] for sample in ids.tolist()], dtype=np.int64)
    if planned.samples is None or len(planned.samples) != len(epochs):
        raise ValueError(
            f"step index {planned.step}: sample_epochs needs the ids it belongs to, as `samples`"
        )
    by_id, by_slot = np.argsort(planned.samples, kind="stable"), np.argsort(ids, kind="stable")
    if not np.array_equal(planned.samples[by_id], ids[by_slot]):
        raise ValueError(f"step index {planned.step}: the slots do not hold the step's samples")
    in_slots = np.empty(len(ids), dtype=np.int64)
    in_slots[by_slot] = np.asarray(epochs)[by_id]
    return in_slots
