"""The one order of samples that all runs of a study share, and whether each run's steps followed it.

Worked out from the data index and a seed by the code of the receipts, which neither plan nor loop calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfoot.index.store import DataIndex
from crossfoot.ledger.entry import StepEntry
from crossfoot.receipts.promised_sets import parts, terms_of
from crossfoot.studies.design import RunDesign

Digests = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class SampleOrder:
    """Of one seed. digests: of the samples in the order in which every run trains them, over all epochs."""

    digests: Digests

    def is_followed(self, lines: Iterable[StepEntry], run: RunDesign) -> bool:
        """Whether each step of the run's own held the next samples, by what was measured in it."""
        return all(
            line.samples_sha256
            == self._sha256(run.first_sample + (line.step - run.first_step) * run.batch, run.batch)
            for line in lines
        )

    def _sha256(self, first: int, batch: int) -> str:
        """As a ledger line has it: over the sorted digests."""
        held = np.sort(self.digests[first : first + batch])
        return hashlib.sha256(held.astype("<u8").tobytes()).hexdigest()[:16]


def order_of(lock: Mapping[str, Any], index: DataIndex, seed: int, samples: int) -> SampleOrder:
    """The first so many samples by the order of a seed. lock: of any run of the study; index: of what is
    trained on. Raises ValueError for a lock that does not say what it plans.
    """
    as_one_step = replace(
        terms_of(lock, index),
        seed=seed,
        global_batch_size=samples,
        max_steps=1,
        epochs=None,
        last_step="carry",
        batch_from_samples=(),
        target_trained_tokens=None,
    )
    ids = next(parts(as_one_step)).ids
    return SampleOrder(index.digests[ids])


def samples_sha256(orders: Iterable[SampleOrder], first: int, end: int) -> str:
    """Over the digests of samples [first, end) of each order, one seed behind the other."""
    whole = hashlib.sha256()
    for order in orders:
        whole.update(order.digests[first:end].astype("<u8").tobytes())
    return whole.hexdigest()
