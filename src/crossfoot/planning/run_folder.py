"""The folder of a run: who may use it, and what lies where in it."""

from __future__ import annotations

from pathlib import Path

from crossfoot.finding import Finding, Place, Refused
from crossfoot.ledger.receipt import LEDGER_FILE, LOCK_FILE
from crossfoot.manual import page
from crossfoot.written.run_file import RunFile

ATTEMPT_NAME = "attempt-001"
ADAPTER_NAME = "adapter"
MODEL_NAME = "model"


@page("CF010")
def folder_is_file(run: RunFile) -> Finding:
    """CF010: `run.dir` names a file. A run needs a folder of its own, or none yet."""
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
    """CF012: the run folder cannot be made or written."""
    return Finding(
        "CF012",
        f"the run folder {run.run_dir} cannot be written: {reason}",
        place=_place(run),
        helps=("set run.dir to a folder that can be written: run.dir=/path/to/runs/name",),
    )


def _place(run: RunFile) -> Place:
    return run.place("run", "dir") if run.config.run.dir else Place(run.path)


def refuse_used_folder(run: RunFile) -> None:
    """Refused when `run.dir` already holds a run, or is a file. Called once, by the rank that will write
    there.
    """
    folder = Path(run.run_dir)
    if folder.exists() and not folder.is_dir():
        raise Refused(folder_is_file(run))
    if any((folder / name).exists() for name in (LOCK_FILE, LEDGER_FILE)):
        raise Refused(folder_in_use(run))


def make_folder(run: RunFile) -> None:
    """Make the run folder and its attempt; Refused when it cannot be written."""
    try:
        (Path(run.run_dir) / ATTEMPT_NAME).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(folder_not_writable(run, error.strerror or str(error))) from error
