"""The folder of a run: who may use it, and what lies where in it."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from crossfoot.finding import Finding, Place, Refused
from crossfoot.ledger.receipt import LEDGER_FILE, LOCK_FILE
from crossfoot.manual import page
from crossfoot.written.run_file import RunFile

ATTEMPT_NAME = "attempt-001"
DEEPSPEED_NAME = "deepspeed.json"
CONFIG_NAME = "config.yaml"
ADAPTER_NAME = "adapter"
MODEL_NAME = "model"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSALS = (
    *_FULL,
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE),
)


@page("CF010")
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


@page("CF011")
def folder_in_use(run: RunFile) -> Finding:
    """CF011: the run folder already holds a run.

    One folder is one run: its lock, its ledger, its receipt. A second run in it would mix two ledgers, so it
    is refused, and nothing in the folder is touched.
    """
    return Finding(
        "CF011",
        f"{run.run_dir} already holds a run",
        place=_place(run),
        notes=(f"read it with: crossfoot receipt {run.run_dir}",),
        helps=(
            f"train into another folder: run.dir={run.run_dir}-2",
            f"or delete the old run: rm -r {run.run_dir}",
        ),
    )


@page("CF012")
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


@page("CF015")
def system_refused(error: OSError) -> Finding:
    """CF015: the operating system refused to read or write a file.

    The disk is full, a right is missing, or the disk itself fails: nothing that crossfoot can decide.
    """
    title = error.strerror or str(error)
    title = title[:1].lower() + title[1:]
    is_full = error.errno in _FULL
    where = str(error.filename) if error.filename else ""
    return Finding(
        "CF015",
        f"the system refused a file: {title}",
        place=Place(where) if where else None,
        helps=("free space there, or raise the quota",) if is_full else ("look at the rights and the disk",),
    )


def is_system_refusal(error: OSError) -> bool:
    """Whether an error comes from the disk or its rights, and not from a mistake in a program."""
    return error.errno in _REFUSALS


def _place(run: RunFile) -> Place:
    return run.place("run", "dir") if run.config.run.dir else Place(run.path)


def refuse_used_folder(run: RunFile) -> None:
    """Refused when `run.dir` already holds a run, is a file, or cannot be written. Leaves nothing behind.

    Called once, by the rank that will write there, before the data is tokenised.
    """
    folder = run.run_dir
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise Refused(folder_is_file(run))
    if any(os.path.exists(os.path.join(folder, name)) for name in (LOCK_FILE, LEDGER_FILE, ATTEMPT_NAME)):
        raise Refused(folder_in_use(run))
    missing = [path for path in (Path(folder), *Path(folder).parents) if not os.path.exists(path)]
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
    except OSError as error:
        raise Refused(folder_not_writable(run, error.strerror or str(error))) from error
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def make_folder(run: RunFile) -> None:
    """Make the run folder and its attempt; Refused when it cannot be written, or another run was faster."""
    try:
        (Path(run.run_dir) / ATTEMPT_NAME).mkdir(parents=True)
    except FileExistsError as error:
        raise Refused(folder_in_use(run)) from error
    except OSError as error:
        raise Refused(folder_not_writable(run, error.strerror or str(error))) from error


def release_folder(run: RunFile) -> None:
    """Give a folder back in which no step was trained, so that the same command can be started again.

    Takes away what `make_folder` and the start of a run wrote there, and the folder if nothing else is in it.
    A ledger with a line in it stays, and all else with it.
    """
    folder = Path(run.run_dir)
    attempt = folder / ATTEMPT_NAME
    ledger = folder / LEDGER_FILE
    with contextlib.suppress(OSError):
        if ledger.exists() and ledger.stat().st_size:
            return
        for file in (ledger, folder / LOCK_FILE, attempt / CONFIG_NAME, attempt / DEEPSPEED_NAME):
            file.unlink(missing_ok=True)
        attempt.rmdir()
        folder.rmdir()
