"""All that is asked: the tasks behind --tasks or evaluation.tasks, and of each its requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossfoot.findings.finding import Finding
from crossfoot.tasks.items import Request, Task
from crossfoot.tasks.prompts import requests_of
from crossfoot.tasks.reading import read_tasks


@dataclass(frozen=True)
class Requests:
    """of_tasks: of each task its requests, in the order of its items."""

    tasks: tuple[Task, ...]
    of_tasks: tuple[tuple[Request, ...], ...]

    @property
    def every(self) -> tuple[Request, ...]:
        """One after the other."""
        return tuple(one for each in self.of_tasks for one in each)

    @property
    def indexes(self) -> tuple[int, ...]:
        """Of each of them, its place in its task."""
        return tuple(index for each in self.of_tasks for index in range(len(each)))

    @property
    def has_texts(self) -> bool:
        """Whether the perplexity of a text is measured."""
        return any(task.kind == "perplexity" for task in self.tasks)

    @property
    def has_answers(self) -> bool:
        """Whether texts are held against references: that needs the extra `eval`."""
        return any(task.kind == "generate" for task in self.tasks)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is odd about the tasks, and does not stop."""
        return tuple(one for task in self.tasks for one in task.warnings)


def read_requests(
    words: Sequence[str],
    scorer: str,
    shots: int | None,
    *,
    split: str | None = None,
    subjects: Sequence[str] = (),
) -> Requests:
    """words, split, subjects: as of `read_tasks`; scorer, shots: as of `requests_of`. Raises Refused as
    both.
    """
    tasks = read_tasks(words, split=split, subjects=subjects, with_shots=shots != 0)
    return Requests(tasks, tuple(requests_of(task, scorer, shots) for task in tasks))
