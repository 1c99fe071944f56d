"""Which slot of a step each sample was promised to be in, worked out a second time for the receipt.

Nothing of `arithmetic.layout` is called: the same two rules, over many steps at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]

_FULL = np.iinfo(np.int64).max


class Dealing(Protocol):
    """What the slots follow from. dealt_ranks: ranks of the plan, also where one process computes for all of
    them. work_per_token: None in the padded layout.
    """

    @property
    def micro_batch_size(self) -> int:
        """Samples of a slot, at most; no limit beside micro_batch_tokens."""

    @property
    def micro_batch_tokens(self) -> int | None:
        """Tokens of a slot, at most."""

    @property
    def slots_per_step(self) -> int:
        """Pairs of (rank, forward), at most."""

    @property
    def dealt_ranks(self) -> int:
        """See above."""

    @property
    def work_per_token(self) -> int | None:
        """See above."""


def slots_of_steps(dealing: Dealing, lengths: Lengths) -> Int64Array:
    """Slots of each step with samples of these lengths, [n_steps, size]: all of them when padded; when packed
    those of as few forwards as hold it. A sample that no slot holds: ValueError.
    """
    if dealing.work_per_token is None:
        return np.full(len(lengths), dealing.slots_per_step, dtype=np.int64)
    descending = -np.sort(-lengths.astype(np.int64), axis=1)
    taken, most = _limits(dealing, descending)
    total, ranks = taken.sum(axis=1), dealing.dealt_ranks
    whole, rest = np.divmod(total, ranks * most)
    slots: Int64Array = ranks * np.maximum(1, whole + (rest > 0))
    if dealing.micro_batch_tokens is not None:
        if taken.max() > most:
            raise ValueError(f"a sample has {taken.max()} tokens, and a slot {most}")
        work = _work(dealing, descending)
        # No sample is left over while some slot holds so little that the longest has room there.
        left = np.flatnonzero(total > slots * (most + 1 - taken[:, 0]))
        while left.size:
            failed = [
                rows[~_place(work[rows], taken[rows], count, most).fits]
                for count, rows in _alike(slots, left)
            ]
            left = np.concatenate(failed)
            slots[left] += ranks
    return slots


def promised_slots(dealing: Dealing, ids: Int64Array, lengths: Lengths, slots: int) -> Int64Array:
    """The slot of every sample, of `slots`: ids and lengths are [n_steps, size], so is the answer."""
    if dealing.work_per_token is None:
        return _padded(dealing, lengths)
    return _packed(dealing, ids, lengths.astype(np.int64), slots)


def _alike(numbers: Int64Array, rows: Int64Array) -> Iterator[tuple[int, Int64Array]]:
    """Each number that these rows have, and the rows that have it."""
    for number in np.unique(numbers[rows]).tolist():
        yield number, rows[numbers[rows] == number]


def _limits(dealing: Dealing, lengths: Int64Array) -> tuple[Int64Array, int]:
    """What each sample takes of a slot, and the most that a slot has: in tokens, or in samples."""
    if dealing.micro_batch_tokens is None:
        return np.ones_like(lengths), dealing.micro_batch_size
    return lengths, dealing.micro_batch_tokens


def _work(dealing: Dealing, lengths: Int64Array) -> Int64Array:
    return (dealing.work_per_token or 0) * lengths + lengths**2


def _padded(dealing: Dealing, lengths: Lengths) -> Int64Array:
    """Longest first, equal ones in the order in which they stand; even shares, the first slots one larger."""
    size, slots = lengths.shape[1], dealing.slots_per_step
    share, more = divmod(size, slots)
    of_place = np.repeat(np.arange(slots), [share + (slot < more) for slot in range(slots)])
    answer = np.empty(lengths.shape, dtype=np.int64)
    shorter = (lengths.max(initial=0) - lengths).astype(np.min_scalar_type(lengths.max(initial=0)))
    places = np.argsort(shorter, axis=1, kind="stable")
    np.put_along_axis(answer, places, np.broadcast_to(of_place, places.shape), axis=1)
    return answer


def _packed(dealing: Dealing, ids: Int64Array, lengths: Int64Array, slots: int) -> Int64Array:
    """Into the slot with the least work that has room; then evened out; then numbered."""
    places = np.lexsort((ids, -lengths), axis=1)
    ordered = np.take_along_axis(lengths, places, axis=1)
    work = _work(dealing, ordered)
    taken, most = _limits(dealing, ordered)
    placed = _place(work, taken, slots, most)
    chosen, totals = placed.slots, placed.totals
    for row in np.flatnonzero(totals.max(axis=1) > _bound(totals)):
        _even_out(chosen[row], work[row], taken[row], slots, most)
    answer = np.empty_like(chosen)
    np.put_along_axis(answer, places, _numbered(chosen, work, slots, dealing.dealt_ranks), axis=1)
    return answer


class _Placed(NamedTuple):
    """slots: of every sample, [n_steps, size]. totals: the work of every slot, [n_steps, slots]. fits:
    whether each sample of a step found room; where one did not, the two others mean nothing.
    """

    slots: Int64Array
    totals: Int64Array
    fits: npt.NDArray[np.bool_]


def _place(work: Int64Array, taken: Int64Array, slots: int, most: int) -> _Placed:
    steps = np.arange(len(work))
    totals = np.zeros((len(work), slots), dtype=np.int64)
    held = np.zeros_like(totals)
    chosen = np.empty_like(work)
    fits = np.ones(len(work), dtype=np.bool_)
    first = min(slots, work.shape[1])  # the longest find an empty slot each
    chosen[:, :first], totals[:, :first] = np.arange(first), work[:, :first]
    held[:, :first] = taken[:, :first]
    for place in range(first, work.shape[1]):
        has_room = held + taken[:, place, np.newaxis] <= most
        slot = np.where(has_room, totals, _FULL).argmin(axis=1)
        chosen[:, place] = slot
        fits &= has_room[steps, slot]
        totals[steps, slot] += work[:, place]
        held[steps, slot] += taken[:, place]
    return _Placed(chosen, totals, fits)


def _bound(totals: Int64Array) -> Int64Array:
    """The most that a slot of each step may hold before anything is exchanged: 51/50 of the mean."""
    bound: Int64Array = np.divmod(totals.sum(axis=1) * 51, totals.shape[1] * 50)[0]
    return bound


def _even_out(chosen: Int64Array, work: Int64Array, taken: Int64Array, slots: int, most: int) -> None:
    """Exchange samples of one step, in place, until the fullest slot is within the bound."""
    for _ in range(2 * slots):
        totals = np.zeros(slots, dtype=np.int64)
        np.add.at(totals, chosen, work)
        fullest = int(totals.argmax())
        if totals[fullest] <= _bound(totals[np.newaxis, :])[0]:
            return
        mine = np.flatnonzero(chosen == fullest)
        gaps = totals[fullest] - totals
        free = most - np.bincount(chosen, taken, slots).astype(np.int64)
        given, takes = work[mine][:, np.newaxis], taken[mine][:, np.newaxis]
        # which slot a pair helps: by a sample that comes back, or by room for one more
        is_closer = abs(2 * (given - work) - gaps[chosen]) < gaps[chosen]
        is_closer &= takes - taken <= free[chosen]
        helped = np.bincount(chosen, is_closer.any(axis=0), slots) > 0
        helped |= ((takes <= free) & (abs(2 * given - gaps) < gaps)).any(axis=0)
        if not helped.any():
            return
        other = int(np.where(helped, totals, _FULL).argmin())
        theirs = np.flatnonzero(chosen == other)
        back, frees = np.append(work[theirs], 0), np.append(taken[theirs], 0)
        miss = abs(2 * (given - back) - gaps[other])
        miss[takes - frees > free[other]] = _FULL
        place, returned = np.unravel_index(int(miss.argmin()), miss.shape)
        chosen[mine[place]] = other
        if returned < theirs.size:
            chosen[theirs[returned]] = fullest


def _numbered(chosen: Int64Array, work: Int64Array, slots: int, ranks: int) -> Int64Array:
    """The slots by descending work become forwards: one for each rank, every other forward backwards."""
    totals = np.zeros((len(chosen), slots), dtype=np.int64)
    for place in range(chosen.shape[1]):
        totals[np.arange(len(chosen)), chosen[:, place]] += work[:, place]
    forward, rank = np.divmod(np.arange(slots), ranks)
    number = forward * ranks + np.where(forward % 2 == 1, ranks - 1 - rank, rank)
    numbers = np.empty_like(totals)
    order = np.argsort(-totals, axis=1, kind="stable")
    np.put_along_axis(numbers, order, np.broadcast_to(number, order.shape), axis=1)
    return np.take_along_axis(numbers, chosen, axis=1)
