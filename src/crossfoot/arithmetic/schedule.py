"""The exact schedule: which samples are step k, and in which (rank, forward) each of them sits.

    samples --(seed, epoch)--> order of the epoch --global_batch_size, last_step--> steps : sets of sample ids
    step --dp_degree x grad_accum_steps--> slots : (rank, forward) -> sample ids

The steps know nothing of ranks, nodes or accumulation; step k is a function of k alone, so nothing is skipped
on resume. A sample id is its row in the data index, from 0. All arrays are int64 unless said otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.arithmetic.epoch_order import EpochOrder, Ids
from crossfoot.arithmetic.impossible import Impossible, alternatives

LastStep = Literal["short", "drop", "carry"]
Piece = tuple[int, int, int]

BLOCK_SAMPLES = 1 << 20
"""Samples in one block of steps, about: bounds the memory of everything that walks the whole schedule."""


class ScheduleImpossible(Impossible):
    """No schedule follows from these samples, this batch, last-step policy and length of the run."""


@dataclass(frozen=True)
class Schedule:
    """Every optimizer step of a run, as sets of samples. Equal on all ranks and all topologies.

    num_samples: samples of the data. global_batch_size: samples per optimizer step over all ranks. last_step:
    what becomes of the rest of an epoch: a smaller step (short), not trained in that epoch (drop), or the
    beginning of the next epoch's first step (carry). Exactly one of epochs and max_steps is given; with
    max_steps and carry, every step is full. Raises ScheduleImpossible, and
    ValueError for what a config cannot say.
    """

    num_samples: int
    global_batch_size: int
    seed: int
    last_step: LastStep
    epochs: int | None = None
    max_steps: int | None = None
    _orders: dict[int, EpochOrder] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _refuse_impossible(self)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which the first epoch is over; with carry, later epochs may need one step fewer."""
        whole, rest = divmod(self.num_samples, self.global_batch_size)
        return whole + (rest > 0 and self.last_step != "drop")

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run; the horizon of the rate."""
        if self.max_steps is not None:
            return self.max_steps
        epochs = self._given_epochs
        if self.last_step == "carry":
            return ceil_div(epochs * self.num_samples, self.global_batch_size)
        return epochs * self.steps_per_epoch

    @property
    def last_step_samples(self) -> int:
        """Samples of the run's very last step."""
        return self.step_size(self.total_steps - 1)

    @property
    def scheduled_samples(self) -> int:
        """Sum of the sizes of all steps."""
        if self.last_step == "carry":
            every = self.total_steps * self.global_batch_size
            return every if self.epochs is None else min(every, self.epochs * self.num_samples)
        full_epochs, more_steps = divmod(self.total_steps, self.steps_per_epoch)
        return full_epochs * self._samples_per_epoch + more_steps * self.global_batch_size

    @property
    def distinct_samples(self) -> int:
        """Different samples over the whole run. With drop and several epochs this looks at their orders."""
        if self.last_step != "drop":
            return min(self.scheduled_samples, self.num_samples)
        full_epochs, more_steps = divmod(self.total_steps, self.steps_per_epoch)
        if full_epochs == 0 or self._samples_per_epoch == self.num_samples:
            return min(self.scheduled_samples, self.num_samples)
        ends = [self._samples_per_epoch] * full_epochs
        if more_steps:
            ends.append(more_steps * self.global_batch_size)
        never = self._order(0).at(ends[0], self.num_samples)
        for epoch, end in enumerate(ends[1:], start=1):
            if never.size == 0:
                break
            tail = self._order(epoch).at(end, self.num_samples)
            never = np.intersect1d(never, tail, assume_unique=True)
        return self.num_samples - int(never.size)

    @property
    def dropped_samples(self) -> int:
        """Samples that finished epochs left out because of drop, summed over these epochs."""
        if self.last_step != "drop":
            return 0
        finished, _unfinished_steps = divmod(self.total_steps, self.steps_per_epoch)
        return finished * (self.num_samples - self._samples_per_epoch)

    def step_size(self, k: int) -> int:
        """Samples of step k, over all ranks; k counts from 0."""
        return sum(hi - lo for _epoch, lo, hi in self.pieces(k))

    def pieces(self, k: int) -> tuple[Piece, ...]:
        """Step k as (epoch, lo, hi): positions lo .. hi-1 of that epoch's order. Several only with carry."""
        if not 0 <= k < self.total_steps:
            raise IndexError(f"step index {k} is not one of the run's {self.total_steps} steps")
        if self.last_step != "carry":
            epoch, step = divmod(k, self.steps_per_epoch)
            lo = step * self.global_batch_size
            return ((epoch, lo, min(lo + self.global_batch_size, self.num_samples)),)
        pieces: list[Piece] = []
        epoch, lo = divmod(k * self.global_batch_size, self.num_samples)
        missing = self.global_batch_size
        while missing and epoch != self.epochs:
            hi = min(lo + missing, self.num_samples)
            pieces.append((epoch, lo, hi))
            missing -= hi - lo
            epoch, lo = epoch + 1, 0
        return tuple(pieces)

    def samples(self, k: int) -> Ids:
        """Ids of step k in the epoch's order, int64[step_size(k)]. Keeps a window of at most two epochs."""
        return np.concatenate([self._order(epoch).at(lo, hi) for epoch, lo, hi in self.pieces(k)])

    def epochs_of(self, k: int) -> Ids:
        """The epoch of each sample of step k, int64[step_size(k)]. Seen in two epochs is not seen twice."""
        pieces = self.pieces(k)
        return np.repeat(
            np.array([epoch for epoch, _lo, _hi in pieces], dtype=np.int64),
            [hi - lo for _epoch, lo, hi in pieces],
        )

    def blocks(self) -> Iterator[tuple[int, Ids]]:
        """The whole run as (first step, ids int64[n_steps, size]), steps of one size; row j is step first+j.

        About BLOCK_SAMPLES ids at a time.
        """
        k, total_steps = 0, self.total_steps
        while k < total_steps:
            (epoch, lo, hi), *more = self.pieces(k)
            size = hi - lo
            if more:
                yield k, self.samples(k)[np.newaxis, :]
                k += 1
                continue
            # The steps of this size that are left in the epoch; what does not fill one is the epoch's rest.
            n_steps, _rest = divmod(self.num_samples - lo, size)
            bound, _rest = divmod(BLOCK_SAMPLES, size)
            n_steps = min(n_steps, total_steps - k, max(1, bound))
            yield k, self._order(epoch).at(lo, lo + n_steps * size).reshape(n_steps, size)
            k += n_steps

    @property
    def _given_epochs(self) -> int:
        if self.epochs is None:
            raise ValueError("a schedule by max_steps has no number of epochs")
        return self.epochs

    @property
    def _samples_per_epoch(self) -> int:
        """Samples that a finished epoch trains (short and drop)."""
        return min(self.steps_per_epoch * self.global_batch_size, self.num_samples)

    def _order(self, epoch: int) -> EpochOrder:
        """The order of an epoch; two epochs are kept because a carried step looks at two."""
        order = self._orders.get(epoch)
        if order is None:
            while len(self._orders) > 1:
                self._orders.pop(next(iter(self._orders)))
            order = self._orders[epoch] = EpochOrder(self.num_samples, self.seed, epoch)
        return order


def _refuse_impossible(schedule: Schedule) -> None:
    """Raise ScheduleImpossible where the data leave no step, ValueError for what a config cannot say."""
    samples, batch = schedule.num_samples, schedule.global_batch_size
    if samples < 1:
        raise ScheduleImpossible(
            f"the data has {samples} samples to train on, and a step needs at least 1",
            ("data.train",),
            helps=("add files to data.train that hold at least 1 sample",),
        )
    lengths = [length for length in (schedule.epochs, schedule.max_steps) if length is not None]
    if len(lengths) != 1 or min(batch, *lengths) < 1 or schedule.seed < 0:
        raise ValueError(f"no schedule follows from {schedule}")
    if schedule.last_step == "drop" and samples < batch:
        raise ScheduleImpossible(
            f"last_step drop leaves no step: {samples} samples, and a step takes {batch}",
            ("data.last_step", "batch.global_batch_size"),
            helps=alternatives(
                (
                    f"set data.last_step to short: 1 step of {samples} samples per epoch",
                    "set data.last_step to carry: the epochs follow one another without a gap",
                    f"lower the batch: {samples} samples a step are an epoch",
                )
            ),
        )


def batches_sha256(schedule: Schedule) -> str:
    """Digest of the step sets: every step's size and its ids in ascending order, little-endian int64. Hex.

    Equal on all topologies, and for schedules that differ only in the order within a step.
    """
    digest = hashlib.sha256(f"crossfoot batches 1 {schedule.total_steps}\n".encode())
    for _first, ids in schedule.blocks():
        digest.update(with_size(np.sort(ids, axis=1)))
    return digest.hexdigest()


def with_size(ids: Ids) -> bytes:
    """ids[n_steps, size] with each row's size before it, as little-endian int64."""
    rows = np.empty((ids.shape[0], ids.shape[1] + 1), dtype="<i8")
    rows[:, 0] = ids.shape[1]
    rows[:, 1:] = ids
    return rows.tobytes()
