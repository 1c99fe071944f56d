"""Which slot of a step each sample was promised to be in, worked out a second time for the receipt.

Nothing of `arithmetic.layout` is called: the same two rules, over many steps at once.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

_FULL = np.iinfo(np.int64).max


class Dealing(Protocol):
    """What the slots follow from. dealt_ranks: ranks of the plan, also where one process computes for all of
    them. work_per_token: None in the padded layout.
    """

    @property
    def micro_batch_size(self) -> int:
        """Samples of a slot, at most."""

    @property
    def slots_per_step(self) -> int:
        """Pairs of (rank, forward), at most."""

    @property
    def dealt_ranks(self) -> int:
        """See above."""

    @property
    def work_per_token(self) -> int | None:
        """See above."""


def slots_of_size(dealing: Dealing, size: int) -> int:
    """Slots of a step of `size` samples: all of them when padded, as few as hold it when packed."""
    if dealing.work_per_token is None:
        return dealing.slots_per_step
    whole, rest = divmod(size, dealing.dealt_ranks * dealing.micro_batch_size)
    return dealing.dealt_ranks * max(1, whole + (rest > 0))


def promised_slots(dealing: Dealing, ids: Int64Array, lengths: npt.NDArray[np.int32]) -> Int64Array:
    """The slot of every sample: ids and lengths are [n_steps, size], so is the answer."""
    if dealing.work_per_token is None:
        return _padded(dealing, lengths)
    return _packed(dealing, ids, lengths.astype(np.int64), dealing.work_per_token)


def _padded(dealing: Dealing, lengths: npt.NDArray[np.int32]) -> Int64Array:
    """Longest first, equal ones in the order in which they stand; even shares, the first slots one larger."""
    size, slots = lengths.shape[1], dealing.slots_per_step
    share, more = divmod(size, slots)
    of_place = np.repeat(np.arange(slots), [share + (slot < more) for slot in range(slots)])
    answer = np.empty(lengths.shape, dtype=np.int64)
    shorter = (lengths.max(initial=0) - lengths).astype(np.min_scalar_type(lengths.max(initial=0)))
    places = np.argsort(shorter, axis=1, kind="stable")
    np.put_along_axis(answer, places, np.broadcast_to(of_place, places.shape), axis=1)
    return answer


def _packed(dealing: Dealing, ids: Int64Array, lengths: Int64Array, per_token: int) -> Int64Array:
    """Into the slot with the least work that has room; then evened out; then numbered."""
    slots = slots_of_size(dealing, ids.shape[1])
    places = np.lexsort((ids, -lengths), axis=1)
    work = np.take_along_axis(per_token * lengths + lengths**2, places, axis=1)
    steps = np.arange(len(ids))
    totals = np.zeros((len(ids), slots), dtype=np.int64)
    held = np.zeros_like(totals)
    chosen = np.empty_like(places)
    first = min(slots, ids.shape[1])  # the longest find an empty slot each
    chosen[:, :first], totals[:, :first], held[:, :first] = np.arange(first), work[:, :first], 1
    for place in range(first, ids.shape[1]):
        slot = np.where(held < dealing.micro_batch_size, totals, _FULL).argmin(axis=1)
        chosen[:, place] = slot
        totals[steps, slot] += work[:, place]
        held[steps, slot] += 1
    for row in np.flatnonzero(totals.max(axis=1) > _bound(totals)):
        _even_out(chosen[row], work[row], slots, dealing.micro_batch_size)
    answer = np.empty_like(chosen)
    np.put_along_axis(answer, places, _numbered(chosen, work, slots, dealing.dealt_ranks), axis=1)
    return answer


def _bound(totals: Int64Array) -> Int64Array:
    """The most that a slot of each step may hold before anything is exchanged: 51/50 of the mean."""
    bound: Int64Array = np.divmod(totals.sum(axis=1) * 51, totals.shape[1] * 50)[0]
    return bound


def _even_out(chosen: Int64Array, work: Int64Array, slots: int, most: int) -> None:
    """Exchange samples of one step, in place, until the fullest slot is within the bound."""
    for _ in range(2 * slots):
        totals = np.zeros(slots, dtype=np.int64)
        np.add.at(totals, chosen, work)
        fullest = int(totals.argmax())
        if totals[fullest] <= _bound(totals[np.newaxis, :])[0]:
            return
        mine = np.flatnonzero(chosen == fullest)
        gaps = totals[fullest] - totals
        given, held = work[mine][:, np.newaxis], np.bincount(chosen, minlength=slots)
        # which slot a pair helps: by a sample that comes back, or by room for one more
        is_closer = (abs(2 * (given - work) - gaps[chosen]) < gaps[chosen]).any(axis=0)
        helped = np.bincount(chosen, is_closer, slots) > 0
        helped |= (held < most) & (abs(2 * given - gaps) < gaps).any(axis=0)
        if not helped.any():
            return
        other = int(np.where(helped, totals, _FULL).argmin())
        theirs = np.flatnonzero(chosen == other)
        back = work[theirs] if theirs.size == most else np.append(work[theirs], 0)
        miss = abs(2 * (given - back) - gaps[other])
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
