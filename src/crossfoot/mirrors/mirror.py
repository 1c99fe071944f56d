"""What a mirror of a run is told, by rank 0 or afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from crossfoot.ledger.entry import StepEntry
from crossfoot.phrases import steps_done
from crossfoot.runs.evaluations import RunEvaluation
from crossfoot.runs.validations import Validation


class Mirror(Protocol):
    """Takes numbers under names, at the step as people count it: "12" is the twelfth."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """What is known after so many steps; in the order of steps."""

    def close(self, foots: bool | None) -> None:
        """The run is over, or its mirror is complete. foots: of its receipt, None without one."""


def log_step(mirror: Mirror, entry: StepEntry) -> None:
    """A line of the ledger: its numbers under its names. Causes and what each rank did stay in the ledger."""
    mirror.log(_numbers(entry.to_json()), steps_done(entry.step))


def log_validation(mirror: Mirror, found: Validation) -> None:
    """A validation, under validation/."""
    numbers = _numbers({**asdict(found), "perplexity": found.perplexity})
    named = ("loss", "perplexity", "next_token_accuracy")
    mirror.log({f"validation/{name}": numbers[name] for name in named if name in numbers}, found.step)


def log_evaluation(mirror: Mirror, found: RunEvaluation) -> None:
    """An evaluation of the run, under evaluation/ and the name of each task."""
    numbers = {
        f"evaluation/{task.name}/{name}": value
        for task in found.tasks
        for name, value in task.numbers.items()
    }
    mirror.log(_numbers(numbers), found.step)


def _numbers(document: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in document.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
