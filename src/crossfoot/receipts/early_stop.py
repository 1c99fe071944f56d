"""Whether a run that ended for its validation losses was allowed to: from its lock and what was noted of each
validation, by arithmetic that training does not use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossfoot.phrases import counted
from crossfoot.runs.ending import Ending
from crossfoot.runs.validations import Validation


def early_stop(
    lock: Mapping[str, Any], ending: Ending | None, validations: Sequence[Validation]
) -> tuple[int | None, tuple[str, ...]]:
    """(after how many steps the run rightly ended, notes). The number is None where it ended otherwise, or
    where its lock or its validations do not bear it out: then the whole plan is asked for.
    """
    if ending is None or ending.reason != "patience":
        return None, ()
    section = (lock.get("config") or {}).get("validation") or {}
    patience, least = section.get("patience"), float(section.get("min_improvement") or 0.0)
    taken = [one for one in validations if one.step <= ending.step]
    if patience is None:
        why = "its plan has none"
    elif not taken or taken[-1].step != ending.step:
        why = f"validations.jsonl has no validation after {counted(ending.step, 'step')}"
    elif (vain := _in_vain(np.array([one.loss for one in taken]), least)) < patience:
        why = f"of the losses in validations.jsonl the last {vain} are no better than one before"
    else:
        best = min(taken, key=lambda one: (one.loss, one.step))
        note = (
            f"ended after {counted(ending.step, 'step')}, as validation.patience {patience} says: the "
            f"validation loss was lowest after {counted(best.step, 'step')}, {best.loss:.4f}"
        )
        return ending.step, (note,)
    return None, (f"the run says it ended for validation.patience, but {why}",)


def _in_vain(losses: np.ndarray, least: float) -> int:
    """How many of the last losses lie less than `least` below the record of their time. NaN is no record."""
    record, since = np.inf, 0
    for place in range(len(losses)):
        if losses[place] + least < record:
            record, since = losses[place], place
    return len(losses) - 1 - since if np.isfinite(record) else len(losses)
