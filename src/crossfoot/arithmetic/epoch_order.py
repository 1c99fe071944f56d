"""The order in which an epoch visits the samples, a window at a time.

A whole order of 100 million samples is 0.8 GB in every process, and takes twice that to make. Each rank makes
the part that it is about to train instead: nothing is shared, so nothing is left behind by a run that is
killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

WINDOW_SAMPLES = 1 << 22
"""An epoch of no more is one window. Making a window goes over the words of the whole epoch once."""
_CHUNK_WORDS = 1 << 18
_BUCKET_BITS = np.uint64(48)
_BUCKETS = 1 << 16


def epoch_order(num_samples: int, seed: int, epoch: int) -> Ids:
    """The order in which one epoch visits the samples: a permutation of 0 .. num_samples-1.

    The stable argsort (ties by id) of raw 64-bit words of Philox-4x64-10 keyed (seed, epoch). numpy promises
    the words of a bit generator for good (NEP 19), not the result of `permutation`. 0 <= seed, epoch < 2**64.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    words = _philox(seed, epoch).random_raw(num_samples)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


class EpochOrder:
    """`epoch_order`, of which the window that was asked for last is kept: 4 bytes a sample of it."""

    def __init__(self, num_samples: int, seed: int, epoch: int) -> None:
        self.num_samples = num_samples
        self._seed, self._epoch = seed, epoch
        self._type = np.min_scalar_type(num_samples)
        self._begin = 0
        self._window = np.empty(0, dtype=self._type)

    def at(self, lo: int, hi: int) -> Ids:
        """Positions lo .. hi-1 of the order, int64[hi - lo]. Fast when asked in ascending order."""
        found = [np.empty(0, dtype=np.int64)]
        while lo < hi:
            if not self._begin <= lo < self._begin + len(self._window):
                self._make_window(lo)
            here = self._window[lo - self._begin : hi - self._begin]
            found.append(here.astype(np.int64))
            lo += len(here)
        return np.concatenate(found)

    def _make_window(self, position: int) -> None:
        """The words fall into buckets by their upper bits; a window is some buckets in a row, sorted."""
        if self.num_samples <= WINDOW_SAMPLES:
            self._window = epoch_order(self.num_samples, self._seed, self._epoch).astype(self._type)
            return
        first = int(np.searchsorted(self._bucket_starts, position, side="right")) - 1
        self._begin = int(self._bucket_starts[first])
        end = int(np.searchsorted(self._bucket_starts, self._begin + WINDOW_SAMPLES, side="right")) - 1
        count = max(1, end - first)
        words, ids = [], []
        for begin, chunk in self._chunks():
            # below `first` the difference wraps around and is large
            inside = np.flatnonzero((chunk >> _BUCKET_BITS) - np.uint64(first) < np.uint64(count))
            words.append(chunk[inside])
            ids.append((inside + begin).astype(self._type))
        self._window = np.concatenate(ids)[np.argsort(np.concatenate(words), kind="stable")]

    @cached_property
    def _bucket_starts(self) -> Ids:
        """The position at which each bucket begins, and the end of the last one."""
        counts = np.zeros(_BUCKETS + 1, dtype=np.int64)
        for _, chunk in self._chunks():
            counts[1:] += np.bincount((chunk >> _BUCKET_BITS).astype(np.int64), minlength=_BUCKETS)
        return np.cumsum(counts)

    def _chunks(self) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """The epoch's words, with the sample that the first of each chunk belongs to."""
        generator = _philox(self._seed, self._epoch)
        for begin in range(0, self.num_samples, _CHUNK_WORDS):
            yield begin, generator.random_raw(min(_CHUNK_WORDS, self.num_samples - begin))


def _philox(seed: int, epoch: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
