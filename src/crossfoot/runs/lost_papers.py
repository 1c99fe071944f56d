"""The papers of earlier attempts that the receipt at the end cannot be made without: looked at before a run
goes on, so that nothing is trained in vain.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.ledger.findings import attempt_unreadable
from crossfoot.runs.attempts import (
    ATTEMPT_FILE,
    ENDING_FILE,
    Attempt,
    attempt_numbers,
    attempt_path,
    lock_path,
    run_lock_path,
)
from crossfoot.runs.ending import read_ending, read_lock
from crossfoot.shell_words import quoted_path


def refuse_lost_papers(run_dir: str, attempts: Sequence[Attempt], trained: Collection[int]) -> None:
    """Refused for what is lost or damaged of the attempts that started. trained: numbers of attempts that the
    ledger has lines of.
    """
    findings: list[Finding] = []
    export = f"what was trained is in its checkpoints still: crossfoot export {quoted_path(run_dir)} OUT"
    for number in sorted(set(trained) - {attempt.attempt for attempt in attempts}):
        notes = (f"the ledger has lines of attempt {number}", export)
        place = Place(attempt_path(run_dir, number, ATTEMPT_FILE))
        findings.append(attempt_unreadable("an attempt's record is not here", place, notes))
    own = [lock_path(run_dir, attempt.attempt) for attempt in attempts]
    run_lock = run_lock_path(run_dir)
    locks = [run_lock, *own] if attempts or os.path.exists(run_lock) else []
    endings = [attempt_path(run_dir, number, ENDING_FILE) for number in attempt_numbers(run_dir)]
    for read, paths in ((read_lock, dict.fromkeys(locks)), (read_ending, endings)):
        for path in paths:
            try:
                read(path)
            except Refused as refused:
                findings += refused.findings
    if findings:
        raise Refused(findings)
