"""Submits a batch script to SLURM, follows its log, and says how the run ended."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossfoot import durable
from crossfoot.documents import Malformed, read_object, value_of
from crossfoot.findings.finding import Refused
from crossfoot.launch import findings
from crossfoot.launch.job import Job, Rendered
from crossfoot.launch.outcome import Outcome, outcome_of, wait_for_word
from crossfoot.launch.slurm import log_path
from crossfoot.launch.slurm_says import ENDED, QueueState, refusal_of
from crossfoot.output import tell
from crossfoot.runs.attempts import attempt_numbers
from crossfoot.runs.resume_command import LAUNCH_FOLDER
from crossfoot.shell_words import quoted_path

LOOK_SECONDS = 2.0
ENDING_SECONDS = 180.0
"""So long a job may take to end after it was cancelled: its ranks write a checkpoint."""
_ASK_SECONDS = 60.0
_SUBMITTED = "submitted.json"
_SURE_LOOKS = 2
"""A job that is being queued again may be missing from one look."""


@dataclass(frozen=True)
class Said:
    """What a program of SLURM's answered."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        """Everything that it printed."""
        return "\n".join(part.strip() for part in (self.err, self.out) if part.strip())


@dataclass(frozen=True)
class _Submitted:
    """The note on the job that was submitted last."""

    job_id: str


def ask(*command: str, given: str = "") -> Said:
    """Run one of SLURM's programs. given: what it reads. One that hangs has said nothing."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASK_SECONDS,
            input=given,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Said(124, "", f"no answer within {_ASK_SECONDS:.0f} s")
    return Said(done.returncode, done.stdout, done.stderr)


def refuse_impossible(rendered: Rendered, job: Job) -> None:
    """Ask SLURM whether it would take the job, and whether one for this run is still queued. Raises
    Refused.
    """
    earlier = submitted_job(job.run_dir)
    if earlier is not None:
        state = _settled(earlier)
        if state is not None and state.state not in ENDED:
            raise Refused(findings.job_still_queued(earlier, state.state, job.run_dir))
    said = ask("sbatch", "--test-only", given=rendered.files[0][1])
    if said.code:
        raise Refused(refusal_of(said.all, job))


def _settled(job_id: str) -> QueueState | None:
    """What squeue says of a job; one that is ending, ranks perhaps still saving, is waited for a while."""
    deadline, said = time.monotonic() + ENDING_SECONDS, False
    while (state := look(job_id)) is not None and state.state == "COMPLETING":
        if time.monotonic() > deadline:
            return state
        if not said:
            tell(f"job {job_id} of this run is ending; waiting for it ...")
            said = True
        time.sleep(LOOK_SECONDS)
    return state


def submit(rendered: Rendered, job: Job) -> str:
    """Submit the batch script. Returns the job's id. Raises Refused."""
    said = ask(*rendered.command)
    job_id = said.out.strip().splitlines()[-1].partition(";")[0].strip() if said.out.strip() else ""
    if said.code or not job_id.isdecimal():
        raise Refused(refusal_of(said.all, job))
    note = {"job_id": job_id, "script": rendered.files[0][0]}
    durable.replace(Path(job.run_dir, LAUNCH_FOLDER, _SUBMITTED), json.dumps(note) + "\n")
    return job_id


def advice(job_id: str, run_dir: str) -> str:
    """How to follow a job, and how to end it."""
    log, folder = quoted_path(log_path(run_dir, job_id)), quoted_path(run_dir)
    return f"follow it with: tail -F {log}   or   crossfoot watch {folder}\ncancel it with: scancel {job_id}"


def follow(job_id: str, job: Job, before: Sequence[int]) -> Outcome:
    """Print the job's log as it grows, and why it waits while it does, until it has ended.

    Ctrl-C asks whether to cancel it; the job runs on unless that is said.
    """
    log = Tail(log_path(job.run_dir, job_id))
    try:
        _until_it_ends(job_id, log)
    except KeyboardInterrupt:
        return _interrupted(job_id, job.run_dir)
    wait_for_word(job.run_dir, before)
    state, reason, code = final_state(job_id)
    outcome = outcome_of(job.run_dir, before, code, starter=f"job {job_id}")
    if [finding.code for finding in outcome.findings] == ["CF489"]:
        began = any(number not in before for number in attempt_numbers(job.run_dir))
        finding = findings.job_ended(job_id, state, reason, log.path, began)
        return Outcome(outcome.exit_code, (finding,))
    return outcome


def look(job_id: str) -> QueueState | None:
    """What squeue says of a job; None when it is not in the queue. Raises Refused when SLURM is silent."""
    said = ask("squeue", "--noheader", "--jobs", job_id, "--format", "%T|%r")
    if said.code:
        if "invalid job id" in said.all.lower():
            return None
        raise Refused(findings.slurm_silent("squeue", said.all))
    lines = [line for line in said.out.splitlines() if line.strip()]
    if not lines:
        return None
    state, _, reason = lines[0].strip().partition("|")
    return QueueState(state.strip(), reason.strip())


def final_state(job_id: str) -> tuple[str, str, int]:
    """(state, reason, exit code) of a job that has ended, as far as the controller still knows it."""
    said = ask("scontrol", "--oneliner", "show", "job", job_id)
    told = dict(re.findall(r"(\w+)=(\S+)", said.out))
    code, _, number = told.get("ExitCode", "1:0").partition(":")
    returncode = int(code) if code.isdecimal() else 1
    if number.isdecimal() and int(number):
        returncode = -int(number)
    reason = told.get("Reason", "")
    return told.get("JobState", "unknown"), "" if reason == "None" else reason, returncode


class Tail:
    """A file that grows, printed as it does."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._shown_bytes = 0

    def show(self) -> None:
        """Print what was added since the last time."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._shown_bytes)
                added = file.read()
        except FileNotFoundError:
            return
        self._shown_bytes += len(added)
        sys.stdout.write(added.decode("utf-8", errors="replace"))
        sys.stdout.flush()


def _until_it_ends(job_id: str, log: Tail) -> None:
    told, absent, was_silent = "", 0, False
    while absent < _SURE_LOOKS:
        try:
            state = look(job_id)
        except Refused as refused:
            if not was_silent:
                tell(f"{refused.findings[0].title}; asking again ...")
            was_silent = True
            time.sleep(LOOK_SECONDS)
            continue
        was_silent = False
        log.show()
        if state is not None and state.state in ENDED:
            return
        absent = 0 if state is not None else absent + 1
        if state is not None:
            words = state.in_words(job_id) if state.is_pending else f"job {job_id} is {state.state.lower()}"
            if words != told:
                tell(words)
                told = words
        time.sleep(LOOK_SECONDS)
    log.show()


def _interrupted(job_id: str, run_dir: str) -> Outcome:
    answer = ""
    if sys.stdin.isatty():
        try:
            tell(f"\ncancel job {job_id}, or leave it running? [c/L] ", end="")
            answer = sys.stdin.readline().strip().lower()
        except KeyboardInterrupt:
            answer = ""
    if answer.startswith("c"):
        said = ask("scancel", job_id)
        tell(f"job {job_id} is cancelled" if not said.code else f"scancel says: {said.all}")
    else:
        tell(f"job {job_id} runs on\n{advice(job_id, run_dir)}")
    return Outcome(130)


def submitted_job(run_dir: str) -> str | None:
    """The id of the job that `crossfoot launch` submitted last for this run folder."""
    try:
        job_id = value_of(_Submitted, read_object(Path(run_dir, LAUNCH_FOLDER, _SUBMITTED))).job_id
    except (OSError, Malformed):
        return None
    return job_id if job_id.isascii() and job_id.isdecimal() else None
