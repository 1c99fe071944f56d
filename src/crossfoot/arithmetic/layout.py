"""Where the samples of a step are computed: slots (rank, forward) -> sample ids.

Two ways. Padded: one row a sample, so a slot takes as long as its longest sample. Packed: the samples of a
slot stand one behind the other in one row, so a slot takes as long as their sum, and the slots of a step are
made equally long. What is trained is the same.
"""

from __future__ import annotations

import hashlib
import heapq
from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.arithmetic.epoch_order import Ids
from crossfoot.arithmetic.schedule import Schedule, batches_sha256, with_size

Lengths = NDArray[np.integer]

LLAMA_2_7B_WORK_PER_TOKEN = 50_408
"""For a model whose shape is not known: 6,607 million weights in 32 layers of width 4,096."""
BALANCED = (51, 50)
"""A deal is good enough when no slot holds more than 51/50 of the mean work."""
ROW_TOKENS = 16
"""Tokens of a packed row are a multiple of it: kernels meet few shapes."""


def slot_shape(lengths: Sequence[int], *, packed: bool) -> tuple[int, int]:
    """(rows, columns) of the tensor of a slot that holds samples of these lengths. An empty slot has one row,
    since its rank computes too.
    """
    if packed:
        return 1, max(1, ceil_div(sum(lengths), ROW_TOKENS)) * ROW_TOKENS
    return max(1, len(lengths)), max([2, *lengths])


@dataclass(frozen=True)
class Layout(ABC):
    """Slots of at most micro_batch_size samples, on dp_degree ranks in at most grad_accum_steps forwards."""

    dp_degree: int
    grad_accum_steps: int
    micro_batch_size: int

    @property
    def slots_per_step(self) -> int:
        """Pairs of (rank, forward) in one optimizer step, over all ranks; at most."""
        return self.dp_degree * self.grad_accum_steps

    def folded(self) -> Layout:
        """The same slots, all on one process."""
        return replace(self, dp_degree=1, grad_accum_steps=self.slots_per_step)

    def slots(self, ids: Ids, lengths_of_ids: Lengths) -> list[list[Ids]]:
        """The slots of one step: `slots[rank][forward]` is an int64 array of ids, perhaps empty; each rank
        has as many forwards. Above the capacity: ValueError.

        ids: the step's samples in schedule order; lengths_of_ids: tokens of each of them.
        """
        if ids.size > self.slots_per_step * self.micro_batch_size:
            raise ValueError(
                f"{ids.size} samples do not fit in {self.slots_per_step} slots of {self.micro_batch_size}"
            )
        runs = self.runs(ids, lengths_of_ids)
        return [runs[rank :: self.dp_degree] for rank in range(self.dp_degree)]

    @abstractmethod
    def runs(self, ids: Ids, lengths_of_ids: Lengths) -> list[Ids]:
        """The same in one list: run f x dp_degree + r is forward f of rank r."""

    @abstractmethod
    def forwards(self, size: int) -> int:
        """Forwards of each rank in a step of `size` samples."""

    @abstractmethod
    def sha256(self, schedule: Schedule, lengths: Lengths) -> str:
        """Digest of all slots of a run, hex. lengths: tokens of every sample of the data, [num_samples]."""


@dataclass(frozen=True)
class PaddedLayout(Layout):
    """One row a sample: samples of similar length share a slot.

    The ids of a step are sorted by length, longest first (equal lengths keep their order), cut into dp_degree
    x grad_accum_steps contiguous runs as even as possible (the first ones one longer): ranks that wait for
    each other at a forward hold similar lengths. A slot may be empty.
    """

    def run_sizes(self, size: int) -> Ids:
        """Samples of each run of a step of `size`, int64[slots_per_step]."""
        each, rest = divmod(size, self.slots_per_step)
        sizes = np.full(self.slots_per_step, each, dtype=np.int64)
        sizes[:rest] += 1
        return sizes

    def runs(self, ids: Ids, lengths_of_ids: Lengths) -> list[Ids]:
        """See Layout."""
        placed = _longest_first(ids[np.newaxis, :], lengths_of_ids[np.newaxis, :])[0]
        bounds = np.concatenate(([0], np.cumsum(self.run_sizes(ids.size)))).tolist()
        return [placed[lo:hi] for lo, hi in pairwise(bounds)]

    def forwards(self, size: int) -> int:
        """See Layout: always all of them."""
        return self.grad_accum_steps

    def sha256(self, schedule: Schedule, lengths: Lengths) -> str:
        """Every step's ids in run order, and where a step of each size is cut."""
        head = f"crossfoot layout padded 1 {self.dp_degree} {self.grad_accum_steps} {schedule.total_steps}\n"
        digest = hashlib.sha256(head.encode())
        sizes: set[int] = set()
        for _first, ids in schedule.blocks():
            sizes.add(ids.shape[1])
            digest.update(with_size(_longest_first(ids, lengths[ids])))
        for size in sorted(sizes):
            digest.update(np.concatenate(([size], self.run_sizes(size))).astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class PackedLayout(Layout):
    """One row a slot: slots of equal work, work_per_token x length + length^2 for each sample.

    A step uses the fewest forwards that hold its samples. They are dealt, most work first (ties by id), into
    the slot with the least work that has room; then samples change places between the fullest slot and the
    emptiest until the fullest is within BALANCED of the mean. The slots in descending order are the forwards:
    the first `dealt_ranks` are forward 0, from rank 0 on, the next ones forward 1, from the last rank on, and
    so forth, so that a rank's slots add up evenly too.

    work_per_token: what a token costs where attention costs length^2 (`written.model_limits`). dealt_ranks:
    ranks that the slots are dealt to: dp_degree, and on one process that computes the slots of
    several ranks, these.
    """

    work_per_token: int
    dealt_ranks: int

    def runs(self, ids: Ids, lengths_of_ids: Lengths) -> list[Ids]:
        """See Layout."""
        order = np.lexsort((ids, -lengths_of_ids.astype(np.int64)))
        placed = ids[order]
        lengths = lengths_of_ids[order].astype(np.int64)
        work = (self.work_per_token * lengths + lengths * lengths).tolist()
        slots = deal(work, self.dealt_ranks * self._dealt_forwards(ids.size), self.micro_batch_size)
        return [placed[slot] for slot in snake(slots, work, self.dealt_ranks)]

    def forwards(self, size: int) -> int:
        """See Layout: as few as hold the samples."""
        slots = self.dealt_ranks * self._dealt_forwards(size)
        return ceil_div(slots, self.dp_degree)

    def sha256(self, schedule: Schedule, lengths: Lengths) -> str:
        """The rule, and all that the slots follow from: the step sets and the lengths."""
        head = (
            f"crossfoot layout packed 1 {self.dp_degree} {self.grad_accum_steps} {self.micro_batch_size} "
            f"{self.work_per_token} {self.dealt_ranks} {batches_sha256(schedule)}\n"
        )
        digest = hashlib.sha256(head.encode())
        digest.update(lengths.astype("<i4").tobytes())
        return digest.hexdigest()

    def _dealt_forwards(self, size: int) -> int:
        return max(1, ceil_div(size, self.dealt_ranks * self.micro_batch_size))


def deal(work: Sequence[int], slots: int, most: int) -> list[list[int]]:
    """Places 0 .. len(work)-1 dealt into `slots` lists of at most `most`. work: descending, all positive."""
    dealt: list[list[int]] = [[] for _ in range(slots)]
    heap = [(0, slot) for slot in range(slots)]
    for place, more in enumerate(work):
        least, slot = heap[0]
        dealt[slot].append(place)
        if len(dealt[slot]) < most:
            heapq.heapreplace(heap, (least + more, slot))
        else:
            heapq.heappop(heap)
    _even_out(dealt, work, most)
    return dealt


def _even_out(dealt: list[list[int]], work: Sequence[int], most: int) -> None:
    """Let places change between the fullest slot and an emptier one, until all are within BALANCED or nothing
    helps; at most two exchanges a slot.
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
        other = _exchange(dealt, totals, work, most, slot, emptiest)
        if other is None:
            return
        for changed in (slot, other):
            heapq.heappush(fullest, (-totals[changed], changed))
            heapq.heappush(emptiest, (totals[changed], changed))


def _exchange(
    dealt: list[list[int]],
    totals: list[int],
    work: Sequence[int],
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
    for other in _emptiest_first(emptiest, totals):
        gap = totals[fullest] - totals[other]
        returns = [work[place] for place in dealt[other]]
        if len(returns) < most:
            returns.append(0)
        best, pair = gap, (0, 0)  # twice the distance from the middle: at `gap` nothing is won
        for mine, given in enumerate(dealt[fullest]):
            wanted = 2 * work[given] - gap
            for theirs, back in enumerate(returns):
                miss = abs(wanted - 2 * back)
                if miss < best:
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


def _longest_first(ids: Ids, lengths: Lengths) -> Ids:
    """Each row of ids[n_steps, size] stably sorted by lengths[n_steps, size], longest first."""
    # Length and column in one integer: numpy sorts plain integers much faster than it argsorts stably.
    columns = np.arange(ids.shape[1], dtype=np.int64)
    keys = (-lengths.astype(np.int64) << 32) | columns
    keys.sort(axis=1)
    return np.take_along_axis(ids, keys & 0xFFFFFFFF, axis=1)
