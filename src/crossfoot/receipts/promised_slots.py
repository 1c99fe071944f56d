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
_EMPTIEST = 64
"""Slots that the fullest one is tried with, the emptiest first."""


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
    rows = np.flatnonzero(totals.max(axis=1) > _bound(totals))
    if rows.size:
        chosen[rows] = _Exchanges(chosen[rows], totals[rows], work[rows], taken[rows], most).done()
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


class _Exchanges:
    """Samples change between the fullest slot of a step and one of the emptiest until it is within the bound,
    in all steps at once: one exchange of each in a round.

    A place is that of a sample in its step; the place behind the last one is nobody's: work 0, tokens 0.
    _held: the places of each slot, ascending and then nobody's, [n_steps, slots, width].
    """

    def __init__(
        self, chosen: Int64Array, totals: Int64Array, work: Int64Array, taken: Int64Array, most: int
    ) -> None:
        self._totals, self._nobody = totals.copy(), work.shape[1]
        self._bound = _bound(totals)
        self._work, self._taken = (np.pad(one, ((0, 0), (0, 1))) for one in (work, taken))
        order = np.argsort(chosen, axis=1, kind="stable")
        slot = np.take_along_axis(chosen, order, axis=1)
        rows = np.arange(len(chosen))[:, np.newaxis]
        counts = np.zeros_like(totals)
        np.add.at(counts, (rows, chosen), 1)
        begins = np.cumsum(counts, axis=1) - counts
        nth = np.arange(self._nobody) - np.take_along_axis(begins, slot, axis=1)
        self._held = np.full((*totals.shape, int(counts.max()) + 1), self._nobody, dtype=np.int64)
        self._held[rows, slot, nth] = order
        self._free = most - np.zeros_like(totals)
        np.subtract.at(self._free, (rows, chosen), taken)

    def done(self) -> Int64Array:
        """The slot of every place, [n_steps, size]."""
        rows = np.arange(len(self._totals))
        for _ in range(2 * self._totals.shape[1]):
            fullest = self._totals[rows].argmax(axis=1)
            above = self._totals[rows, fullest] > self._bound[rows]
            rows = self._exchange(rows[above], fullest[above])
            if not rows.size:
                break
        answer = np.empty_like(self._work)
        every = np.arange(len(answer))[:, np.newaxis, np.newaxis]
        answer[every, self._held] = np.arange(self._totals.shape[1])[:, np.newaxis]
        return answer[:, : self._nobody]

    def _exchange(self, rows: Int64Array, fullest: Int64Array) -> Int64Array:
        """One exchange in each of these steps, with the emptiest slot that it helps. Returns the steps in
        which there was one.
        """
        helped, nth = np.zeros(len(rows), dtype=np.bool_), 0
        waiting, order = np.arange(len(rows)), self._totals[rows].argmin(axis=1)[:, np.newaxis]
        while waiting.size and nth < min(_EMPTIEST, self._totals.shape[1]):
            if nth == 1:  # the very emptiest is no help to these: the next ones, one after the other
                order = np.argsort(self._totals[rows[waiting]], axis=1, kind="stable")
            tried = self._try(rows[waiting], fullest[waiting], order[:, nth])
            helped[waiting[tried]] = True
            waiting, order = waiting[~tried], order[~tried]
            nth += 1
        return rows[helped]

    def _try(self, rows: Int64Array, fullest: Int64Array, other: Int64Array) -> npt.NDArray[np.bool_]:
        """Exchange between these two slots of each step where that brings both below the fullest: the pair
        nearest to half the gap, of equal ones the place given first, then the place returned first. Says
        where it did.
        """
        mine, theirs = self._held[rows, fullest], self._held[rows, other]
        steps = rows[:, np.newaxis]
        gap = self._totals[rows, fullest] - self._totals[rows, other]
        moved = self._work[steps, mine][:, :, np.newaxis] - self._work[steps, theirs][:, np.newaxis, :]
        takes = self._taken[steps, mine][:, :, np.newaxis] - self._taken[steps, theirs][:, np.newaxis, :]
        miss = abs(2 * moved - gap[:, np.newaxis, np.newaxis])
        is_possible = takes <= self._free[rows, other][:, np.newaxis, np.newaxis]
        miss[~(is_possible & (mine < self._nobody)[:, :, np.newaxis])] = _FULL
        pair = miss.reshape(len(rows), -1).argmin(axis=1)
        given, back = np.divmod(pair, miss.shape[2])
        at = np.arange(len(rows))
        helps: npt.NDArray[np.bool_] = miss[at, given, back] < gap
        at, rows, fullest, other, given, back = (
            one[helps] for one in (at, rows, fullest, other, given, back)
        )
        mine[at, given], theirs[at, back] = theirs[at, back], mine[at, given]
        for slot, places, sign in ((fullest, mine, -1), (other, theirs, 1)):
            self._held[rows, slot] = np.sort(places[at], axis=1)
            self._totals[rows, slot] += sign * moved[at, given, back]
            self._free[rows, slot] -= sign * takes[at, given, back]
        if (self._held[rows, other, -1] < self._nobody).any():  # always a place for nobody
            self._held = np.pad(self._held, ((0, 0), (0, 0), (0, 1)), constant_values=self._nobody)
        return helps


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
