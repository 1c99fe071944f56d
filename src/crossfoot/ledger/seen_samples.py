"""Which samples were trained already: one byte a sample for the whole run, and one for each of at most two
epochs.

Two, because a carried step may span two epochs; when a third begins, the oldest is forgotten.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_LIVE_EPOCHS = 2


class SeenSamples:
    """The register of one run over `num_samples` samples."""

    def __init__(self, num_samples: int) -> None:
        self._in_run: BoolArray = np.zeros(num_samples, dtype=np.bool_)
        self._in_epoch: dict[int, BoolArray] = {}

    def was_trained(self, epoch: int, sample: int) -> bool:
        """True when the sample has been trained in this epoch's order."""
        return bool(epoch in self._in_epoch and self._in_epoch[epoch][sample])

    def were_any_trained(self, samples: Int64Array, epochs: Int64Array) -> bool:
        """True when one of the samples has been trained in its epoch's order."""
        return any(
            epoch in self._in_epoch and bool(self._in_epoch[epoch][samples[epochs == epoch]].any())
            for epoch in np.unique(epochs).tolist()
        )

    def record(self, samples: Int64Array, epochs: Int64Array) -> tuple[int, int]:
        """Book samples as trained, each in its epoch. Returns how many were repeats within their epoch,
        and how many different samples were trained for the first time in the run.
        """
        repeated = 0
        for epoch in np.unique(epochs).tolist():
            different, counts = np.unique(samples[epochs == epoch], return_counts=True)
            seen = self._register(epoch)
            repeated += int(counts.sum()) - int(np.count_nonzero(~seen[different]))
            seen[different] = True
        different = np.unique(samples)
        first_seen = int(np.count_nonzero(~self._in_run[different]))
        self._in_run[different] = True
        return repeated, first_seen

    def mark(self, samples: Int64Array, epochs: Int64Array) -> None:
        """Book samples as trained, epochs in ascending order, without asking which are repeats."""
        for epoch in np.unique(epochs).tolist():
            self._register(epoch)[samples[epochs == epoch]] = True
        self._in_run[samples] = True

    def _register(self, epoch: int) -> BoolArray:
        if epoch not in self._in_epoch:
            while len(self._in_epoch) >= _LIVE_EPOCHS:
                del self._in_epoch[min(self._in_epoch)]
            self._in_epoch[epoch] = np.zeros_like(self._in_run)
        return self._in_epoch[epoch]
