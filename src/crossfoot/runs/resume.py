"""What the earlier attempts at a run left, and the start of the next one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from crossfoot.arithmetic.rate import RatePlan
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.checkpoints.findings import damaged, from_the_beginning, no_checkpoint
from crossfoot.checkpoints.manifest import Damaged, verify_content
from crossfoot.checkpoints.store import Checkpoint, is_checkpoint_name, list_checkpoints, newest_good
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.ledger.book import BookLines, read_readable
from crossfoot.ledger.entry import StepEntry
from crossfoot.ledger.findings import lock_unreadable
from crossfoot.ledger.matching import Uint64Array
from crossfoot.phrases import counted as with_noun
from crossfoot.runs.attempts import (
    ENDING_FILE,
    LEDGER_FILE,
    LOCK_FILE,
    RECEIPT_FILE,
    Attempt,
    Change,
    attempt_path,
    continue_from,
    counted,
    lock_path,
    next_attempt,
    read_attempts,
    run_lock_path,
    write_attempt,
)
from crossfoot.runs.branched import read_branch
from crossfoot.runs.ending import AS_WISHED, Ending, read_ending, read_lock, write_document
from crossfoot.runs.lost_papers import refuse_lost_papers
from crossfoot.runs.nearby import is_run, runs_near
from crossfoot.runs.past import hold_plan, past_of
from crossfoot.runs.restarts import AUTO
from crossfoot.runs.result import missing_result
from crossfoot.runs.resume_command import resume_command
from crossfoot.runs.run_folder import refuse_links
from crossfoot.shell_words import joined, path_word, quoted_path
from crossfoot.written.overriding import another_run_dir
from crossfoot.written.run_file import RunFile


@rule_docs("CF747")
def nothing_to_continue(
    run: RunFile, fact: str, helps: tuple[str, ...], notes: tuple[str, ...] = ()
) -> Finding:
    """CF747: --continue was asked for, and there is nothing to go on with.

    The folder holds no run, or more steps are trained than were asked for, or all steps are trained and no
    checkpoint holds their weights, from which the end of the run could be done again. Name the run folder
    itself (those nearby are named); `--continue auto` begins where there is no run. A finished run
    can be made longer on purpose: a larger train.epochs or train.max_steps, and `--allow` with that key.
    """
    title = f"there is nothing to continue in {run.run_dir}: {fact}"
    return Finding("CF747", title, notes=notes, helps=helps)


@rule_docs("CF755", "note", name="already-finished")
def already_finished(run: RunFile, step: int) -> Finding:
    """CF755: the command was to begin the run or to go on with it, and the run is finished.

    All steps that were asked for are trained, and adapter (or model) and receipt are saved. That is no fault
    for a command that is repeated until it succeeds, so the exit code is 0, and nothing is trained or
    written. `--continue RUN_DIR` does the end of such a run again, when a checkpoint holds its weights.
    """
    return Finding(
        "CF755",
        f"nothing is left to do in {run.run_dir}: {with_noun(step, 'step')} trained, and the result is saved",
        severity="note",
        helps=(f"read it: crossfoot receipt {quoted_path(run.run_dir)}",),
    )


@dataclass(frozen=True)
class PreviousAttempts:
    """What the earlier attempts at a run left.

    attempts: those that started. lines: the ledger's, as far as they can be read (`continue_from` judges the
    rest). attempt: the number to claim next. ending: of the last attempt, None when it was killed.
    """

    attempts: tuple[Attempt, ...]
    lines: BookLines
    attempt: int
    ending: Ending | None

    @cached_property
    def counted(self) -> list[StepEntry]:
        """The lines that count, in file order."""
        return counted(self.lines, self.attempts)[0]


@dataclass(frozen=True)
class ResumePoint:
    """Where an attempt begins, the same on all ranks.

    attempt: its number. first_step: so many steps of the plan are done. checkpoint: the name of the folder
    that it goes on from, None at the beginning. checkpoint_attempt, checkpoint_plan: who wrote it, by which
    lock's sha256.
    """

    attempt: int = 1
    first_step: int = 0
    checkpoint: str | None = None
    checkpoint_attempt: int | None = None
    checkpoint_plan: str | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is not None and not is_checkpoint_name(self.checkpoint):
            raise ValueError(f"{self.checkpoint!r} is the name of no checkpoint")


NEW_RUN = ResumePoint()


@dataclass(frozen=True)
class Resumed:
    """A run that is continued. findings: warnings; allowed: what was changed on purpose."""

    resume_point: ResumePoint
    previous_attempts: PreviousAttempts
    allowed: tuple[Change, ...]
    findings: tuple[Finding, ...]


def resume_run(
    run: RunFile,
    previous_attempts: PreviousAttempts,
    lock: Mapping[str, Any],
    schedule: Schedule,
    rate: RatePlan,
    digests: Uint64Array,
    allow: Sequence[str],
    steps: int,
    *,
    is_repeated: bool = False,
) -> Resumed:
    """Choose the checkpoint to go on from, and hold the new plan against the old one.

    previous_attempts: from `read_previous_attempts`. lock, schedule, rate, digests (uint64[N], of the index):
    of the new plan. allow: keys that may change. steps: to be done at the end of this attempt, over all
    attempts; as many as are done: only the end of the run is done again. is_repeated: the same command may
    find its run finished, and that is no fault (CF755). Every byte of the checkpoint is read; nothing is
    written. Raises Refused.
    """
    checkpoint, findings = choose_checkpoint(run, previous_attempts)
    first_step = checkpoint.step if checkpoint is not None else 0
    before = lock_in_force(run, previous_attempts, first_step)
    allowed: tuple[Change, ...] = ()
    if before is not None:
        branch = read_branch(run.run_dir)
        is_branch = branch is not None and before[0] <= branch.attempt
        past = past_of(*before, previous_attempts.counted, first_step, is_branch=is_branch)
        allow = [*allow, *(branch.allow if branch is not None and is_branch else ())]
        allowed = hold_plan(run, past, lock, schedule, rate, digests, allow)
    refuse_finished(run, previous_attempts, first_step, steps, is_repeated=is_repeated)
    resume_point = ResumePoint(previous_attempts.attempt, first_step)
    if checkpoint is not None:
        manifest = checkpoint.manifest
        resume_point = replace(
            resume_point,
            checkpoint=checkpoint.name,
            checkpoint_attempt=manifest.attempt,
            checkpoint_plan=manifest.plan_sha256,
        )
    return Resumed(resume_point, previous_attempts, allowed, tuple(findings))


def choose_checkpoint(
    run: RunFile, previous_attempts: PreviousAttempts
) -> tuple[Checkpoint | None, list[Finding]]:
    """The newest checkpoint whose every byte is as it was written and whose steps the ledger vouches for,
    with a warning for each one passed over; None when none was ever finished.

    Raises Refused: there were some, and none is good (CF760); the ledger is damaged before it (CF704).
    """
    known_bad = of_another_run(run.run_dir)
    while True:
        newest, warnings = newest_good(run.run_dir, checksums=True, known_bad=known_bad)
        findings = list(warnings)
        if newest is None:
            if any(finding.code == "CF761" for finding in findings):
                raise Refused([no_checkpoint(run.run_dir), *findings])
            done = len(previous_attempts.counted)
            return None, [*findings, from_the_beginning(run.run_dir, done)] if done else findings
        good = [one for one in list_checkpoints(run.run_dir) if one.name not in known_bad]
        steps = [one.step for one in good if one.step <= newest.step]
        ledger = os.path.join(run.run_dir, LEDGER_FILE)
        first_step, ahead = continue_from(previous_attempts.lines, previous_attempts.attempts, steps, ledger)
        if ahead is None:
            return newest, findings
        findings.append(ahead)
        older = next((one for one in good if one.step == first_step), None)
        used = older.name if older is not None else None
        findings += [
            damaged(str(one.folder), known_bad[one.name], used)
            for one in list_checkpoints(run.run_dir)
            if one.name in known_bad and first_step < one.step < newest.step
        ]
        if older is None:
            return None, findings
        try:
            verify_content(older.folder, older.manifest.files)
        except Damaged as damage:
            known_bad[older.name] = str(damage)
            continue
        return older, findings


def of_another_run(run_dir: str) -> dict[str, str]:
    """The checkpoints that no attempt at this run wrote: name -> what tells. Raises Refused for a lock that
    cannot be read.
    """
    foreign = {}
    for checkpoint in list_checkpoints(run_dir):
        manifest = checkpoint.manifest
        path = lock_path(run_dir, manifest.attempt)
        lock = read_lock(path) if os.path.exists(path) else None
        if lock is None:
            foreign[checkpoint.name] = f"this run has no attempt {manifest.attempt}, which wrote it"
        elif (lock["sha256"], lock["plan"]["batches_sha256"]) != (
            manifest.plan_sha256,
            manifest.batches_sha256,
        ):
            foreign[checkpoint.name] = (
                f"it is of another run: its plan is {manifest.plan_sha256[:7]}, "
                f"that of attempt {manifest.attempt} here {lock['sha256'][:7]}"
            )
    return foreign


def read_previous_attempts(run: RunFile) -> PreviousAttempts:
    """What is in the run folder to be continued. Raises Refused (CF747 when it holds no run; damaged
    files, and papers that are not here and that the end of the run will need).
    """
    if not is_run(run.run_dir):
        near = runs_near(run.run_dir)
        words = joined((path_word(run.path), *run.overrides))
        helps = (
            *near.helps(lambda other: resume_command(other, run.path)),
            f"begin it without --continue: crossfoot train {words}",
            f"or let the command find out: crossfoot train {words} --continue {AUTO}",
        )
        raise Refused(nothing_to_continue(run, "it holds no run", helps, near.notes))
    refuse_links(run)
    ledger = os.path.join(run.run_dir, LEDGER_FILE)
    lines = read_readable(ledger) if os.path.exists(ledger) else BookLines()
    attempts = read_attempts(run.run_dir, {line.attempt for line in lines})
    if lines.damage and not attempts:
        raise Refused(lines.damage)  # no run's, or of one whose attempts are all lost: it would be cut back
    refuse_lost_papers(run.run_dir, attempts, {line.attempt for line in lines})
    last = attempts[-1].attempt if attempts else 1
    ending = read_ending(attempt_path(run.run_dir, last, ENDING_FILE))
    return PreviousAttempts(attempts, lines, next_attempt(run.run_dir), ending)


def refuse_finished(
    run: RunFile,
    previous_attempts: PreviousAttempts,
    first_step: int,
    steps: int,
    *,
    is_repeated: bool = False,
) -> None:
    """Refused when `steps` are done and nothing can, or need, be done again: CF747, or CF755 for a command
    that may find its run finished. first_step: where the attempt would begin.
    """
    ending = previous_attempts.ending
    is_done = (
        ending is not None
        and ending.reason in AS_WISHED
        and (ending.step >= steps or (is_repeated and ending.reason == "patience"))
        and not ending.exit_code
    )
    config = run.config.model_dump(mode="json")
    has_receipt = os.path.exists(os.path.join(run.run_dir, RECEIPT_FILE))
    is_handed_over = is_done and has_receipt and missing_result(run.run_dir, config, ending) is None
    if is_handed_over and is_repeated:
        raise Refused(already_finished(run, steps))
    if first_step > steps:
        later = f"stop later, or not at all: {resume_command(run.run_dir, run.path)}"
        fact = f"{with_noun(first_step, 'step')} done, {steps:,} asked for"
        raise Refused(nothing_to_continue(run, fact, (later,)))
    if first_step < steps and (is_handed_over or (is_done and not first_step)):
        fact = f"all {steps:,} steps are trained"
        helps = (
            f"read it: crossfoot receipt {quoted_path(run.run_dir)}",
            f"or train it anew, into another folder: {another_run_dir(run.run_dir)}",
        )
        lost = "" if is_handed_over else ", and no checkpoint holds their weights"
        raise Refused(nothing_to_continue(run, f"{fact}{lost}", helps))


def lock_in_force(
    run: RunFile, previous_attempts: PreviousAttempts, first_step: int
) -> tuple[int, Mapping[str, Any]] | None:
    """(attempt, lock) that the steps before `first_step` were last trained with: what a new plan is held
    against. None when no attempt ever started.

    It is the first attempt's lock, with what was allowed since, as far as that was not lost.
    """
    if not previous_attempts.attempts and not previous_attempts.lines:
        return None
    number = previous_attempts.attempts[0].attempt if previous_attempts.attempts else 1
    for line in previous_attempts.counted:
        if line.step == first_step - 1:
            number = line.attempt
    path = lock_path(run.run_dir, number)
    lock = read_lock(path)
    missing = [name for name in ("config", "plan", "index") if not isinstance(lock.get(name), Mapping)]
    if missing:
        raise Refused(lock_unreadable("the plan's lock cannot be read", Place(path), (f"no {missing[0]}",)))
    return number, lock


def record_attempt(run: RunFile, attempt: Attempt, lock: Mapping[str, Any]) -> None:
    """Write a claimed attempt's lock, the run's own lock for the first that starts (or where it has been
    lost), and last its attempt.json: with it the attempt has started. Raises Refused.
    """
    own = os.path.join(run.run_dir, LOCK_FILE)
    is_first = not read_attempts(run.run_dir)
    if is_first or not os.path.exists(own):
        write_document(own, lock if is_first else read_lock(run_lock_path(run.run_dir)))
    write_document(attempt_path(run.run_dir, attempt.attempt, LOCK_FILE), lock)
    write_attempt(run.run_dir, attempt)
