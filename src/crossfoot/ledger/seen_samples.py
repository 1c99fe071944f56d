"""Which samples were trained already: one byte a sample for the whole run, and one for each of at most two
epochs.

Two, because a carried step may span two epochs; when a third begins, the oldest is forgotten. Where sources
have weights an "epoch" is a pass over the sample's source, and of each source so many are kept as two epochs
touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossfoot.arithmetic.batch import ceil_div

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LedgerSource:
    """A source of the data. end: the id behind its last sample. used: its samples that are trained.
    per_epoch: how many of them an epoch takes.
    """

    end: int
    used: int = 1
    per_epoch: int = 1

    @property
    def live_passes(self) -> int:
        """Passes over it that two epochs in a row may touch."""
        return ceil_div(2 * self.per_epoch, self.used) + (self.per_epoch % self.used > 0)


def counted_by_source(
    sources: Sequence[LedgerSource], ids: Int64Array, trained_tokens: npt.NDArray[np.int32]
) -> tuple[tuple[int, int], ...]:
    """Samples and trained tokens of each source. ids: of samples trained; trained_tokens: of all samples."""
    if not sources:
        return ()
    places = np.searchsorted([source.end for source in sources], ids, side="right")
    samples, tokens = (
        np.bincount(places, weights, len(sources)).astype(np.int64).tolist()
        for weights in (None, trained_tokens[ids])
    )
    return tuple(zip(samples, tokens, strict=True))


class SeenSamples:
    """The register of one run over `num_samples` samples. sources: all of them, where they have weights."""

    def __init__(self, num_samples: int, sources: Sequence[LedgerSource] = ()) -> None:
        self._in_run: BoolArray = np.zeros(num_samples, dtype=np.bool_)
        self._sources = tuple(sources) or (LedgerSource(num_samples),)
        self._ends = np.array([source.end for source in self._sources])
        self._in_pass: list[dict[int, BoolArray]] = [{} for _ in self._sources]

    def was_trained(self, epoch: int, sample: int) -> bool:
        """True when the sample has been trained in this epoch's order."""
        return self.were_any_trained(np.array([sample]), np.array([epoch]))

    def were_any_trained(self, samples: Int64Array, epochs: Int64Array) -> bool:
        """True when one of the samples has been trained in its epoch's order."""
        return any(
            epoch in self._in_pass[source] and bool(self._in_pass[source][epoch][places].any())
            for source, epoch, places in self._parts(samples, epochs)
        )

    def record(self, samples: Int64Array, epochs: Int64Array) -> tuple[int, int]:
        """Book samples as trained, each in its epoch. Returns how many were repeats within their epoch,
        and how many different samples were trained for the first time in the run.
        """
        repeated = 0
        for source, epoch, places in self._parts(samples, epochs):
            different, counts = np.unique(places, return_counts=True)
            seen = self._register(source, epoch)
            repeated += int(counts.sum()) - int(np.count_nonzero(~seen[different]))
            seen[different] = True
        different = np.unique(samples)
        first_seen = int(np.count_nonzero(~self._in_run[different]))
        self._in_run[different] = True
        return repeated, first_seen

    def mark(self, samples: Int64Array, epochs: Int64Array) -> None:
        """Book samples as trained, epochs in ascending order, without asking which are repeats."""
        for source, epoch, places in self._parts(samples, epochs):
            self._register(source, epoch)[places] = True
        self._in_run[samples] = True

    def _parts(self, samples: Int64Array, epochs: Int64Array) -> list[tuple[int, int, Int64Array]]:
        """(source, epoch, places of samples in the source) of those that belong together, in order."""
        sources = np.searchsorted(self._ends, samples, side="right")
        keys = epochs * len(self._sources) + sources
        found = []
        for key in np.unique(keys).tolist():
            epoch, source = divmod(key, len(self._sources))
            found.append((source, epoch, samples[keys == key] - self._begin(source)))
        return found

    def _begin(self, source: int) -> int:
        return int(self._ends[source - 1]) if source else 0

    def _register(self, source: int, epoch: int) -> BoolArray:
        registers = self._in_pass[source]
        if epoch not in registers:
            while len(registers) >= self._sources[source].live_passes:
                del registers[min(registers)]
            registers[epoch] = np.zeros(int(self._ends[source]) - self._begin(source), dtype=np.bool_)
        return registers[epoch]
