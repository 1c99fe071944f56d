"""How a run ended, whatever its launcher says: the exit code of the contract.

torchrun and accelerate make 1 of every code of a rank; deepspeed's command ends with 0 when the part of it
that starts the ranks was killed. What rank 0 has written at its end is the witness.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from crossfoot.findings.finding import Finding, Refused
from crossfoot.launch.findings import ended_unsaid
from crossfoot.liveness.verdicts import read_verdict
from crossfoot.receipts.index_check import held_against_index
from crossfoot.receipts.receipt import receipt_of_run
from crossfoot.runs.attempts import ENDING_FILE, attempt_numbers, attempt_path
from crossfoot.runs.ending import read_ending
from crossfoot.runs.reader import read_run

_OWN_CODES = (1, 2, 75, 130)
"""What a rank may end with before it has written anything."""

WORD_SECONDS = 15.0
"""Rank 0 may be on another machine, be out after a launcher here, and its file may show late."""
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """exit_code: of the contract. findings: what is to be said besides all that the ranks have said."""

    exit_code: int
    findings: tuple[Finding, ...] = ()


def outcome_of(
    run_dir: str, before: Sequence[int], returncode: int, asked: int | None = None, starter: str = "launcher"
) -> Outcome:
    """What became of a start. before: the attempts that were there already. returncode: of the launcher,
    negative for a signal. asked: the first signal that was handed on to the ranks.
    """
    new = _since(run_dir, before)
    # Without a new attempt and without a fault the ranks found the run finished (CF755).
    judged = new or (before if returncode == 0 and asked is None else ())
    try:
        ending = read_ending(attempt_path(run_dir, judged[-1], ENDING_FILE)) if judged else None
        if ending is not None and (new or not ending.exit_code):
            return Outcome(ending.exit_code or _code_of_receipt(run_dir))
    except Refused as refused:
        return Outcome(1, refused.findings)
    how = f"the {starter} ended {ended_with(returncode)}"
    if new:
        is_said = read_verdict(run_dir, new[-1]) is not None  # a rank was lost, and the others said which
        return Outcome(1, () if is_said else (ended_unsaid(how, run_dir),))
    if asked is not None:
        return Outcome(130 if asked == signal.SIGINT else 75)
    if returncode in _OWN_CODES:
        return Outcome(returncode)
    return Outcome(1, (ended_unsaid(how, run_dir, ("no rank has begun",)),))


def _code_of_receipt(run_dir: str) -> int:
    """As `crossfoot receipt` ends. Raises Refused."""
    run = read_run(run_dir)
    return held_against_index(receipt_of_run(run), run).exit_code


def wait_for_word(run_dir: str, before: Sequence[int]) -> None:
    """Wait a little until the newest attempt, if one has begun, has written how it ended, or who is lost."""
    deadline = time.monotonic() + WORD_SECONDS
    while time.monotonic() < deadline:
        new = _since(run_dir, before)
        if not new or os.path.exists(attempt_path(run_dir, new[-1], ENDING_FILE)):
            return
        if read_verdict(run_dir, new[-1]) is not None:
            return
        time.sleep(_LOOK_SECONDS)


def _since(run_dir: str, before: Sequence[int]) -> list[int]:
    """The attempts that have come since then."""
    return [number for number in attempt_numbers(run_dir) if number not in before]


def ended_with(returncode: int) -> str:
    """`with exit code 1`, `by SIGKILL`."""
    number = -returncode if returncode < 0 else returncode - 128
    if returncode < 0 or returncode > 128:
        try:
            return f"by {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"with exit code {returncode}"
