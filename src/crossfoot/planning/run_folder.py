"""The folder of a run: who may use it, and what lies where in it."""

from __future__ import annotations

from pathlib import Path

from crossfoot.finding import Finding, Place, Refused
from crossfoot.planning.lock import LOCK_NAME
from crossfoot.written.run_file import RunFile

LEDGER_NAME = "ledger.jsonl"
ATTEMPT_NAME = "attempt-001"
ADAPTER_NAME = "adapter"
MODEL_NAME = "model"


def refuse_used_folder(run: RunFile) -> None:
    """Refused when `run.dir` already holds a run, or is a file. Called once, by the rank that will write there."""
    folder = Path(run.run_dir)
    place = run.place("run", "dir") if run.config.run.dir else Place(run.path)
    if folder.exists() and not folder.is_dir():
        raise Refused(
            Finding(
                "CF010",
                f"run.dir {run.run_dir} is a file, not a folder",
                place=place,
                helps=("set run.dir to a folder: run.dir=runs/another",),
            )
        )
    if any((folder / name).exists() for name in (LOCK_NAME, LEDGER_NAME)):
        raise Refused(
            Finding(
                "CF011",
                f"{run.run_dir} already holds a run",
                place=place,
                notes=(f"read it with: crossfoot receipt {run.run_dir}",),
                helps=(
                    f"train into another folder: run.dir={run.run_dir}-2",
                    f"or delete the old run: rm -r {run.run_dir}",
                ),
            )
        )


def make_folder(run: RunFile) -> Path:
    """Make the run folder and its attempt; Refused when it cannot be written."""
    attempt = Path(run.run_dir) / ATTEMPT_NAME
    try:
        attempt.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            Finding(
                "CF012",
                f"the run folder {run.run_dir} cannot be made: {error.strerror}",
                place=run.place("run", "dir") if run.config.run.dir else Place(run.path),
                helps=("set run.dir to a folder that can be written: run.dir=/path/to/runs/name",),
            )
        ) from error
    return Path(run.run_dir)
