"""Samples of a step dealt into slots of equal work. A place is that of a sample in descending order."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from crossfoot.arithmetic.epoch_order import Ids

BALANCED = (51, 50)
"""A deal is good enough when no slot holds more than 51/50 of the mean work."""
EMPTIEST = 64
"""Slots that the fullest one is tried with, the emptiest first: at 1,024 slots of 4 samples all of them would
take a second, for a fullest slot of 1.09 of the mean in place of 1.12.
"""


def enough_room(taken: Ids, slots: Ids | int) -> Ids:
    """What a slot must have so that `deal` surely finds room for all: int64[n_steps].

    taken: by each sample of each step, [n_steps, size], descending. slots: of each step, int64[n_steps, 1],
    or of all. A sample finds no room only where every slot lacks it; so the mean of what was dealt before,
    and the sample itself, are enough.
    """
    before = np.cumsum(taken, axis=1) - taken
    enough: Ids = (np.divmod(before, slots)[0] + taken).max(axis=1)
    return enough


def deal(work: Sequence[int], taken: Sequence[int], slots: int, most: int) -> list[list[int]] | None:
    """Places 0 .. len(work)-1 dealt into `slots` lists, each into the one with the least work that has room;
    None where one finds none. work: descending, all positive. taken: of a slot's `most`, by each place;
    descending.
    """
    dealt: list[list[int]] = [[] for _ in range(slots)]
    held = [0] * slots
    heap = [(0, slot) for slot in range(slots)]
    for place, (more, takes) in enumerate(zip(work, taken, strict=True)):
        passed = []
        while heap and held[heap[0][1]] + takes > most:
            passed.append(heapq.heappop(heap))
        if not heap:
            return None
        least, slot = heap[0]
        dealt[slot].append(place)
        held[slot] += takes
        if held[slot] + taken[-1] <= most:
            heapq.heapreplace(heap, (least + more, slot))
        else:  # nothing more fits in
            heapq.heappop(heap)
        for other in passed:
            heapq.heappush(heap, other)
    return dealt


def even_out(dealt: list[list[int]], work: Sequence[int], taken: Sequence[int], most: int) -> None:
    """Let places change between the fullest slot and one of the EMPTIEST, until all are within BALANCED or
    nothing helps; at most two exchanges a slot. work, taken, most: as in `deal`.
    """
    totals = [sum(work[place] for place in slot) for slot in dealt]
    bound, _rest = divmod(sum(totals) * BALANCED[0], len(dealt) * BALANCED[1])
    # what a slot has held before stays in the heaps, and is passed over
    fullest = [(-total, slot) for slot, total in enumerate(totals)]
    emptiest = [(total, slot) for slot, total in enumerate(totals)]
    heapq.heapify(fullest)
    heapq.heapify(emptiest)
    for _ in range(2 * len(dealt)):
        while -fullest[0][0] != totals[fullest[0][1]]:
            heapq.heappop(fullest)
        slot = fullest[0][1]
        if totals[slot] <= bound:
            return
        other = _exchange(dealt, totals, work, taken, most, slot, emptiest)
        if other is None:
            return
        for changed in (slot, other):
            heapq.heappush(fullest, (-totals[changed], changed))
            heapq.heappush(emptiest, (totals[changed], changed))


def _exchange(
    dealt: list[list[int]],
    totals: list[int],
    work: Sequence[int],
    taken: Sequence[int],
    most: int,
    fullest: int,
    emptiest: list[tuple[int, int]],
) -> int | None:
    """One exchange between the fullest slot and the emptiest that it helps, which is returned; None where it
    helps none. emptiest: a heap of (total, slot).

    Of all pairs the one whose difference is nearest to half the gap, so that both slots come out below the
    fullest; of equal ones the place given first, then the place returned first. A slot with room may also
    take a place and return none: that is the last choice.
    """
    for other in islice(_emptiest_first(emptiest, totals), EMPTIEST):
        gap = totals[fullest] - totals[other]
        returns = [(work[place], taken[place]) for place in dealt[other]] + [(0, 0)]
        free = most - sum(takes for _, takes in returns)
        best, pair = gap, (0, 0)  # twice the distance from the middle: at `gap` nothing is won
        for mine, given in enumerate(dealt[fullest]):
            wanted, takes = 2 * work[given] - gap, taken[given] - free
            for theirs, (back, frees) in enumerate(returns):
                miss = abs(wanted - 2 * back)
                if miss < best and frees >= takes:
                    best, pair = miss, (mine, theirs)
        if best < gap:
            _swap(dealt, totals, work, (fullest, other), pair)
            return other
    return None


def _emptiest_first(emptiest: list[tuple[int, int]], totals: list[int]) -> Iterator[int]:
    """Slots in ascending order of their work; the heap is copied only if the first one is not enough."""
    while emptiest[0][0] != totals[emptiest[0][1]]:
        heapq.heappop(emptiest)
    yield emptiest[0][1]
    waiting = emptiest.copy()
    while waiting:
        total, slot = heapq.heappop(waiting)
        if total == totals[slot]:
            yield slot


def _swap(
    dealt: list[list[int]],
    totals: list[int],
    work: Sequence[int],
    slots: tuple[int, int],
    pair: tuple[int, int],
) -> None:
    """Exchange two places of two slots; a second one behind the end: the first just moves there."""
    (fullest, other), (mine, theirs) = slots, pair
    given = dealt[fullest].pop(mine)
    moved = work[given]
    if theirs < len(dealt[other]):
        back = dealt[other].pop(theirs)
        insort(dealt[fullest], back)
        moved -= work[back]
    insort(dealt[other], given)
    totals[fullest] -= moved
    totals[other] += moved


def snake(slots: Sequence[list[int]], work: Sequence[int], ranks: int) -> list[list[int]]:
    """The slots in the order of forwards and ranks: descending, every other forward from the last rank on."""
    order = sorted(slots, key=lambda slot: -sum(work[place] for place in slot))
    forwards = [order[first : first + ranks] for first in range(0, len(order), ranks)]
    return [slot for number, row in enumerate(forwards) for slot in (reversed(row) if number % 2 else row)]
