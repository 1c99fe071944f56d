"""The exact schedule: which samples are step k, and in which (rank, forward) each of them sits.

    samples --(seed, epoch)--> order of the epoch --global_batch_size, last_step--> steps : sets of sample ids
    step --dp_degree x grad_accum_steps--> slots : (rank, forward) -> sample ids

The steps know nothing of ranks, nodes or accumulation; step k is a function of k alone, so nothing is skipped
on resume. A sample id is its row in the data index, from 0. All arrays are int64 unless said otherwise. With
sources that have weights an epoch is what `mixture` takes of them; else it is every sample once.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.batch import Thresholds
from crossfoot.arithmetic.cutting import (
    Cuts,
    EvenCuts,
    LastStep,
    Length,
    NoStep,
    TableCuts,
    by_samples,
    by_tokens,
)
from crossfoot.arithmetic.epoch_order import EpochOrder, Ids
from crossfoot.arithmetic.impossible import Impossible, alternatives
from crossfoot.arithmetic.mixture import Mixture

Piece = tuple[int, int, int]

BLOCK_SAMPLES = 1 << 20
"""Samples in one block of steps, about: bounds the memory of everything that walks the whole schedule."""


class ScheduleImpossible(Impossible):
    """No schedule follows from these samples, this batch, last-step policy and length of the run."""


@dataclass(frozen=True)
class Block:
    """Some steps in a row. first: the first one. sizes: samples of each, int64[n_steps]. ids: of all of them,
    step after step, each in the epoch's order.
    """

    first: int
    sizes: Ids
    ids: Ids

    def rows(self) -> Iterator[tuple[Ids, Ids]]:
        """(which of these steps, their ids int64[n, size]) for each size that there is."""
        heads = np.cumsum(self.sizes) - self.sizes
        for size in np.unique(self.sizes).tolist():
            which = np.flatnonzero(self.sizes == size)
            if len(which) == len(self.sizes):
                yield which, self.ids.reshape(-1, size)
            else:
                yield which, self.ids[heads[which, np.newaxis] + np.arange(size)]

    def each(self, number: Callable[[Ids], Ids]) -> Ids:
        """A number of every step, int64[n_steps]: what `number` makes of the ids of steps of one size."""
        numbers = np.empty(len(self.sizes), dtype=np.int64)
        for which, ids in self.rows():
            numbers[which] = number(ids)
        return numbers

    def framed(self, arranged: Callable[[Ids], Ids]) -> bytes:
        """For each step its size and its ids as `arranged` puts each row of them, as little-endian int64."""
        heads = np.cumsum(self.sizes + 1) - self.sizes - 1
        words = np.empty(len(self.ids) + len(heads), dtype="<i8")
        words[heads] = self.sizes
        for which, ids in self.rows():
            words[heads[which, np.newaxis] + 1 + np.arange(ids.shape[1])] = arranged(ids)
        return words.tobytes()


@dataclass(frozen=True)
class Schedule:
    """Every optimizer step of a run, as sets of samples. Equal on all ranks and all topologies.

    num_samples: samples of an epoch. global_batch_size: samples per optimizer step over all ranks, the most
    where it changes. last_step: what becomes of the rest of an epoch: a smaller step (short), not trained in
    that epoch (drop), or the beginning of the next epoch's first step (carry). Exactly one of epochs and
    max_steps is given; with max_steps and carry, every step is full. Raises ScheduleImpossible, and
    ValueError for what a config cannot say.

    batch_from_samples: where the batch changes, the batch that holds from so many trained samples on. Or
    target_trained_tokens: a step has as few samples as have so many trained tokens; trained_tokens: of every
    sample of the data. mixture: what an epoch takes of each source; None: every sample once.
    """

    num_samples: int
    global_batch_size: int
    seed: int
    last_step: LastStep
    epochs: int | None = None
    max_steps: int | None = None
    batch_from_samples: Thresholds = ()
    target_trained_tokens: int | None = None
    trained_tokens: NDArray[np.integer] | None = field(default=None, repr=False, compare=False)
    mixture: Mixture | None = None
    _orders: dict[int, EpochOrder] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _refuse_impossible(self)
        try:
            _ = self._cuts
        except NoStep as error:
            raise _no_step(self, error.wanted) from error

    @cached_property
    def _cuts(self) -> Cuts:
        length = Length(self.num_samples, self.last_step, self.epochs, self.max_steps)
        if self.batch_from_samples:
            return TableCuts(length, by_samples(length, self.batch_from_samples))
        tokens, target = self.trained_tokens, self.target_trained_tokens
        if tokens is not None and target is not None:

            def tokens_at(lo: int, hi: int) -> Ids:
                return tokens[self._at(lo, hi)].astype(np.int64)

            return TableCuts(length, by_tokens(length, target, tokens_at))
        return EvenCuts(length, self.global_batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which the first epoch is over; with carry, later epochs may need one step fewer. Where
        the steps are of many sizes, of the first epoch.
        """
        return self._cuts.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run; the horizon of the rate."""
        return self._cuts.total_steps

    @property
    def last_step_samples(self) -> int:
        """Samples of the run's very last step."""
        return self.step_size(self.total_steps - 1)

    @property
    def scheduled_samples(self) -> int:
        """Sum of the sizes of all steps."""
        return self._cuts.scheduled_samples

    @property
    def distinct_samples(self) -> int:
        """Different samples over the whole run. With drop and several epochs this looks at their orders; with
        a mixture at all steps, until every sample was in one.
        """
        if self.mixture is not None:
            return self._distinct_of(self.mixture)
        last_epoch, _place = divmod(self._cuts.span(self.total_steps - 1)[0], self.num_samples)
        if self.last_step != "drop" or not last_epoch:
            return min(self.scheduled_samples, self.num_samples)
        never = self._order(0).at(self._cuts.trained_of(0), self.num_samples)
        for epoch in range(1, last_epoch + 1):
            if never.size == 0:
                break
            tail = self._order(epoch).at(self._cuts.trained_of(epoch), self.num_samples)
            never = np.intersect1d(never, tail, assume_unique=True)
        return self.num_samples - int(never.size)

    def _distinct_of(self, mixture: Mixture) -> int:
        seen = np.zeros(max(share.first + share.samples for share in mixture.shares), dtype=np.bool_)
        most, found = sum(share.samples for share in mixture.shares), 0
        for block in self.blocks():
            seen[block.ids] = True
            found = int(np.count_nonzero(seen))
            if found == most:
                break
        return found

    @property
    def first_epoch_tokens(self) -> int:
        """Trained tokens of the first epoch; 0 where they are not known."""
        tokens = self.trained_tokens
        return 0 if tokens is None else int(tokens[self._at(0, self.num_samples)].sum(dtype=np.int64))

    @property
    def dropped_samples(self) -> int:
        """Samples that finished epochs left out because of drop, summed over these epochs."""
        return self._cuts.end - self.scheduled_samples if self.last_step == "drop" else 0

    @property
    def is_uneven(self) -> bool:
        """Whether steps have many sizes, beside the rest of an epoch."""
        return isinstance(self._cuts, TableCuts)

    @cached_property
    def batches(self) -> Thresholds:
        """(first step, batch that holds from it on), for the rate: the batch that was written, which the rest
        of an epoch does not fill.
        """
        if isinstance(self._cuts, TableCuts) and self.batch_from_samples:
            return self._cuts.in_force(self.batch_from_samples)
        return ((0, self.global_batch_size),)

    @cached_property
    def largest_step(self) -> tuple[int, int]:
        """(the first of the largest steps, its samples)."""
        return self._cuts.largest() if isinstance(self._cuts, TableCuts) else (0, self.step_size(0))

    def step_size(self, k: int) -> int:
        """Samples of step k, over all ranks; k counts from 0."""
        lo, hi = self.span(k)
        return hi - lo

    def pieces(self, k: int) -> tuple[Piece, ...]:
        """Step k as (epoch, lo, hi): positions lo .. hi-1 of that epoch's order. Several only with carry."""
        return tuple(self._pieces(*self.span(k)))

    def samples(self, k: int) -> Ids:
        """Ids of step k in the epoch's order, int64[step_size(k)]. Keeps a window of at most two epochs."""
        return self._at(*self.span(k))

    def passes_of(self, k: int) -> Ids:
        """The epoch of each sample of step k, int64[step_size(k)]; with a mixture the pass over its source.
        Seen in two of them is not seen twice.
        """
        pieces = self.pieces(k)
        if self.mixture is not None:
            passes = [self.mixture.passes(epoch, self._order(epoch).at(*piece)) for epoch, *piece in pieces]
            return np.concatenate(passes)
        return np.repeat(
            np.array([epoch for epoch, _lo, _hi in pieces], dtype=np.int64),
            [hi - lo for _epoch, lo, hi in pieces],
        )

    def samples_before(self, k: int) -> int:
        """Samples of the steps before step k, up to total_steps; of full ones where all have one size."""
        if isinstance(self._cuts, TableCuts):
            return self._cuts.samples_before(k)
        return k * self.global_batch_size

    def step_after(self, samples: int) -> int:
        """The first step that begins when so many samples are trained; the number of steps when none does."""
        return bisect_left(range(self.total_steps), samples, key=self.samples_before)

    def blocks(self) -> Iterator[Block]:
        """The whole run, about BLOCK_SAMPLES ids at a time, none across the end of an epoch but for a step
        that is.
        """
        k, total_steps = 0, self.total_steps
        while k < total_steps:
            lo, _hi = self.span(k)
            epoch, _place = divmod(lo, self.num_samples)
            limit = min((epoch + 1) * self.num_samples, lo + BLOCK_SAMPLES)
            sizes = self._cuts.sizes(k, limit)
            yield Block(k, sizes, self._at(lo, lo + int(sizes.sum())))
            k += len(sizes)

    def span(self, k: int) -> tuple[int, int]:
        """Step k as positions lo .. hi-1 of the run, all epochs one behind the other. See `cutting`."""
        if not 0 <= k < self.total_steps:
            raise IndexError(f"step index {k} is not one of the run's {self.total_steps} steps")
        return self._cuts.span(k)

    def _pieces(self, lo: int, hi: int) -> Iterator[Piece]:
        while lo < hi:
            epoch, place = divmod(lo, self.num_samples)
            taken = min(hi - lo, self.num_samples - place)
            yield epoch, place, place + taken
            lo += taken

    def _at(self, lo: int, hi: int) -> Ids:
        """Ids at the positions lo .. hi-1 of the run, int64[hi - lo]."""
        found = []
        for epoch, *piece in self._pieces(lo, hi):
            numbers = self._order(epoch).at(*piece)
            found.append(numbers if self.mixture is None else self.mixture.samples(epoch, numbers))
        return np.concatenate(found)

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
    if schedule.last_step == "drop" and not schedule.batch_from_samples and samples < batch:
        raise _no_step(schedule, batch)


def _no_step(schedule: Schedule, wanted: int) -> ScheduleImpossible:
    """Under drop an epoch does not fill one step of `wanted` samples or trained tokens."""
    samples, target = schedule.num_samples, schedule.target_trained_tokens
    have, takes = f"{samples} samples", f"{wanted}"
    lower, key = f"lower the batch: {samples} samples a step are an epoch", "batch.global_batch_size"
    if schedule.trained_tokens is not None and target is not None:
        tokens = schedule.first_epoch_tokens
        have, takes, key = f"{tokens:,} trained tokens", f"{wanted:,}", "batch.target_trained_tokens"
        lower = f"lower the target: {tokens:,} trained tokens are an epoch"
    return ScheduleImpossible(
        f"last_step drop leaves no step: {have}, and a step takes {takes}",
        ("data.last_step", key),
        helps=alternatives(
            (
                f"set data.last_step to short: 1 step of {samples} samples per epoch",
                "set data.last_step to carry: the epochs follow one another without a gap",
                lower,
            )
        ),
    )


def batches_sha256(schedule: Schedule) -> str:
    """Digest of the step sets: every step's size and its ids in ascending order, little-endian int64. Hex.

    Equal on all topologies, and for schedules that differ only in the order within a step.
    """
    digest = hashlib.sha256(f"crossfoot batches 1 {schedule.total_steps}\n".encode())
    for block in schedule.blocks():
        digest.update(block.framed(lambda ids: np.sort(ids, axis=1)))
    return digest.hexdigest()
