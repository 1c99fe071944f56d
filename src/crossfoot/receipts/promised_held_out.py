"""What of the training data a lock promises to hold out for validation, worked out from the data index alone.

Nothing of `arithmetic.held_out` is called: the same definition, written a second time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfoot.index.store import DataIndex


def promised_part(lock: Mapping[str, Any]) -> int | float | None:
    """So many different samples, or such a share of them, are held out; None where none is."""
    part = lock["config"]["data"].get("validation")
    return None if isinstance(part, list) else part


def trained_ids(digests: npt.NDArray[np.uint64], part: int | float) -> npt.NDArray[np.int64]:
    """The samples that say what none of those held out says, ascending. digests: of all samples of the index.
    Raises ValueError where none is left.
    """
    hashes = _hash(digests)
    different = np.unique(hashes)
    count = part if isinstance(part, int) else math.ceil(Fraction(repr(part)) * len(different))
    if not 0 < count < len(different):
        raise ValueError(f"it holds out {count:,} of {len(different):,} different samples")
    return np.flatnonzero(hashes > different[count - 1]).astype(np.int64)


def trained_part(index: DataIndex, lock: Mapping[str, Any]) -> DataIndex:
    """What of a whole index the steps of a lock are made of."""
    part = promised_part(lock)
    return index if part is None else index.picked(trained_ids(index.digests, part))


def _hash(digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finaliser of each digest, exclusive-or the bytes "crossfot" as a big-endian number."""
    word = digests ^ np.uint64(int.from_bytes(b"crossfot", "big"))
    word = (word ^ word >> np.uint64(30)) * np.uint64(13787848793156543929)
    word = (word ^ word >> np.uint64(27)) * np.uint64(10723151780598845931)
    return word ^ word >> np.uint64(31)
