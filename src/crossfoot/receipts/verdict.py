"""What a receipt says: the rows, the causes, and how many steps were attempted, lost, skipped and applied."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from crossfoot.ledger.entry import Cause, NotFinite, strict
from crossfoot.receipts.cause_summary import CauseSummary
from crossfoot.receipts.columns import Row
from crossfoot.runs.branched import Branched

RECEIPT_FORMAT = 2


@dataclass(frozen=True)
class AttemptRow:
    """One attempt as the receipt tells it. steps: lines it wrote; lost: how many of them do not count.
    checkpoint_: who wrote what it began from, and by the lock of which sha256.
    """

    attempt: int
    first_step: int
    from_checkpoint: str | None
    steps: int
    lost: int
    world_size: int
    engine: str
    zero_stage: int | None
    lock: str
    reason: str | None
    checkpoint_attempt: int | None = None
    checkpoint_plan: str | None = None


@dataclass(frozen=True)
class Skips:
    """Steps whose update was left out on purpose. why: a key of SKIPS. samples: seen, not learned from."""

    why: str
    steps: int
    samples: int


@dataclass(frozen=True)
class Unlearned:
    """What was NaN or infinite in a skipped step."""

    step: int
    found: NotFinite


@dataclass(frozen=True)
class Allowed:
    """A value that an attempt with counted lines was allowed to change."""

    attempt: int
    key: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Accepted:
    """A finding that was accepted before attempts with counted lines. attempts: which."""

    code: str
    title: str
    reason: str
    attempts: tuple[int, ...]


@dataclass(frozen=True)
class Receipt:
    """What a run was planned to do and what it did, over all its attempts.

    foots: everything that was asked for was done, every row's difference is 0 and there is no cause.
    complete: every step asked for has its line. foots_so_far: the steps that were done are as planned, be the
    run complete or not. asked_steps: N of a run stopped on purpose (the rows are its first N steps), else
    total_steps. done_steps: different steps with a line that counts. reason: of the ending, None without one.
    evaluation: what the weights at its end score, in words. result_missing: why what a complete run trained
    is not saved, None when it is. causes: the first 1,000; cause_count: all; summary: what they come to, by
    kind. notes: what is worth knowing and no fault, such as a torn last line. attempts: how many have
    started. Each line of the ledger is one of attempted_steps = lost_steps + counted lines, and those are
    applied_steps + skipped_steps, when it foots. is_regained: every lost step has a line that counts by now.
    retried: tries at those counted steps that were thrown away for a lower loss scale, on top; a step counts
    once, however often it was tried. not_finite: what was NaN or infinite in the first steps that were
    skipped for it. seconds and pause_seconds: spent in steps, and standing still for checkpoints, lost lines
    too. sha: of the first lock. branch: off which run this one branched; the attempts until then are that
    one's.
    """

    name: str
    sha: str
    foots: bool
    complete: bool
    foots_so_far: bool
    asked_steps: int
    total_steps: int
    done_steps: int
    reason: str | None
    rows: tuple[Row, ...]
    causes: tuple[Cause, ...]
    cause_count: int
    summary: tuple[CauseSummary, ...]
    notes: tuple[str, ...] = ()
    validation_loss: float | None = None
    evaluation: str | None = None
    saved_path: str | None = None
    result_missing: str | None = None
    attempts: int = 1
    attempted_steps: int = 0
    lost_steps: int = 0
    is_regained: bool = False
    applied_steps: int = 0
    skipped_steps: int = 0
    skips: tuple[Skips, ...] = ()
    retried: int = 0
    pause_seconds: float = 0.0
    seconds: float = 0.0
    not_finite: tuple[Unlearned, ...] = ()
    allowed: tuple[Allowed, ...] = ()
    accepted: tuple[Accepted, ...] = ()
    history: tuple[AttemptRow, ...] = ()
    branch: Branched | None = None

    @property
    def exit_code(self) -> int:
        """0 when it foots, else 3 (a run that was stopped before its end has its own code: 75 or 130)."""
        return 0 if self.foots else 3

    def to_json(self) -> dict[str, Any]:
        """The document of `receipt.json`."""
        document = {"format": RECEIPT_FORMAT, **asdict(self)}
        document["rows"] = [{**asdict(row), "difference": row.difference} for row in self.rows]
        for one in document["not_finite"]:
            one["found"]["value"] = strict(one["found"]["value"])
        document["causes"] = [cause.to_json() for cause in self.causes]
        return document
