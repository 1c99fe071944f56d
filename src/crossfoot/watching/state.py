"""What is known of a run at one moment, in a form to be shown. Steps are counted as done: "12" means that the
steps 0 to 11 are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crossfoot.findings.finding import Finding
from crossfoot.ledger.entry import Cause, StepEntry
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.attempts import Attempt
from crossfoot.runs.branched import Branched
from crossfoot.runs.ending import Ending
from crossfoot.runs.evaluations import RunEvaluation
from crossfoot.runs.noise_scale import RunNoise
from crossfoot.runs.validations import Validation

SPEED_STEPS = 20
"""Speeds and the time left are measured over so many of the last steps."""


@dataclass(frozen=True)
class Speed:
    """Means over the last steps of the newest attempt, over all ranks. padding: share of the token slots."""

    step_seconds: float
    trained_tokens: float
    real_tokens: float
    samples: float
    padding: float


@dataclass(frozen=True)
class AttemptView:
    """One attempt. attempt: how it began, None when it has only claimed its folder. written: its lines; lost:
    those that do not count; both None while the ledger is still being read. how: how it ended or that it
    runs: a reason of an ending, a status of the run, "killed", "rank lost" or "given up". why: what its ranks
    said of that last, "" without.
    """

    number: int
    attempt: Attempt | None
    how: str
    why: str = ""
    written: int | None = None
    lost: int | None = None


@dataclass(frozen=True)
class SavedView:
    """The newest checkpoint. age_seconds: since it was written, by the clock of this host."""

    step: int
    age_seconds: float | None
    seconds: float
    total_bytes: int


@dataclass(frozen=True)
class UnfinishedView:
    """A save that is being written, or was cut off. is_current: of the attempt that runs."""

    step: int
    attempt: int
    is_current: bool


@dataclass(frozen=True)
class RankView:
    """One rank's heartbeat. host "" and age None: it has never been seen. where: the function that it stands
    still in, "" when it moves.
    """

    rank: int
    host: str
    phase: str
    step: int
    age_seconds: float | None
    is_silent: bool
    where: str = ""

    @property
    def who(self) -> str:
        """`rank 1 on node2`."""
        return f"rank {self.rank} on {self.host}" if self.host else f"rank {self.rank}"


@dataclass(frozen=True)
class Footed:
    """Whether it foots so far. foots None: it is still being added up, `share` of the ledger so far.
    skipped: steps whose update was left out on purpose, as far as they are added up.

    findings: why nothing can be said, such as a damaged line. receipt: of a run that has ended.
    """

    foots: bool | None
    share: float = 1.0
    causes: tuple[Cause, ...] = ()
    cause_count: int = 0
    findings: tuple[Finding, ...] = ()
    receipt: Receipt | None = None
    skipped: int = 0


@dataclass(frozen=True)
class RunState:
    """A run as its files show it.

    status: one of starting, running, silent (no sign of life), killed (it has not ended, and its processes
    are gone), ended. ended_at: when that was, by the clock of this host; "" of a run that goes on.
    done_steps: with a line that counts, or done before the last attempt began. asked_steps: None while there
    is no plan to be read. recent: the last lines that count, oldest first. ending: of the last attempt.
    silent_seconds: since the last sign of life. branch: off which run it branched. noise: None of a run that
    does not measure it.
    """

    run_dir: str
    name: str
    sha: str
    status: str
    done_steps: int
    asked_steps: int | None
    recent: tuple[StepEntry, ...]
    attempts: tuple[AttemptView, ...]
    saved: SavedView | None
    unfinished: tuple[UnfinishedView, ...]
    validation: Validation | None
    best_validation: Validation | None
    evaluation: RunEvaluation | None
    ranks: tuple[RankView, ...]
    ending: Ending | None
    silent_seconds: float
    footed: Footed
    ended_at: str = ""
    branch: Branched | None = None
    noise: RunNoise | None = None

    @property
    def result_missing(self) -> str:
        """What a run that has trained all its steps has not handed over; "" when nothing is missing."""
        if self.footed.receipt is not None and self.status == "ended":
            return self.footed.receipt.result_missing or ""
        is_done = self.asked_steps is not None and self.done_steps >= self.asked_steps
        return (
            "all steps are done, and the end of the run is not"
            if is_done and self.status in ("silent", "killed")
            else ""
        )

    @property
    def last(self) -> StepEntry | None:
        """The last line that counts."""
        return self.recent[-1] if self.recent else None

    @property
    def silent_ranks(self) -> tuple[RankView, ...]:
        """Those that give no sign of life, while others do."""
        return tuple(rank for rank in self.ranks if rank.is_silent)

    @property
    def is_stopped(self) -> bool:
        """Whether it ended by a signal and what was done is in order: it waits to be continued."""
        by_signal = self.ending is not None and self.ending.reason in (
            "signal",
            "orphaned",
            "interrupt",
        )
        return self.status == "ended" and by_signal and self.footed.foots is True

    @property
    def left_seconds(self) -> float | None:
        """Estimate of the time left, None when there is nothing to estimate it from."""
        speed = speed_of(self.recent)
        if speed is None or self.asked_steps is None or self.status != "running":
            return None
        return max(0, self.asked_steps - self.done_steps) * speed.step_seconds

    @property
    def exit_code(self) -> int:
        """2: nothing can be said. 3: it does not foot; of a run that has ended: as a whole. Else 0."""
        if self.footed.findings:
            return 2
        if self.footed.receipt is not None and self.status == "ended":
            return 0 if self.footed.receipt.foots or self.is_stopped else 3
        return 3 if self.footed.foots is False else 0


def speed_of(recent: Sequence[StepEntry]) -> Speed | None:
    """How fast the last steps were; None without any."""
    newest = max((entry.attempt for entry in recent), default=0)
    entries = [entry for entry in recent if entry.attempt == newest][-SPEED_STEPS:]
    seconds = sum(entry.seconds for entry in entries)
    if not entries or not seconds > 0 or not math.isfinite(seconds):
        return None
    real, slots = sum(entry.real_tokens for entry in entries), sum(entry.token_slots for entry in entries)
    return Speed(
        step_seconds=seconds / len(entries),
        trained_tokens=sum(entry.trained_tokens for entry in entries) / seconds,
        real_tokens=real / seconds,
        samples=sum(entry.real_samples for entry in entries) / seconds,
        padding=1 - real / slots if slots else 0.0,
    )
