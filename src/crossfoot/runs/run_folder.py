"""The folder of a run: who may use it, and what lies where in it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from crossfoot.checkpoints.store import CHECKPOINT_NOW, CHECKPOINTS
from crossfoot.durable import prove_writable
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.ledger.book import CUT_FILE, read_readable
from crossfoot.phrases import reason_of, said_by
from crossfoot.runs.attempts import (
    ATTEMPT_FILE,
    ENDING_FILE,
    LEDGER_FILE,
    LOCK_FILE,
    RECEIPT_FILE,
    attempt_name,
    attempt_numbers,
    attempt_path,
)
from crossfoot.runs.branched import BRANCH_FILE
from crossfoot.runs.resume_command import CONFIG_NAME, resume_command
from crossfoot.shell_words import quoted_path
from crossfoot.written.adapter_folder import ADAPTER_NAME
from crossfoot.written.overriding import another_run_dir
from crossfoot.written.run_file import RunFile

HEARTBEAT_FOLDER = "heartbeat"

ATTEMPT_NAME = attempt_name(1)
DEEPSPEED_NAME = "deepspeed.json"
MODEL_NAME = "model"
CLAIM_NAME = "claim"
"""Empty; who made it made the attempt."""
_OWN_NAMES = (LOCK_FILE, CONFIG_NAME, DEEPSPEED_NAME, ENDING_FILE, CUT_FILE, CLAIM_NAME)
_OWN_FOLDERS = (CHECKPOINTS, HEARTBEAT_FOLDER, ADAPTER_NAME, MODEL_NAME)
_OWN_FILES = (LOCK_FILE, LEDGER_FILE, RECEIPT_FILE, BRANCH_FILE, CHECKPOINT_NOW)
SIGN_OF_LIFE = re.compile(
    r"\.?rank-\d{5,}\.json(\.[0-9a-f]+\.partial)?|\.?verdict-attempt-\d{3,}\.json(\.\d+\.partial)?"
)
"""What a run writes into its folder of heartbeats, finished or not."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSALS = (
    *_FULL,
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE),
)


@rule_docs("CF010")
def folder_is_file(run: RunFile) -> Finding:
    """CF010: `run.dir` names a file.

    A run needs a folder of its own, or a name under which there is nothing yet.
    """
    return Finding(
        "CF010",
        f"run.dir {run.run_dir} is a file, not a folder",
        place=_place(run),
        helps=("set run.dir to a folder: run.dir=runs/another",),
    )


@rule_docs("CF011")
def folder_in_use(run: RunFile) -> Finding:
    """CF011: the run folder already holds a run.

    One folder is one run: its lock, its ledger, its receipt. A second run in it would mix two ledgers, so it
    is refused, and nothing in the folder is touched. A run that was stopped or killed goes on from its last
    checkpoint with --continue, as a further attempt at the same run; its receipt covers all of them.
    """
    return Finding(
        "CF011",
        f"{run.run_dir} already holds a run",
        place=_place(run),
        notes=(f"read it with: crossfoot receipt {quoted_path(run.run_dir)}",),
        helps=(
            f"continue that run: {resume_command(run.run_dir, run.path)}",
            f"or train into another folder: {another_run_dir(run.run_dir)}",
        ),
    )


@rule_docs("CF752", name="foreign-files")
def foreign_files(run: RunFile, names: Sequence[str]) -> Finding:
    """CF752: the run folder has something that this run did not write, under a name that it would use.

    A run writes plan.lock.json, ledger.jsonl, receipt.json and the folders attempt-001, checkpoints,
    heartbeat, and adapter or model into its folder; it replaces them, and deletes old checkpoints and
    heartbeats. Where no run was begun, whatever has one of these names is somebody else's, and is left alone.
    So is what lies behind a link: a run that is continued must have its files in its own folder. To have them
    on another disk, move the whole run folder there.
    """
    shown = ", ".join(names)
    return Finding(
        "CF752",
        f"{run.run_dir} holds {shown}, which this run did not write",
        place=_place(run),
        notes=("a run replaces and deletes files of these names; nothing was touched",),
        helps=(
            f"train into another folder: {another_run_dir(run.run_dir)}",
            "or give what is there another name, or another place",
        ),
    )


@rule_docs("CF748")
def attempt_taken(run: RunFile, attempt: int) -> Finding:
    """CF748: two processes wanted to continue the same run at the same moment, and the other one was faster.

    Each attempt at a run has a folder of its own, and only the process that made it writes to the ledger.
    Nothing was touched by the one that is refused. The same job started twice, or a job that was requeued
    while its first start still lived, is the usual origin.
    """
    return Finding(
        "CF748",
        f"attempt {attempt} at {run.run_dir} was begun by another process",
        place=_place(run),
        notes=(f"look at what it does: crossfoot receipt {quoted_path(run.run_dir)}",),
        helps=("let it run, or stop it and continue then",),
    )


@rule_docs("CF012")
def folder_not_writable(run: RunFile, reason: str) -> Finding:
    """CF012: the run folder cannot be made or written.

    The disk is full, the user has no right to write there, or a part of the path is a file. It is looked at
    before a weight is loaded; nothing has been trained.
    """
    return Finding(
        "CF012",
        f"the run folder {run.run_dir} cannot be written: {reason}",
        place=_place(run),
        helps=("set run.dir to a folder that can be written: run.dir=/path/to/runs/name",),
    )


@rule_docs("CF015")
def system_refused(error: OSError) -> Finding:
    """CF015: the operating system refused to read or write a file.

    The disk is full, a right is missing, or the disk itself fails: nothing that crossfoot can decide.
    """
    is_full = error.errno in _FULL
    where = str(error.filename) if error.filename else ""
    return Finding(
        "CF015",
        f"the system refused a file: {reason_of(error)}",
        place=Place(where) if where else None,
        helps=("free space there, or raise the quota",) if is_full else ("look at the rights and the disk",),
    )


def is_system_refusal(error: OSError) -> bool:
    """Whether an error comes from the disk or its rights, and not from a mistake in a program."""
    return error.errno in _REFUSALS


def _place(run: RunFile) -> Place:
    return run.place("run", "dir") if run.config.run.dir else Place(run.path)


def holds_run(run_dir: str) -> bool:
    """Whether a run was begun in this folder."""
    names = (LOCK_FILE, LEDGER_FILE)
    return bool(attempt_numbers(run_dir)) or any(
        os.path.lexists(os.path.join(run_dir, name)) for name in names
    )


def folder_refusals(run: RunFile) -> tuple[Finding, ...]:
    """Why a new run cannot begin in `run.dir`, as far as looking tells: it is a file, holds a run, or
    something of somebody else's under a name that a run uses. Writes nothing.
    """
    folder = run.run_dir
    if os.path.lexists(folder) and not os.path.isdir(folder):
        return (folder_is_file(run),)
    if holds_run(folder):
        return (folder_in_use(run),)
    there = [name for name in _OWN_FILES if os.path.lexists(os.path.join(folder, name))]
    there += [f"{name}/" for name in _OWN_FOLDERS if not _is_free(os.path.join(folder, name))]
    return (foreign_files(run, there),) if there else ()


def refuse_links(run: RunFile) -> None:
    """Refused (CF752) when a file or folder of a run that is to be continued lies behind a link: it would be
    written, and cleared out, where this run has no place.
    """
    names = (*_OWN_FILES, *_OWN_FOLDERS, *map(attempt_name, attempt_numbers(run.run_dir)))
    links = [name for name in names if os.path.islink(os.path.join(run.run_dir, name))]
    if links:
        raise Refused(foreign_files(run, [f"{name} (a link)" for name in links]))


def _is_free(folder: str) -> bool:
    """Whether nothing has this name, or a folder with nothing in it."""
    if not os.path.lexists(folder):
        return True
    with suppress(OSError):
        return not os.path.islink(folder) and not os.listdir(folder)
    return False


def refuse_used_folder(run: RunFile) -> None:
    """Refused when a new run cannot begin in `run.dir`: `folder_refusals`, or it cannot be written. Leaves
    nothing behind.

    Called once, by the rank that will write there, before the data is tokenised.
    """
    folder = run.run_dir
    if findings := folder_refusals(run):
        raise Refused(findings)
    try:
        prove_writable(folder)
    except OSError as error:
        raise Refused(folder_not_writable(run, said_by(error))) from error


def make_folder(run: RunFile, attempt: int = 1) -> None:
    """Claim an attempt by making its folder, and the run's for the first, and a file in it that must be new.

    Making that file either succeeds or finds that another process was faster, on shared storage too: of two
    that want the same attempt one is Refused (the first attempt: CF011, a later one: CF748).
    """
    folder = Path(attempt_path(run.run_dir, attempt))
    # Not flock: on shared storage it may hold within one node only, and it ends with its process, when the
    # attempt is still taken. A new file is decided by the file server, once and for all; so is a folder, but
    # NFS repeats a request whose answer was lost, and only of a file does the server know whose it was.
    try:
        with suppress(FileExistsError):  # a file server that is asked again says so to the maker too
            folder.mkdir(parents=attempt == 1)
        if any(folder.iterdir()):
            raise FileExistsError(folder)
        os.close(os.open(folder / CLAIM_NAME, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except (FileExistsError, NotADirectoryError) as error:
        refusal = folder_in_use(run) if attempt == 1 else attempt_taken(run, attempt)
        raise Refused(refusal) from error
    except OSError as error:
        raise Refused(folder_not_writable(run, said_by(error))) from error


def release_folder(run: RunFile, attempt: int = 1) -> None:
    """Give an attempt back in which no step was trained, so that the same command can be started again.

    Takes away what `make_folder` and the start of the attempt wrote: of a first attempt the lock and the run
    folder too, if nothing else is in it; after a later one the run is as it was before. An attempt that has a
    line in the ledger stays, and all else with it.
    """
    folder = Path(run.run_dir)
    ledger = folder / LEDGER_FILE
    own = folder / attempt_name(attempt)
    is_only = attempt_numbers(run.run_dir) == [1] and attempt == 1
    with contextlib.suppress(OSError):
        if is_only and ledger.exists() and ledger.stat().st_size:
            return
        if not is_only and ledger.exists() and _has_trained(str(ledger), attempt):
            return
        forget_attempt(folder, attempt)
        for file in (ledger, folder / LOCK_FILE) if is_only else ():
            file.unlink(missing_ok=True)
        # attempt.json first: without it the attempt has not started, whatever else is left of it
        for name in (ATTEMPT_FILE, *_OWN_NAMES):
            (own / name).unlink(missing_ok=True)
        own.rmdir()
        if is_only:
            folder.rmdir()


def _has_trained(ledger: str, attempt: int) -> bool:
    """Whether the ledger has a line of this attempt, or one that nobody can read; later attempts may have
    begun since.
    """
    lines = read_readable(ledger)
    return bool(lines.damage) or any(line.attempt == attempt for line in lines)


def verdict_path(run_dir: str | os.PathLike[str], attempt: int) -> Path:
    """`RUN_DIR/heartbeat/verdict-attempt-001.json`."""
    return Path(run_dir, HEARTBEAT_FOLDER, f"verdict-attempt-{attempt:03d}.json")


def forget_attempt(run_dir: str | os.PathLike[str], attempt: int) -> None:
    """Before an attempt begins, and after one that is given back: take away all heartbeats, and what was
    judged under its number. What was judged of earlier attempts stays, and so does what no run wrote.
    """
    folder = Path(run_dir, HEARTBEAT_FOLDER)
    kept = {verdict_path(run_dir, earlier).name for earlier in range(1, attempt)}
    with suppress(OSError):
        if folder.is_symlink():
            return
        for path in list(folder.iterdir()):
            if path.name not in kept and SIGN_OF_LIFE.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()
        folder.rmdir()  # when it is empty
