"""A run folder read as a whole, once: what receipt, dry run and comparison are made from.

Two others look at a run folder and do not read it whole. `resume.read_previous_attempts` goes on where it
can: it takes the ledger up to its first damaged line, and locks and endings only where it needs them.
`watching.watcher` looks every second and reads what is new.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from crossfoot.findings.finding import Finding, Refused
from crossfoot.ledger.book import BookLines, read_book
from crossfoot.ledger.entry import StepEntry
from crossfoot.runs.attempts import (
    ENDING_FILE,
    LEDGER_FILE,
    Attempt,
    attempt_numbers,
    attempt_path,
    counted,
    lock_path,
    read_attempts,
    run_lock_path,
)
from crossfoot.runs.branched import Branched, read_branch
from crossfoot.runs.ending import Ending, read_ending, read_lock
from crossfoot.runs.evaluations import RunEvaluation, read_evaluations
from crossfoot.runs.validations import Validation, read_validations

Found = TypeVar("Found")


@dataclass(frozen=True)
class AttemptRecord:
    """What one attempt left: how it started, the lock of its plan, and how it ended (None: it was killed, or
    runs).
    """

    attempt: Attempt
    lock: Mapping[str, Any]
    ending: Ending | None = None


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds: of a running run, a killed one, one continued many times.

    lock: the run's own. attempts: those that started, in order. lines: of the ledger, in file order. ending:
    of the last attempt, None while it has written none. validations, evaluations: in the order of steps.
    branch: off which run it branched; its first attempts are then those of that one.
    """

    run_dir: str
    lock: Mapping[str, Any]
    attempts: tuple[AttemptRecord, ...]
    lines: BookLines
    ending: Ending | None
    validations: tuple[Validation, ...] = ()
    evaluations: tuple[RunEvaluation, ...] = ()
    branch: Branched | None = None

    @property
    def started(self) -> tuple[Attempt, ...]:
        """How each attempt started, in order."""
        return tuple(record.attempt for record in self.attempts)

    @cached_property
    def counted(self) -> list[StepEntry]:
        """The lines that count, in file order."""
        return counted(self.lines, self.started)[0]

    def by_step(self) -> list[StepEntry]:
        """The lines that count, by step."""
        return sorted(self.counted, key=lambda entry: entry.step)


def read_run(run_dir: str) -> RunRecord:
    """The run in a folder: its lock, its ledger, and of every attempt how it started, its lock, its ending.

    Others may write meanwhile. Raises Refused when one of them is missing or damaged; all that can be said
    about them at once.
    """
    findings: list[Finding] = []

    def tried(read: Callable[[str], Found], path: str) -> Found | None:
        try:
            return read(path)
        except Refused as refused:
            findings.extend(refused.findings)
            return None

    branch = tried(read_branch, run_dir)
    own_path = run_lock_path(run_dir)
    lock = tried(read_lock, own_path)
    # While others write: an ending that is there now has all its lines in the ledger, and a line that is in
    # the ledger then has its attempt. The other way round a running run would seem to have a fault.
    endings = {n: tried(read_ending, attempt_path(run_dir, n, ENDING_FILE)) for n in attempt_numbers(run_dir)}
    lines = tried(read_book, os.path.join(run_dir, LEDGER_FILE))
    attempts = tried(lambda path: read_attempts(path, {line.attempt for line in lines or ()}), run_dir)
    records = []
    for attempt in attempts or ():
        path = lock_path(run_dir, attempt.attempt)
        own = lock if path == own_path else tried(read_lock, path)
        records.append(AttemptRecord(attempt, own or {}, endings.get(attempt.attempt)))
    if findings or lock is None or lines is None:
        raise Refused(findings)
    ending = records[-1].ending if records else endings.get(1)
    taken = read_validations(run_dir), read_evaluations(run_dir)
    return RunRecord(run_dir, lock, tuple(records), lines, ending, *taken, branch)
