"""A run is one or many attempts: what each of them was, and which lines of the one ledger still count.

Attempt a begins at its `first_step`, where its checkpoint stood. A line of attempt a is lost when its step is
not below the first step of some later attempt: it was computed, its weights are gone, and it was computed
again, or will be. Every other line counts. So attempted = lost + counted, and each step has one counted line.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from crossfoot.arithmetic.batch import GpusPerNode
from crossfoot.checkpoints.store import is_checkpoint_name
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.ledger.book import BookLines
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.findings import attempt_unreadable, checkpoint_ahead
from crossfoot.runs.ending import read_paper, write_document

LOCK_FILE, LEDGER_FILE, RECEIPT_FILE = "plan.lock.json", "ledger.jsonl", "receipt.json"
ENDING_FILE, ATTEMPT_FILE = "ending.json", "attempt.json"
ATTEMPT_FORMAT = 1
MOST_RANKS = 1_000_000
"""More are a damaged number."""
_NAME = re.compile(r"attempt-(\d{3,})")


@dataclass(frozen=True)
class Change:
    """A value that was changed on purpose between attempts. key: dotted; before, now: as JSON has them."""

    key: str
    before: Any
    now: Any


@dataclass(frozen=True)
class AcceptedFinding:
    """A finding that was accepted on purpose, and why. title: of the first of its code."""

    code: str
    title: str
    reason: str


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run, as it was when it started.

    attempt: its number, from 1. first_step: the step it began with, 0-based: so many were done before.
    from_checkpoint: the folder it continued from, None when it began at the beginning. gpus_per_node: ranks
    on each node; where they differ one number for each, in order. hosts: by node. job_id: SLURM's, None
    without. started: ISO 8601, UTC. allowed: what it may do otherwise than the attempt before. accepted:
    what was found before it started and is accepted on purpose. crossfoot: the program's version. index_dir:
    absolute, where the data index was. checkpoint_attempt, checkpoint_plan: of the checkpoint's manifest,
    which attempt wrote it, and the sha256 of that one's lock; None without one. elastic_id: the id that
    torchrun gives to all restarts of one start, None without. command: the words that started it, up to the
    overrides; none when `crossfoot launch` did, which has them in its own files. matmul: how its ranks
    multiply float32 matrices, noted before the first step; None on GPUs and in 16 bits. base: of the weight
    files that it began with, as `weight_marks` gives them; none of a model that is built in. origins: by key
    of the config (dotted), who said its value: a place, "command line"; a key that is missing has its
    default. versions: of the libraries that decide what is computed, and of Python.
    """

    attempt: int
    first_step: int
    from_checkpoint: str | None
    world_size: int
    num_nodes: int
    gpus_per_node: GpusPerNode
    engine: str
    zero_stage: int | None
    hosts: tuple[str, ...]
    job_id: str | None
    started: str
    allowed: tuple[Change, ...] = ()
    accepted: tuple[AcceptedFinding, ...] = ()
    crossfoot: str = ""
    index_dir: str | None = None
    checkpoint_attempt: int | None = None
    checkpoint_plan: str | None = None
    elastic_id: str | None = None
    command: tuple[str, ...] = ()
    matmul: str | None = None
    base: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.from_checkpoint is not None and not is_checkpoint_name(self.from_checkpoint):
            raise ValueError(f"from_checkpoint is {self.from_checkpoint!r}, the name of no checkpoint")
        if not 1 <= self.world_size <= MOST_RANKS:
            raise ValueError(f"world_size is {self.world_size}, not 1 to {MOST_RANKS:,}")
        if self.attempt < 1 or self.first_step < 0:
            raise ValueError(f"attempt {self.attempt} cannot begin at step index {self.first_step}")
        if self.attempt == 1 and self.first_step:
            raise ValueError(f"the first attempt begins at step index 0, not {self.first_step}")
        if self.first_step and self.from_checkpoint is None:
            raise ValueError(f"it begins at step index {self.first_step}, and from no checkpoint")


def accepted_findings(findings: Iterable[Finding]) -> tuple[AcceptedFinding, ...]:
    """Those of the findings that are accepted, one a code, by code."""
    found: dict[str, AcceptedFinding] = {}
    for one in findings:
        if one.accepted is not None:
            found.setdefault(one.code, AcceptedFinding(one.code, one.title, one.accepted.reason))
    return tuple(found[code] for code in sorted(found))


def attempt_name(attempt: int) -> str:
    """Name of an attempt's folder below the run's: `attempt-001`."""
    return f"attempt-{attempt:03d}"


def attempt_numbers(run_dir: str) -> list[int]:
    """The numbers of all attempt folders in ascending order, of those too that never started."""
    try:
        names = os.listdir(run_dir)
    except OSError:
        return []
    found = (_NAME.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in found if match and match[0] == attempt_name(int(match[1])))


def next_attempt(run_dir: str) -> int:
    """The number of the attempt that may be claimed next: one more than the highest."""
    return max(attempt_numbers(run_dir), default=0) + 1


def later_attempt(run_dir: str, attempt: int) -> int | None:
    """An attempt after this one that has started; None before."""
    later = (number for number in attempt_numbers(run_dir) if number > attempt)
    return next((n for n in later if os.path.exists(attempt_path(run_dir, n, ATTEMPT_FILE))), None)


def attempt_path(run_dir: str, attempt: int, name: str = "") -> str:
    """Path of an attempt's folder, or of a file in it."""
    return os.path.join(run_dir, attempt_name(attempt), *([name] if name else []))


def lock_path(run_dir: str, attempt: int) -> str:
    """Where the lock of an attempt lies; of the first, where it has none of its own, the run's."""
    path = attempt_path(run_dir, attempt, LOCK_FILE)
    return os.path.join(run_dir, LOCK_FILE) if attempt == 1 and not os.path.exists(path) else path


def run_lock_path(run_dir: str) -> str:
    """Where the run's lock lies; where it has been lost, that of its first attempt, which is the same."""
    path = os.path.join(run_dir, LOCK_FILE)
    copies = (attempt_path(run_dir, number, LOCK_FILE) for number in attempt_numbers(run_dir))
    return path if os.path.exists(path) else next(filter(os.path.exists, copies), path)


def write_attempt(run_dir: str, attempt: Attempt) -> None:
    """Write attempt.json atomically into the attempt's folder: from then on it has started, and lines beyond
    its first step are lost. Everything else that belongs to its start is written before. Raises Refused.
    """
    path = attempt_path(run_dir, attempt.attempt, ATTEMPT_FILE)
    write_document(path, {"format": ATTEMPT_FORMAT, **asdict(attempt)})


def note_matmul(run_dir: str, attempt: int, matmul: str) -> None:
    """Add to an attempt's record what its ranks decided after it had started. Raises Refused."""
    known = _read_attempt(attempt_path(run_dir, attempt, ATTEMPT_FILE), attempt)
    write_attempt(run_dir, replace(known, matmul=matmul))


def read_attempts(run_dir: str, trained: Collection[int] = ()) -> tuple[Attempt, ...]:
    """Every attempt that has started, in order. trained: numbers of attempts that the ledger has lines of.

    A folder without attempt.json was claimed and never started: it is passed over, unless it trained. The
    first attempt of a run that has no other needs none: it began with the first step. Raises Refused (CF742,
    unreadable) with all that are damaged or missing.
    """
    attempts: list[Attempt] = []
    findings: list[Finding] = []
    numbers = sorted({*attempt_numbers(run_dir), *trained})
    for number in numbers:
        path = attempt_path(run_dir, number, ATTEMPT_FILE)
        if os.path.exists(path):
            try:
                attempts.append(_read_attempt(path, number))
            except Refused as refused:
                findings.extend(refused.findings)
        elif number in trained and set(trained) != {1}:
            note = f"the ledger has lines of attempt {number}"
            findings.append(attempt_unreadable("an attempt's record is not here", Place(path), (note,)))
    if findings:
        raise Refused(findings)
    return tuple(attempts)


class LiveLines:
    """Which lines count, when these attempts have started. Attempts that it does not know lose nothing."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        self._numbers: list[int] = []
        self._limits: list[int] = []
        for attempt in sorted(attempts, key=lambda attempt: attempt.attempt, reverse=True):
            nearest = self._limits[-1] if self._limits else attempt.first_step
            self._numbers.append(attempt.attempt)
            self._limits.append(min(nearest, attempt.first_step))
        self._numbers.reverse()
        self._limits.reverse()

    def limit(self, attempt: int) -> int | None:
        """The first step whose line of this attempt is lost; None when all its lines count."""
        later = bisect_right(self._numbers, attempt)
        return self._limits[later] if later < len(self._limits) else None

    def counts(self, entry: StepEntry) -> bool:
        """Whether a line still counts."""
        limit = self.limit(entry.attempt)
        return limit is None or entry.step < limit


def counted(
    entries: Iterable[StepEntry], attempts: Iterable[Attempt]
) -> tuple[list[StepEntry], list[StepEntry]]:
    """(counted lines, lost lines), each in file order."""
    live_lines = LiveLines(attempts)
    count: list[StepEntry] = []
    lost: list[StepEntry] = []
    for entry in entries:
        (count if live_lines.counts(entry) else lost).append(entry)
    return count, lost


def vouched_steps(entries: Iterable[StepEntry], attempts: Iterable[Attempt]) -> int:
    """The largest n such that each of the steps 0 to n - 1 has a counted line: a run may be continued from a
    checkpoint of at most so many steps.
    """
    seen = {entry.step for entry in counted(entries, attempts)[0]}
    step = 0
    while step in seen:
        step += 1
    return step


def continue_from(
    lines: BookLines, attempts: Iterable[Attempt], checkpoint_steps: Iterable[int], path: str
) -> tuple[int, Finding | None]:
    """(first step of the next attempt, a warning when the newest checkpoint cannot be it): the newest of the
    checkpoints, given by their steps, that the ledger vouches for; 0 without one.

    lines: from `read_readable`. path: of the ledger. Raises Refused (CF704) when a damaged line stands before
    the last one of the newest checkpoint: no crash does that.
    """
    vouched = vouched_steps(lines, attempts)
    steps = sorted(checkpoint_steps, reverse=True)
    first_step = next((step for step in steps if step <= vouched), 0)
    if not steps or steps[0] <= vouched:
        return first_step, None
    if lines.damage:
        raise Refused(lines.damage)
    return first_step, checkpoint_ahead(path, steps[0], vouched, first_step)


def _read_attempt(path: str, number: int) -> Attempt:
    attempt = read_paper(path, Attempt, ATTEMPT_FORMAT, attempt_unreadable, "an attempt's record")
    if attempt.attempt != number:
        title, note = "an attempt's record cannot be read", f"it is of attempt {attempt.attempt}"
        raise Refused(attempt_unreadable(title, Place(path), (note,)))
    return attempt
