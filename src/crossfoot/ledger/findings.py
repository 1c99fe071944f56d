"""Why a run's documents (ledger, lock, ending, receipt) cannot be read or written: one function, one code,
one manual page.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import after_steps
from crossfoot.shell_words import quoted_path

NAME_THE_RUN = "name the folder of a run, the one with plan.lock.json in it"
Unreadable = Callable[[str, Place, tuple[str, ...]], Finding]
"""Makes a finding of (title, place, notes)."""


@rule_docs("CF701")
def disk_full(path: str, deed: str, notes: tuple[str, ...]) -> Finding:
    """CF701: the disk, or the user's quota on it, is full, and the ledger cannot take the next line.

    The run ends, because a step without its line is a step that nobody can vouch for. The lines before it are
    whole; what was written of the new one is cut off again. The notes say up to which step the ledger is
    written, and up to which it would survive a power cut.
    """
    title = f"the disk is full: the ledger cannot {deed}"
    helps = ("free space there (or raise the quota), then continue the run: --continue RUN_DIR",)
    return Finding("CF701", title, place=Place(path), notes=notes, helps=helps)


@rule_docs("CF702")
def ledger_unwritable(path: str, deed: str, notes: tuple[str, ...]) -> Finding:
    """CF702: the ledger cannot be opened or written, for another reason than a full disk.

    No right to write there, a folder that went away, storage that fails: the first note has the system's own
    words. Lines that are in the ledger stay; the notes say which.
    """
    helps = ("look at the rights and the disk there, then continue the run: --continue RUN_DIR",)
    return Finding("CF702", f"the ledger cannot {deed}", place=Place(path), notes=notes, helps=helps)


@rule_docs("CF754", name="ledger-shared")
def ledger_shared(path: str, notes: tuple[str, ...]) -> Finding:
    """CF754: another process writes the ledger of this run.

    A later attempt at the run has begun, or the file is not as this process left it. Two that write one
    ledger would spoil it for both, so this one stops, and writes no receipt, checkpoint or weights any more:
    what counts is what the later attempt does. It comes of a run that was continued (with --take-over) while
    a process of it hung, or of two jobs in one folder. On NFS, lines that two machines append at the same
    instant may overwrite each other: a run folder wants one writer, and this finding is the last guard, not
    the first (CF753).
    """
    return Finding(
        "CF754",
        "the ledger is written by another process too",
        place=Place(path),
        notes=notes,
        helps=(f"look who works on this run: crossfoot watch {quoted_path(os.path.dirname(path) or '.')}",),
    )


@rule_docs("CF703")
def ledger_missing(path: str, is_absent: bool, reason: str) -> Finding:
    """CF703: a run folder has no ledger.jsonl, or it may not be read.

    The ledger is begun with the first step: a run that was refused before it has none, and there is nothing
    to hold against the plan. Name the run folder itself, the one with plan.lock.json in it, not an attempt
    below it.
    """
    return Finding(
        "CF703",
        "there is no ledger here" if is_absent else "the ledger cannot be read",
        place=Place(path),
        notes=(f"the system says: {reason}",),
        helps=(NAME_THE_RUN if is_absent else "look at the rights and the disk there",),
        unreadable=True,
    )


@rule_docs("CF704")
def line_damaged(path: str, number: int, reason: str) -> Finding:
    """CF704: a line of the ledger is not what was written.

    Every line is one JSON object of a known format. A crash can only leave the last one unfinished, and that
    one is left out with a note (CF705); damage elsewhere came from an editor, a copy that broke off or
    storage that lost data. No receipt is made over it. Take the file from where it was written; what the
    damaged step trained cannot be known from here.
    """
    return Finding(
        "CF704",
        f"line {number} of the ledger is damaged",
        place=Place(path, number),
        notes=(f"line {number}: {reason}", "only a crash's unfinished last line can be left out"),
        helps=("take ledger.jsonl from where it was written, or from a backup",),
        unreadable=True,
    )


@rule_docs("CF705", "note")
def last_line_torn(path: str, number: int, size_bytes: int) -> Finding:
    """CF705: the run was cut off while it wrote the ledger's last line; that line is left out.

    A note, no error: the lines before it are whole. The step of that line was trained, or nearly so, but
    nothing of it was saved, and the receipt does not count it. A checkpoint is only written when the lines of
    all steps before it are safe, so a run that is continued computes that step again; the unfinished line is
    cut off then (CF749).
    """
    title = f"the ledger's last line is unfinished and was left out ({size_bytes:,} bytes)"
    notes = ("the run was cut off while it wrote that line; the lines before it are whole",)
    helps = ("continue the run, if it is not done: that step is then computed again",)
    return Finding("CF705", title, severity="note", place=Place(path, number), notes=notes, helps=helps)


@rule_docs("CF706")
def lock_unreadable(title: str, place: Place, notes: tuple[str, ...]) -> Finding:
    """CF706: plan.lock.json, the promise that a receipt is held against, is absent or cannot be read.

    Name the run folder itself: crossfoot receipt runs/NAME. A lock is written before the first step and never
    changed; one that was edited by hand is no promise any more, so take the file from where it was written.
    """
    helps = (NAME_THE_RUN, "or take plan.lock.json from where it was written")
    return Finding("CF706", title, place=place, notes=notes, helps=helps, unreadable=True)


@rule_docs("CF707")
def ending_unreadable(title: str, place: Place, notes: tuple[str, ...]) -> Finding:
    """CF707: ending.json, which says how the run ended, is there and cannot be read.

    It lies in the folder of the attempt. An attempt that was killed has none, and the receipt says so for the
    last one. A damaged one is not taken for none: with
    `--stop-after N` it decides how many steps the run is held against. Take the file from where it was
    written.
    """
    helps = ("take ending.json from where it was written, or from a backup",)
    return Finding("CF707", title, place=place, notes=notes, helps=helps, unreadable=True)


@rule_docs("CF708")
def document_unwritable(path: str, name: str, reason: str) -> Finding:
    """CF708: ending.json or receipt.json cannot be written.

    The disk is full, or the run folder may not be written. The ledger is written line by line during the run
    and stands: with room on the disk, crossfoot receipt RUN_DIR shows the receipt again.
    """
    notes = (f"the system says: {reason}", "what stood there before is untouched")
    helps = ("free space there, or look at the rights, and ask again: crossfoot receipt RUN_DIR",)
    return Finding("CF708", f"{name} cannot be written", place=Place(path), notes=notes, helps=helps)


@rule_docs("CF709")
def promise_broken(faults: tuple[str, ...]) -> Finding:
    """CF709: the plan that is about to train is not the one that its lock promises.

    Before the first step the plan's sums, hashes and rates are worked out a second time, from the lock's
    numbers and by other code than planned. The two must agree, since the receipt will hold the run against
    the second. They do not: the program that plans is wrong, or was changed. Nothing was trained.
    """
    return Finding(
        "CF709",
        "the plan is not what its own numbers make",
        notes=faults,
        helps=("install crossfoot anew: pip install --force-reinstall --no-deps crossfoot",),
    )


@rule_docs("CF742")
def attempt_unreadable(title: str, place: Place, notes: tuple[str, ...]) -> Finding:
    """CF742: attempt.json or branch.json, which say where an attempt began, is absent or cannot be read.

    A run that was killed and continued has one folder for each attempt, attempt-001, attempt-002 and so on,
    and one ledger over all of them. Which of its lines still count follows from the step at which each
    attempt began: what an attempt did beyond the first step of a later one was lost, and computed again.
    Without that step nothing can be added up. The file is written whole, once, when the attempt starts, and
    branch.json when `crossfoot branch` makes the run; take it from where it was written.
    """
    helps = (f"take {os.path.basename(place.file)} from where it was written, or from a backup",)
    return Finding("CF742", title, place=place, notes=notes, helps=helps, unreadable=True)


@rule_docs("CF746", "warning")
def checkpoint_ahead(path: str, step: int, vouched: int, first_step: int) -> Finding:
    """CF746: there is a checkpoint after steps that the ledger has no line for, so an older one is continued.

    Before a checkpoint is written the ledger is made durable up to its step, so no crash does this: the
    ledger was cut, copied too early, or restored from a backup. From that checkpoint the run would go on, but
    nobody could vouch for the steps without a line, and the receipt could never foot. Continued from the
    older checkpoint those steps are computed again and get their lines. If the whole ledger lies elsewhere,
    stop, bring it back, and continue then.
    """
    older = f"from the checkpoint {after_steps(first_step)}" if first_step else "from the first step"
    return Finding(
        "CF746",
        f"the checkpoint {after_steps(step)} is passed over: the ledger has lines for {vouched:,} of them",
        severity="warning",
        place=Place(path),
        notes=(f"the run continues {older}; the steps after it are computed again",),
        helps=("if the whole ledger lies elsewhere: stop the run, bring it back, and continue then",),
    )


@rule_docs("CF749", "note")
def ledger_cut(path: str, number: int, size_bytes: int, lines: int, kept: str | None) -> Finding:
    """CF749: the ledger was cut back to its last whole line, because the run is continued.

    A note, no error. A kill can leave the ledger's last line unfinished, and a power cut can damage lines
    that were not yet safe on the disk. Both can only stand after the last line that the checkpoint vouches
    for: before a checkpoint is written, the ledger is made durable. The steps of those lines were lost with
    the process, are computed again and get new lines. Damaged whole lines are not thrown away: they are kept
    in the attempt's folder.
    """
    if lines:
        what = f"{lines} line{'s' * (lines > 1)} from the first damaged one on"
        title = f"the ledger was cut back to its last whole line: {what} ({size_bytes:,} bytes)"
    else:
        title = f"the ledger's unfinished last line was cut off ({size_bytes:,} bytes)"
    notes = ["that step was never durable, and is computed again", f"what was cut off is kept: {kept}"]
    return Finding(
        "CF749",
        title,
        severity="note",
        place=Place(path, number),
        notes=tuple(notes[: 2 if kept else 1]),
        helps=("look at that disk, if the run was not killed and the machine did not lose power",),
    )
