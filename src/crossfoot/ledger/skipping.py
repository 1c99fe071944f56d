"""Steps whose update was left out on purpose: what a policy says, and whether a step is such a one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossfoot.ledger.witness import StepWitness


@dataclass(frozen=True)
class Policies:
    """What is to become of a step that cannot be learned from; the config's section `faults`.

    nonfinite: a loss or a gradient that is NaN or infinite: stop | skip. overflow: a gradient that became
    too large for float16 under its loss scale: retry | skip.
    """

    nonfinite: str = "stop"
    overflow: str = "retry"

    def states(self, why: str) -> bool:
        """Whether such a step's update is left out on purpose. why: a key of SKIPS."""
        return (self.nonfinite if why == "not finite" else self.overflow) == "skip"


def policies_of(lock: Mapping[str, Any]) -> Policies | None:
    """The policies in a plan's lock; None when it does not have them."""
    config = lock.get("config")
    faults = config.get("faults") if isinstance(config, Mapping) else None
    if not isinstance(faults, Mapping):
        return None
    return Policies(str(faults.get("nonfinite", "stop")), str(faults.get("overflow", "retry")))


def stated_skip(witnesses: Sequence[StepWitness], policies: Policies) -> str | None:
    """Why this step's update was left out on purpose, a key of SKIPS; None when it was not.

    No rank may have updated: weights that differ between ranks are never a policy. A loss that is NaN or
    infinite cannot be healed by another loss scale, so it is no overflow.
    """
    if not witnesses or any(witness.applied for witness in witnesses):
        return None
    if not all(math.isfinite(witness.loss_sum) for witness in witnesses):
        why = "not finite"
    elif any(witness.overflow for witness in witnesses):
        why = "overflow"
    elif any(witness.nonfinite for witness in witnesses):
        why = "not finite"
    else:
        return None
    return why if policies.states(why) else None
