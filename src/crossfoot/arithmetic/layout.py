"""Where the samples of a step are computed: slots (rank, forward) -> sample ids.

Two ways. Padded: one row a sample, so a slot takes as long as its longest sample. Packed: the samples of a
slot stand one behind the other in one row, so a slot takes as long as their sum, and the slots of a step are
made equally long. What is trained is the same. A packed slot holds so many samples at most, or, with
micro_batch_tokens, so many tokens.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.batch import ACCUM, MICRO, TARGET, TOKENS, BatchPlan, ceil_div
from crossfoot.arithmetic.dealing import deal, enough_room, even_out, snake
from crossfoot.arithmetic.epoch_order import Ids
from crossfoot.arithmetic.impossible import Impossible, alternatives
from crossfoot.arithmetic.schedule import Schedule, batches_sha256
from crossfoot.phrases import counted, step_name

Lengths = NDArray[np.integer]

LLAMA_2_7B_WORK_PER_TOKEN = 50_408
"""For a model whose shape is not known: 6,607 million weights in 32 layers of width 4,096."""
ROW_TOKENS = 16
"""Tokens of a packed row are a multiple of it: kernels meet few shapes."""


def slot_shape(lengths: Sequence[int], *, packed: bool) -> tuple[int, int]:
    """(rows, columns) of the tensor of a slot that holds samples of these lengths. An empty slot has one row,
    since its rank computes too.
    """
    if packed:
        return 1, max(1, ceil_div(sum(lengths), ROW_TOKENS)) * ROW_TOKENS
    return max(1, len(lengths)), max([2, *lengths])


class StepTooFull(Impossible):
    """A step that the forwards of a run do not hold."""


def room(lengths: Ids, micro_batch_size: int, micro_batch_tokens: int | None) -> tuple[Ids, int]:
    """(what each sample takes of a slot, what a slot has): places for samples, or tokens."""
    if micro_batch_tokens is None:
        return np.ones_like(lengths), micro_batch_size
    return lengths, micro_batch_tokens


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
        runs = self.runs(ids, lengths_of_ids)
        return [runs[rank :: self.dp_degree] for rank in range(self.dp_degree)]

    @abstractmethod
    def runs(self, ids: Ids, lengths_of_ids: Lengths) -> list[Ids]:
        """The same in one list: run f x dp_degree + r is forward f of rank r."""

    @abstractmethod
    def forwards(self, lengths: Lengths) -> Ids:
        """Forwards of each rank in steps of samples of these lengths, [n_steps, size]: int64[n_steps]. May be
        above grad_accum_steps.
        """

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
        if ids.size > self.slots_per_step * self.micro_batch_size:
            raise _too_full(ids.size, self.slots_per_step, f"{self.micro_batch_size}")
        placed = _longest_first(ids[np.newaxis, :], lengths_of_ids[np.newaxis, :])[0]
        bounds = np.concatenate(([0], np.cumsum(self.run_sizes(ids.size)))).tolist()
        return [placed[lo:hi] for lo, hi in pairwise(bounds)]

    def forwards(self, lengths: Lengths) -> Ids:
        """See Layout: always all of them."""
        return np.full(len(lengths), self.grad_accum_steps, dtype=np.int64)

    def sha256(self, schedule: Schedule, lengths: Lengths) -> str:
        """Every step's ids in run order, and where a step of each size is cut."""
        head = f"crossfoot layout padded 1 {self.dp_degree} {self.grad_accum_steps} {schedule.total_steps}\n"
        digest = hashlib.sha256(head.encode())
        sizes: set[int] = set()
        for block in schedule.blocks():
            sizes.update(np.unique(block.sizes).tolist())
            digest.update(block.framed(lambda ids: _longest_first(ids, lengths[ids])))
        for size in sorted(sizes):
            digest.update(np.concatenate(([size], self.run_sizes(size))).astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class PackedLayout(Layout):
    """One row a slot: slots of equal work, work_per_token x length + length^2 for each sample.

    Samples are dealt, most work first (ties by id), into the slot with the least work that has room; a step
    uses the fewest forwards in which all find room so. Then samples change places between the fullest slot
    and the emptiest until the fullest is within BALANCED of the mean. The slots in descending order are the
    forwards: the first `dealt_ranks` are forward 0, from rank 0 on, the next ones forward 1, from the last
    rank on, and so forth, so that a rank's slots add up evenly too.

    work_per_token: what a token costs where attention costs length^2 (`written.model_limits`). dealt_ranks:
    ranks that the slots are dealt to: dp_degree, and on one process that computes the slots of
    several ranks, these. micro_batch_tokens: tokens of a slot, at most; then its samples are not limited.
    """

    work_per_token: int
    dealt_ranks: int
    micro_batch_tokens: int | None = None

    def runs(self, ids: Ids, lengths_of_ids: Lengths) -> list[Ids]:
        """See Layout."""
        order = np.lexsort((ids, -lengths_of_ids.astype(np.int64)))
        placed = ids[order]
        lengths = lengths_of_ids[order].astype(np.int64)
        work = self._work(lengths)
        slots = self._placed(lengths, work)
        if len(slots) > self.slots_per_step:
            tokens = self.micro_batch_tokens
            limit = f"{self.micro_batch_size}" if tokens is None else f"{tokens} tokens"
            raise _too_full(ids.size, self.slots_per_step, limit)
        taken, most = self._room(lengths)
        even_out(slots, work, taken.tolist(), most)
        return [placed[slot] for slot in snake(slots, work, self.dealt_ranks)]

    def forwards(self, lengths: Lengths) -> Ids:
        """See Layout: as few as hold the samples."""
        taken, most = self._room(lengths.astype(np.int64))
        slots = self.dealt_ranks * self._least_forwards(taken.sum(axis=1))
        if self.micro_batch_tokens is not None:
            taken = _descending(taken)
            for row in np.flatnonzero(enough_room(taken, slots[:, np.newaxis]) > most):
                slots[row] = len(self._placed(taken[row], self._work(taken[row])))
        return -np.divmod(-slots, self.dp_degree)[0]

    def sha256(self, schedule: Schedule, lengths: Lengths) -> str:
        """The rule, and all that the slots follow from: the step sets and the lengths."""
        head = (
            f"crossfoot layout packed 1 {self.dp_degree} {self.grad_accum_steps} {self.micro_batch_size} "
            f"{self.work_per_token} {self.dealt_ranks} {batches_sha256(schedule)}\n"
        )
        if self.micro_batch_tokens is not None:
            head = f"tokens {self.micro_batch_tokens} {head}"
        digest = hashlib.sha256(head.encode())
        digest.update(lengths.astype("<i4").tobytes())
        return digest.hexdigest()

    def _room(self, lengths: Ids) -> tuple[Ids, int]:
        return room(lengths, self.micro_batch_size, self.micro_batch_tokens)

    def _work(self, lengths: Ids) -> list[int]:
        work: list[int] = (self.work_per_token * lengths + lengths * lengths).tolist()
        return work

    def _least_forwards(self, taken: Ids) -> Ids:
        """Forwards that have room for what the steps take together, however it is dealt."""
        _, most = self._room(taken)
        return np.maximum(1, -np.divmod(-taken, self.dealt_ranks * most)[0])

    def _placed(self, descending: Ids, work: Sequence[int]) -> list[list[int]]:
        """Places 0 .. n-1 of one step, dealt into the slots of as few forwards as hold them."""
        taken, most = self._room(descending)
        if taken[0] > most:
            raise ValueError(f"a sample of {taken[0]} tokens does not fit in a slot of {most}")
        forwards = int(self._least_forwards(taken.sum()))
        while (slots := deal(work, taken.tolist(), self.dealt_ranks * forwards, most)) is None:
            forwards += 1
        return slots


def refuse_full_steps(schedule: Schedule, batch: BatchPlan, layout: Layout, lengths: Lengths) -> None:
    """Raise StepTooFull when a step of the run needs more forwards than the batch has at most. lengths:
    tokens of every sample of the data, [num_samples].
    """
    tokens, most, ranks = batch.micro_batch_tokens, batch.grad_accum_steps, batch.topology.dp_degree
    if tokens is None:
        _refuse_large_step(schedule, batch)
        return
    if batch.solved != "micro_batch_size" and schedule.target_trained_tokens is None:
        return  # the most was solved so that all fit
    forwards = np.concatenate(
        [block.each(lambda ids: layout.forwards(lengths[ids])) for block in schedule.blocks()]
    )
    full = np.flatnonzero(forwards > most)
    if not full.size:
        return
    slots = ranks * most
    enough = max(
        int(enough_room(_descending(lengths[ids]), slots).max())
        for block in schedule.blocks()
        for _, ids in block.rows()
    )
    first, largest = int(full[0]), int(forwards.max())
    own = lengths[schedule.samples(first)]
    others = (
        f"{full.size:,} of {schedule.total_steps:,} steps need more than {most}; the fullest needs {largest}"
    )
    raise StepTooFull(
        f"{step_name(first)} needs {forwards[first]} forwards of {tokens:,} tokens, and grad_accum_steps "
        f"allows {most}",
        (ACCUM, TOKENS),
        notes=(
            f"its {counted(own.size, 'sample')} have {int(own.sum(dtype=np.int64)):,} tokens; "
            f"{most} x {ranks} x {tokens:,} = {slots * tokens:,}",
            *((others,) if full.size > 1 else ()),
        ),
        helps=alternatives((f"set {ACCUM} to {largest}", f"set {TOKENS} to {enough}")),
    )


def _refuse_large_step(schedule: Schedule, batch: BatchPlan) -> None:
    """Raise StepTooFull when a step by trained tokens has more samples than the slots hold."""
    worst, samples = schedule.largest_step
    if schedule.target_trained_tokens is None or samples <= batch.capacity_samples:
        return
    ranks = batch.topology.dp_degree
    micro, accum = (
        ceil_div(samples, ranks * other) for other in (batch.grad_accum_steps, batch.micro_batch_size)
    )
    raise StepTooFull(
        f"{step_name(worst)} takes {samples:,} samples to reach {schedule.target_trained_tokens:,} trained "
        f"tokens, and a step holds {batch.capacity_samples:,}",
        (TARGET, ACCUM, MICRO),
        notes=(
            f"{batch.micro_batch_size} samples x {batch.grad_accum_steps} forwards x "
            f"{counted(ranks, 'rank')} = {batch.capacity_samples:,}; no step takes more than {samples:,}",
        ),
        helps=alternatives((f"set {ACCUM} to {accum}", f"set {MICRO} to {micro}", f"lower {TARGET}")),
    )


def _too_full(samples: int, slots: int, limit: str) -> ValueError:
    return ValueError(f"{samples} samples do not fit in {slots} slots of {limit}")


def _descending(lengths: Lengths) -> Ids:
    """Each row of lengths[n_steps, size], longest first."""
    ordered: Ids = -np.sort(-lengths.astype(np.int64), axis=1)
    return ordered


def _longest_first(ids: Ids, lengths: Lengths) -> Ids:
    """Each row of ids[n_steps, size] stably sorted by lengths[n_steps, size], longest first."""
    # Length and column in one integer: numpy sorts plain integers much faster than it argsorts stably.
    columns = np.arange(ids.shape[1], dtype=np.int64)
    keys = (-lengths.astype(np.int64) << 32) | columns
    keys.sort(axis=1)
    return np.take_along_axis(ids, keys & 0xFFFFFFFF, axis=1)
