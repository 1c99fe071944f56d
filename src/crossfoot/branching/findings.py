"""What can be wrong with a branch: one function, one code, and its docstring is the page."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs


@rule_docs("CF120", name="no-branch-point")
def no_branch_point(title: str, *helps: str, notes: Sequence[str] = (), unreadable: bool = False) -> Finding:
    """CF120: no run can branch off where it was said.

    Where a run branches off is RUN_DIR@STEP: `runs/long@300` is the run in `runs/long` after 300 steps, whose
    checkpoint lies in `checkpoints/step-000300`. The branch takes over the ledger's lines of these steps, and
    its receipt covers them: where they are missing, or not as they were planned, it could never foot. An
    earlier checkpoint may be good.
    """
    return Finding("CF120", title, notes=tuple(notes), helps=helps, unreadable=unreadable)
