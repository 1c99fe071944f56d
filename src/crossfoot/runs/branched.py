"""Where a run branched off another one: its own folder begins with a copy of that one's past."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from crossfoot.ledger.findings import attempt_unreadable
from crossfoot.phrases import after_steps, counted
from crossfoot.runs.ending import read_paper, write_document

BRANCH_FILE = "branch.json"
BRANCH_FORMAT = 1


@dataclass(frozen=True)
class Branched:
    """Off which run, and where. run_dir: that one's folder, absolute, as it was then. name: of that run.
    step: optimizer steps that both have in common; samples: trained in them. attempt: the last one that was
    copied; written: when it wrote the checkpoint, ISO 8601. allow: keys that the branch may change.
    """

    run_dir: str
    name: str
    step: int
    samples: int
    attempt: int
    written: str
    allow: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """`branched off long after 3 steps, 12 samples (/home/me/runs/long)`."""
        trained = counted(self.samples, "sample")
        return f"branched off {self.name} {after_steps(self.step)}, {trained} ({self.run_dir})"


def read_branch(run_dir: str) -> Branched | None:
    """None for a run that began with its first step. Raises Refused (CF742)."""
    path = os.path.join(run_dir, BRANCH_FILE)
    if not os.path.exists(path):
        return None
    return read_paper(path, Branched, BRANCH_FORMAT, attempt_unreadable, "the record of a branch")


def write_branch(run_dir: str, branch: Branched) -> None:
    """Raises Refused when the disk does not take it."""
    write_document(os.path.join(run_dir, BRANCH_FILE), {"format": BRANCH_FORMAT, **asdict(branch)})
