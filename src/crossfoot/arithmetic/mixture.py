"""Which samples an epoch of several sources holds: of each source as many as its weight says.

A source of m samples and n samples an epoch is an endless stream of passes. Each pass holds every sample of
it once, in an order of its own, and epoch e takes the stream's places e x n to (e+1) x n - 1. So over any
number of epochs two samples of a source are trained equally often, to one. What is taken is then put in order
with all other sources by `epoch_order`. Nothing is kept: a place is looked up by arithmetic, however large
the source is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.epoch_order import Ids
from crossfoot.arithmetic.splitmix import finalised

Words = NDArray[np.uint64]

ROUNDS = 8
FEWEST_BITS = 3
"""Of half a place: below, the rounds have too few ways to differ."""
_AT_ONCE = 1 << 14
"""Places that are looked up together: their keys fit a processor's cache."""


@dataclass(frozen=True)
class Share:
    """One source. first: the id of its first sample. samples: those that are used, from the first on.
    per_epoch: what an epoch takes of it.
    """

    first: int
    samples: int
    per_epoch: int


@dataclass(frozen=True)
class Mixture:
    """All sources of a run, and its seed. Samples taken are numbered by source: those of the first one come
    first.
    """

    shares: tuple[Share, ...]
    seed: int

    @property
    def samples_per_epoch(self) -> int:
        """Of all sources together."""
        return int(self._ends[-1])

    @property
    def is_plain(self) -> bool:
        """Whether an epoch is every sample once, and a number of it the sample's id."""
        ends = zip(self.shares, self._ends.tolist(), strict=True)
        return all(
            share == Share(end - share.per_epoch, share.per_epoch, share.per_epoch) for share, end in ends
        )

    def samples(self, epoch: int, numbers: Ids) -> Ids:
        """The ids of these numbers of an epoch, int64[len(numbers)]."""
        sources, passes, places = self._drawn(epoch, numbers)
        mixed = np.flatnonzero(self._are_mixed[sources])
        for begin in range(0, len(mixed), _AT_ONCE):
            here = mixed[begin : begin + _AT_ONCE]
            of_pass = passes[here] * len(self.shares) + sources[here]
            different, which = np.unique(of_pass, return_inverse=True)
            pairs = (divmod(one, len(self.shares)) for one in different.tolist())
            keys = np.array([round_keys(self.seed, source, passing) for passing, source in pairs], np.uint64)
            places[here] = shuffled(places[here], self._columns[1, sources[here]], keys.T[:, which])
        ids: Ids = self._columns[0, sources] + places
        return ids

    def passes(self, epoch: int, numbers: Ids) -> Ids:
        """How often its source was passed whole before each of these numbers: a sample is in a pass once."""
        return self._drawn(epoch, numbers)[1]

    def _drawn(self, epoch: int, numbers: Ids) -> tuple[Ids, Ids, Ids]:
        """(source, pass, place in the pass) of each number."""
        sources = np.searchsorted(self._ends, numbers, side="right")
        _, samples, per_epoch = self._columns[:, sources]
        in_stream = numbers - (self._ends[sources] - per_epoch) + epoch * per_epoch
        return (sources, *np.divmod(in_stream, samples))

    @cached_property
    def _columns(self) -> Ids:
        return np.array([(s.first, s.samples, s.per_epoch) for s in self.shares], dtype=np.int64).T

    @cached_property
    def _ends(self) -> Ids:
        return np.cumsum(self._columns[2])

    @cached_property
    def _are_mixed(self) -> NDArray[np.bool_]:
        """Sources of which an epoch takes a part of a pass. Whole passes need no order of their own."""
        mixed: NDArray[np.bool_] = self._columns[2] % self._columns[1] > 0
        return mixed


def samples_an_epoch(weight: float, samples: int) -> int:
    """weight x samples to the nearest integer, a half upwards. The weight is what its digits say: 0.1 is a
    tenth.
    """
    return int(Fraction(str(weight)) * samples + Fraction(1, 2))


def shares_of(samples: Sequence[int], used: Sequence[int], weights: Sequence[float]) -> tuple[Share, ...]:
    """One for each source, in order. samples: of the index. used: of them, from the first one on."""
    ends = np.cumsum(samples).tolist()
    return tuple(
        Share(end - count, taken, samples_an_epoch(weight, taken))
        for end, count, taken, weight in zip(ends, samples, used, weights, strict=True)
    )


@lru_cache(maxsize=4096)
def round_keys(seed: int, source: int, passing: int) -> tuple[int, ...]:
    """The keys of one pass of one source: raw words of Philox keyed (seed, pass), its counter from (0, 0, 0,
    source + 1) on. An epoch's order has the counters below, so the two never share a word.
    """
    counter = np.array([0, 0, 0, source + 1], dtype=np.uint64)
    key = np.array([seed, passing], dtype=np.uint64)
    words: list[int] = np.random.Philox(counter=counter, key=key).random_raw(ROUNDS).tolist()
    return tuple(words)


def shuffled(places: Ids, samples: Ids, keys: Words) -> Ids:
    """Where each place of a pass leads, int64[n]. samples: of its source, [n]. keys: of its pass, [ROUNDS,
    n].

    A permutation of 0 .. samples-1 that is looked up and never held: a Feistel network over the next even
    number of bits, taken again and again until it leads back below `samples`. Source: Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains"; as a shuffle, Mitchell et al. 2021, arXiv:2106.06161.
    """
    limits = samples.astype(np.uint64)
    halves = half_bits(samples)
    found, left = places.astype(np.uint64), np.arange(len(places))
    while left.size:
        found[left] = _network(found[left], halves[left], keys[:, left])
        left = left[found[left] >= limits[left]]
    return found.astype(np.int64)


def half_bits(samples: Ids) -> Words:
    """Bits of each half of a place: as few as hold every place, uint64[n]."""
    powers = np.int64(4) ** np.arange(31)
    return np.maximum(np.searchsorted(powers, samples), FEWEST_BITS).astype(np.uint64)


def _network(places: Words, halves: Words, keys: Words) -> Words:
    masks = (np.uint64(1) << halves) - np.uint64(1)
    left, right = places >> halves, places & masks
    for key in keys:
        left, right = right, left ^ (finalised(right ^ key) & masks)
    joined: Words = (left << halves) | right
    return joined
