"""How the rate of a lock rises and falls over the steps, and what its second beta is at its batch: worked out
once more, as `promise` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt


def heights(lr: Mapping[str, Any], warm: int, steps: int) -> npt.NDArray[np.float64]:
    """How high above its floor the rate of each step is, 1 being the peak, as if there were no warm-up."""
    shape, begin, cycles = lr["schedule"], warm, 1
    if shape == "wsd":
        share = Decimal(repr(float(lr["decay_fraction"]))) * steps
        begin = max(warm, steps - int(share.to_integral_value(ROUND_CEILING)))
        shape = lr["decay_shape"]
    elif shape == "cosine_with_restarts":
        shape, cycles = "cosine", lr["cycles"]
    falling = np.arange(steps - begin, dtype=np.int64)
    starts = -(np.arange(cycles, dtype=np.int64) * -falling.size // cycles)
    cycle = np.searchsorted(starts, falling, side="right") - 1
    done = (falling * cycles - cycle * falling.size) / max(1, falling.size)
    heights = np.ones(steps)
    if shape != "constant":
        falls = {"cosine": np.cos(done * (np.pi / 2)) ** 2, "linear": 1.0 - done, "sqrt": 1.0 - done**0.5}
        heights[begin:] = falls[shape]
    return heights


def beta2_of(lock: Mapping[str, Any]) -> float | None:
    """AdamW's second beta at the lock's batch, where it follows the batch; else None."""
    optimizer = lock["config"].get("optimizer") or {}
    reference = optimizer.get("beta2_reference_batch")
    if reference is None or optimizer["name"] != "adamw":
        return None
    log = math.log(beta) if (beta := float(optimizer["betas"][1])) else -math.inf
    return math.exp(log * lock["plan"]["global_batch_size"] / reference)
