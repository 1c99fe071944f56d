"""`evaluations.jsonl` of a run folder: what each evaluation while it trained, or at its end, came to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from crossfoot.documents import Malformed, value_of
from crossfoot.line_file import append_line, readable_lines

EVALUATIONS_FILE = "evaluations.jsonl"


@dataclass(frozen=True)
class TaskScore:
    """name: of the task. right: of the `judged` items whose right answer is known; of texts, those that are
    exactly the reference. chrf: of texts, 0 to 100. perplexity: per token. None where it has no meaning.
    """

    name: str
    items: int
    judged: int
    right: int
    chrf: float | None = None
    perplexity: float | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of the judged ones, 0 to 1."""
        return self.right / self.judged if self.judged else None

    @property
    def words(self) -> str:
        """`exam 33.3% (12 of 36)`."""
        if self.perplexity is not None:
            return f"{self.name} perplexity {self.perplexity:.4g}"
        if self.accuracy is None:
            return f"{self.name} answered"
        chrf = "" if self.chrf is None else f", chrF {self.chrf:.1f}"
        return f"{self.name} {self.accuracy:.1%} ({self.right:,} of {self.judged:,}{chrf})"

    @property
    def numbers(self) -> dict[str, float]:
        """What can be drawn, by name."""
        found = {"accuracy": self.accuracy, "chrf": self.chrf, "perplexity": self.perplexity}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class RunEvaluation:
    """The weights after `step` optimizer steps. folder: of the evaluation, in the run folder. scores_sha256:
    of its scores.jsonl. attempt: 1-based.
    """

    step: int
    attempt: int
    folder: str
    scores_sha256: str
    tasks: tuple[TaskScore, ...]

    @property
    def words(self) -> str:
        """As it is shown while the run goes on."""
        return "   ".join(task.words for task in self.tasks)


def append_evaluation(run_dir: str, found: RunEvaluation) -> None:
    """Add a line. Raises OSError."""
    append_line(os.path.join(run_dir, EVALUATIONS_FILE), asdict(found))


def read_evaluations(run_dir: str) -> tuple[RunEvaluation, ...]:
    """In the order of steps, the last line of each; none where there is no file."""
    found: dict[int, RunEvaluation] = {}
    for document in readable_lines(os.path.join(run_dir, EVALUATIONS_FILE)):
        with suppress(Malformed):
            one = value_of(RunEvaluation, document)
            found[one.step] = one
    return tuple(found[step] for step in sorted(found))


def last_of(found: Sequence[RunEvaluation], step: int) -> RunEvaluation | None:
    """That of the weights after so many steps."""
    return next((one for one in reversed(found) if one.step == step), None)
