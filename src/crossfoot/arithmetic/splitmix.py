"""The finaliser of splitmix64: every 64-bit word becomes another one (Steele, Lea and Flood 2014)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def finalised(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each word mixed, uint64[n]."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
