"""Where the samples of all epochs, one epoch's order behind the other, are cut into optimizer steps.

A position counts samples from the run's beginning: position p is place p mod num_samples in the order of
epoch p div num_samples. Three ways: every step of one size (EvenCuts, by arithmetic alone), a size that holds
from so many trained samples on (by_samples), and as many samples as have so many trained tokens (by_tokens);
the last two are a table of 16 bytes a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from crossfoot.arithmetic.batch import Thresholds, ceil_div
from crossfoot.arithmetic.epoch_order import Ids

LastStep = Literal["short", "drop", "carry"]

WINDOW_SAMPLES = 1 << 20
"""Samples whose trained tokens are looked at at once; more where a single step has more."""


class NoStep(ValueError):
    """An epoch under drop that has no step: its samples do not fill the first one."""

    def __init__(self, wanted: int) -> None:
        super().__init__(f"a step of {wanted} is more than an epoch")
        self.wanted = wanted


@dataclass(frozen=True)
class Length:
    """The samples of an epoch, what becomes of its rest, and either epochs or max_steps."""

    num_samples: int
    last_step: LastStep
    epochs: int | None
    max_steps: int | None

    @property
    def end(self) -> int | None:
        """The position behind the last epoch, None for a run by max_steps."""
        return None if self.epochs is None else self.epochs * self.num_samples

    def open_until(self, position: int) -> int | None:
        """Where steps that begin here must have ended: at the end of the epoch, or with carry of the run."""
        epoch, _place = divmod(position, self.num_samples)
        return self.end if self.last_step == "carry" else (epoch + 1) * self.num_samples


class Cuts(ABC):
    """The steps of a run, as positions. Step k is a function of k."""

    length: Length

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """Optimizer steps of the run."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps after which the first epoch is over; later epochs may have others."""

    @property
    @abstractmethod
    def scheduled_samples(self) -> int:
        """Sum of the sizes of all steps."""

    @property
    @abstractmethod
    def end(self) -> int:
        """Where a further step would begin."""

    @abstractmethod
    def span(self, k: int) -> tuple[int, int]:
        """Step k is the positions lo .. hi-1."""

    @abstractmethod
    def sizes(self, k: int, limit: int) -> Ids:
        """Sizes of step k and of those behind it that end at `limit` or before; k does."""

    @abstractmethod
    def trained_of(self, epoch: int) -> int:
        """How much of the beginning of an epoch's order is trained (short and drop)."""


@dataclass(frozen=True)
class EvenCuts(Cuts):
    """Every step has `size` samples, but for the rest of an epoch."""

    length: Length
    size: int

    @property
    def steps_per_epoch(self) -> int:
        """See Cuts."""
        whole, rest = divmod(self.length.num_samples, self.size)
        return whole + (rest > 0 and self.length.last_step != "drop")

    @property
    def total_steps(self) -> int:
        """See Cuts."""
        length = self.length
        if length.epochs is None:
            return length.max_steps or 0
        if length.last_step == "carry":
            return ceil_div(length.epochs * length.num_samples, self.size)
        return length.epochs * self.steps_per_epoch

    @property
    def scheduled_samples(self) -> int:
        """See Cuts."""
        if self.length.last_step == "carry":
            return self.end
        full_epochs, more_steps = divmod(self.total_steps, self.steps_per_epoch)
        return full_epochs * self._per_epoch + more_steps * self.size

    @property
    def end(self) -> int:
        """See Cuts."""
        if self.length.last_step == "carry":
            every = self.total_steps * self.size
            return every if self.length.end is None else min(every, self.length.end)
        full_epochs, more_steps = divmod(self.total_steps, self.steps_per_epoch)
        return full_epochs * self.length.num_samples + more_steps * self.size

    def span(self, k: int) -> tuple[int, int]:
        """See Cuts."""
        lo = k * self.size
        if self.length.last_step != "carry":
            epoch, step = divmod(k, self.steps_per_epoch)
            lo = epoch * self.length.num_samples + step * self.size
        until = self.length.open_until(lo)
        return lo, lo + self.size if until is None else min(lo + self.size, until)

    def sizes(self, k: int, limit: int) -> Ids:
        """See Cuts."""
        lo, hi = self.span(k)
        n_steps, _rest = divmod(limit - lo, hi - lo)
        return np.full(max(1, min(n_steps, self.total_steps - k)), hi - lo, dtype=np.int64)

    def trained_of(self, epoch: int) -> int:
        """See Cuts."""
        full_epochs, more_steps = divmod(self.total_steps, self.steps_per_epoch)
        return self._per_epoch if epoch < full_epochs else more_steps * self.size

    @property
    def _per_epoch(self) -> int:
        return min(self.steps_per_epoch * self.size, self.length.num_samples)


class TableCuts(Cuts):
    """Steps that were found one after the other: begins and ends, positions, int64[total_steps]."""

    def __init__(self, length: Length, found: Iterator[tuple[Ids, Ids]]) -> None:
        """found: (begins, ends) of some steps more, until the last epoch is over. A run by max_steps asks for
        its steps, for one more, and for the first epoch. Raises NoStep.
        """
        begins, ends, steps = [], [], 0
        for some_begins, some_ends in found:
            begins.append(some_begins)
            ends.append(some_ends)
            steps += len(some_begins)
            is_enough = length.max_steps is not None and steps > length.max_steps
            if is_enough and some_begins[-1] >= length.num_samples:
                break
        every = np.concatenate(begins)
        self.length = length
        self._begins = every[: length.max_steps]
        self._ends = np.concatenate(ends)[: length.max_steps]
        self._steps_per_epoch = int(np.searchsorted(every, length.num_samples))
        self._end = int(every[length.max_steps]) if length.max_steps is not None else length.end or 0

    @property
    def total_steps(self) -> int:
        """See Cuts."""
        return len(self._ends)

    @property
    def steps_per_epoch(self) -> int:
        """See Cuts."""
        return self._steps_per_epoch

    @property
    def scheduled_samples(self) -> int:
        """See Cuts."""
        return int((self._ends - self._begins).sum())

    @property
    def end(self) -> int:
        """See Cuts."""
        return self._end

    def span(self, k: int) -> tuple[int, int]:
        """See Cuts."""
        return int(self._begins[k]), int(self._ends[k])

    def sizes(self, k: int, limit: int) -> Ids:
        """See Cuts."""
        after = k + max(1, int(np.searchsorted(self._ends[k:], limit, side="right")))
        sizes: Ids = self._ends[k:after] - self._begins[k:after]
        return sizes

    def trained_of(self, epoch: int) -> int:
        """See Cuts."""
        behind = int(np.searchsorted(self._begins, (epoch + 1) * self.length.num_samples))
        return int(self._ends[behind - 1]) - epoch * self.length.num_samples

    def largest(self) -> tuple[int, int]:
        """(the first of the largest steps, its samples)."""
        sizes = self._ends - self._begins
        k = int(sizes.argmax())
        return k, int(sizes[k])

    def samples_before(self, k: int) -> int:
        """Samples of the steps before step k; k may be the number of steps."""
        return int((self._ends[:k] - self._begins[:k]).sum())

    def in_force(self, thresholds: Thresholds) -> Thresholds:
        """(first step, batch) for each batch that some step of the run begins with."""
        sizes = self._ends - self._begins
        before = np.cumsum(sizes) - sizes
        firsts = np.searchsorted(before, [first for first, _ in thresholds]).tolist()
        return tuple(
            (first, batch)
            for (first, behind), (_, batch) in zip(
                pairwise([*firsts, self.total_steps]), thresholds, strict=True
            )
            if first < behind
        )


def by_samples(length: Length, thresholds: Thresholds) -> Iterator[tuple[Ids, Ids]]:
    """Steps of the size that holds at their first sample: of (from, size) the last whose `from` is not above
    the samples that the steps before it have trained.
    """
    position = trained = 0
    while length.end is None or position < length.end:
        nth = sum(first <= trained for first, _ in thresholds) - 1
        size, until = thresholds[nth][1], length.open_until(position)
        if length.last_step == "carry":
            epoch, _place = divmod(position, length.num_samples)
            count = ceil_div((epoch + 1) * length.num_samples - position, size)  # begin in this epoch
        else:
            count, _rest = divmod((until or 0) - position, size)
        for following, _size in thresholds[nth + 1 : nth + 2]:
            count = min(count, ceil_div(following - trained, size))
        if not count and length.last_step == "drop":
            position = _drop(length, position, size)
            continue
        begins = position + size * np.arange(max(1, count), dtype=np.int64)
        ends = begins + size
        if until is not None:
            ends[-1] = min(int(ends[-1]), until)
        yield begins, ends
        trained += int(ends[-1]) - position
        position = int(ends[-1])


def by_tokens(length: Length, target: int, tokens_at: Callable[[int, int], Ids]) -> Iterator[tuple[Ids, Ids]]:
    """Steps of as few samples as have `target` trained tokens together. tokens_at: trained tokens of the
    samples at the positions lo .. hi-1; not all may be 0.
    """
    position, window = (
        0,
        min(WINDOW_SAMPLES, 16 * length.num_samples),
    )  # the order of each epoch is made for it
    while length.end is None or position < length.end:
        until = length.open_until(position)
        hi = position + window if until is None else min(position + window, until)
        ends = position + _reached(tokens_at(position, hi), target)
        if ends.size:
            yield np.concatenate(([position], ends[:-1])), ends
            position = int(ends[-1])
        elif hi != until:
            window *= 2
        elif length.last_step == "drop":
            position = _drop(length, position, target)
        else:
            yield np.array([position], dtype=np.int64), np.array([hi], dtype=np.int64)
            position = hi


def _reached(tokens: Ids, target: int) -> Ids:
    """Behind which samples a step ends, when the first one begins here; int64[n_steps]."""
    sums = np.cumsum(tokens, dtype=np.int64)
    behind = (np.searchsorted(sums, sums - tokens + target) + 1).tolist()
    ends, place = [], 0
    while place < len(behind) and behind[place] <= len(behind):
        place = behind[place]
        ends.append(place)
    return np.array(ends, dtype=np.int64)


def _drop(length: Length, position: int, wanted: int) -> int:
    """The position behind the rest of an epoch. When that is all of it: NoStep."""
    epoch, place = divmod(position, length.num_samples)
    if not place:
        raise NoStep(wanted)
    return (epoch + 1) * length.num_samples
