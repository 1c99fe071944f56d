"""Samples as the arrays of an index have them. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfoot.data.samples import Sample
from crossfoot.index.store import SAMPLE_ARRAYS, TOKEN_ARRAYS, segment_digests

Columns = Mapping[str, npt.NDArray[Any]]
"""By the name of the array, in its dtype: entries of some samples, one after the other."""


def columns_of(samples: Sequence[Sample]) -> Columns:
    """The entries of these samples, of which there is at least one."""
    digests = [segment_digests(sample.ids, sample.trained) for sample in samples]
    columns: dict[str, Any] = {
        "tokens": np.concatenate([sample.ids for sample in samples]),
        "trained": np.concatenate([sample.trained for sample in samples]),
        "lengths": [len(sample.ids) for sample in samples],
        "trained_tokens": [np.count_nonzero(sample.trained[1:]) for sample in samples],
        "token_digests": np.array([token_digest for token_digest, _ in digests], dtype=np.uint64),
        "digests": np.array([digest for _, digest in digests], dtype=np.uint64),
        "lost_tokens": [sample.lost_tokens for sample in samples],
        "file_ids": [sample.file_id for sample in samples],
        "numbers": [sample.number for sample in samples],
    }
    dtypes = TOKEN_ARRAYS | SAMPLE_ARRAYS
    return {name: np.asarray(columns[name], dtype=dtype) for name, dtype in dtypes.items()}
