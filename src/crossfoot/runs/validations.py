"""`validations.jsonl` of a run folder: what each validation found, a line each."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from crossfoot.documents import Malformed, value_of
from crossfoot.line_file import append_line, readable_lines

VALIDATIONS_FILE = "validations.jsonl"


@dataclass(frozen=True)
class Validation:
    """The weights after `step` optimizer steps on all of data.validation, all ranks together.

    loss: mean cross entropy of a trained token, nats. next_token_accuracy: share of the trained tokens that
    the model found likeliest, 0 to 1. samples, trained_tokens: of the data. attempt: 1-based.
    """

    step: int
    attempt: int
    loss: float
    next_token_accuracy: float
    samples: int
    trained_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss): of so many tokens, equally likely, each is as hard to guess."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def words(self) -> str:
        """As it is shown while the run goes on."""
        right = f"next token right {self.next_token_accuracy:.1%}"
        return f"validation loss {self.loss:.4f}   perplexity {self.perplexity:.4g}   {right}"


def append_validation(run_dir: str, found: Validation) -> None:
    """Add a line. Raises OSError."""
    append_line(os.path.join(run_dir, VALIDATIONS_FILE), asdict(found) | {"perplexity": found.perplexity})


def read_validations(run_dir: str) -> tuple[Validation, ...]:
    """In the order of steps, the last line of each; none where there is no file. Lines that nobody can read
    are left out: what they said is lost, and no number of the run depends on it.
    """
    found: dict[int, Validation] = {}
    for document in readable_lines(os.path.join(run_dir, VALIDATIONS_FILE)):
        document.pop("perplexity", None)
        with suppress(Malformed):
            one = value_of(Validation, document)
            found[one.step] = one
    return tuple(found[step] for step in sorted(found))


def best_of(found: Sequence[Validation]) -> Validation | None:
    """The first of the lowest loss; None where no loss is a number."""
    numbers = [one for one in found if math.isfinite(one.loss)]
    return min(numbers, key=lambda one: (one.loss, one.step), default=None)


def is_out_of_patience(losses: Sequence[float], patience: int, min_improvement: float) -> bool:
    """Whether the last `patience` losses, in the order of steps, are no improvement on the best before them:
    lower by more than min_improvement, nats.
    """
    best, in_vain = math.inf, 0
    for loss in losses:
        if loss < best - min_improvement:
            best, in_vain = loss, 0
        else:
            in_vain += 1
    return in_vain >= patience
