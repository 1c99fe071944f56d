"""A folder was named that is no run: the run that is meant, and the runs that lie nearby."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from crossfoot.checkpoints.store import CHECKPOINTS
from crossfoot.documents import Malformed, read_object
from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import clock, counted
from crossfoot.runs.attempts import ENDING_FILE, LEDGER_FILE, RECEIPT_FILE, attempt_numbers, attempt_path
from crossfoot.runs.ending import CUT_SHORT, Ending, read_ending
from crossfoot.runs.resume_command import LAUNCH_FOLDER
from crossfoot.runs.run_folder import HEARTBEAT_FOLDER, holds_run
from crossfoot.written.run_file import read_run
from crossfoot.written.section import Unsure

MOST_SHOWN = 5
ALIVE_SECONDS = 60.0
"""A run without an ending that has written something since then is taken for a running one."""
_LEVELS_ABOVE = 3
_MOST_ENTRIES = 1000
_LIKE = 0.6
_CONFIG = (".yaml", ".yml")
_IN_A_RUN = re.compile(rf"attempt-\d+|{CHECKPOINTS}|{HEARTBEAT_FOLDER}")


@dataclass(frozen=True)
class NearbyRun:
    """A run as it looks from outside. state: what it does or how it ended, and when, as a phrase.
    age_seconds: since it has written something.
    """

    path: str
    state: str
    age_seconds: float

    def __str__(self) -> str:
        return f"{self.path}: {self.state}"


@dataclass(frozen=True)
class Nearby:
    """Runs for somebody who has named what is none. meant: the one that is surely meant. like: the one that
    has such a name. runs: those to be shown, the newest first.
    """

    meant: str | None
    like: str | None
    runs: tuple[NearbyRun, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each run, as far as there is room."""
        older = len(self.runs) - MOST_SHOWN
        more = (f"and {counted(older, 'older run')}",) if older > 0 else ()
        return (*map(str, self.runs[:MOST_SHOWN]), *more)

    def helps(self, command: Callable[[str], str]) -> tuple[str, ...]:
        """What to type for the run that is meant, or has such a name. command: of a run folder."""
        if self.meant is not None:
            return (f"name the run itself: {command(self.meant)}",)
        return () if self.like is None else (f"the nearest name: {command(self.like)}",)


@rule_docs("CF040")
def no_run_here(path: str, near: Nearby, command: Callable[[str], str]) -> Finding:
    """CF040: a run was asked for, and what was named is none.

    A run is a folder with plan.lock.json, ledger.jsonl and the folders attempt-001 and so on: what `run.dir`
    says, by default runs/NAME. Its parent, a checkpoint, what was saved and a config are not the run. The run
    that is meant, or those that lie nearby, are named, the newest first.
    """
    helps = near.helps(command)
    if not helps and near.runs:
        helps = (f"name one of them: {command(near.runs[0].path)}",)
    return Finding(
        "CF040",
        f"{path or 'an empty name'} {_what_it_is(path)}",
        notes=near.notes,
        helps=helps or ("name the folder that run.dir says, by default runs/NAME",),
        unreadable=True,
    )


def refuse_no_run(path: str, verb: str, *words: str) -> None:
    """Refused (CF040) when this is not a run folder. verb: what was asked for; words: behind the folder."""

    def command(run_dir: str) -> str:
        return shlex.join(["crossfoot", verb, run_dir, *words])

    if not is_run(path):
        raise Refused(no_run_here(path, runs_near(path), command))


def is_run(path: str) -> bool:
    """Whether a run was begun here; an attempt's folder, which has a lock too, is not a run."""
    name = os.path.basename(os.path.abspath(path))
    return bool(attempt_numbers(path)) or (holds_run(path) and not _IN_A_RUN.fullmatch(name))


def runs_near(path: str) -> Nearby:
    """The run that a path lies in, or that a run config names; else runs in it, beside it, and in runs/."""
    if meant := _meant(path):
        return Nearby(meant, None, (_seen(meant),))
    runs = sorted(map(_seen, _nearby(path)), key=lambda run: run.age_seconds)
    names = {os.path.basename(run.path): run.path for run in reversed(runs)}
    wanted = [] if os.path.lexists(path) else [os.path.basename(os.path.abspath(path))]
    like = [name for word in wanted for name in difflib.get_close_matches(word, names, n=1, cutoff=_LIKE)]
    return Nearby(None, names[like[0]] if like else None, tuple(runs))


def _what_it_is(path: str) -> str:
    if not os.path.lexists(path):
        return "is not there"
    if not os.path.isdir(path):
        return "is a file, not the folder of a run"
    if os.path.isdir(os.path.join(path, LAUNCH_FOLDER)):
        return "holds no run yet: what starts one is there, and nothing has begun"
    return "is a part of a run, not the run" if _above(path) else "holds no run"


def _meant(path: str) -> str | None:
    """The run that this lies in, or that a run config names."""
    if (run_dir := _above(path)) is not None:
        return run_dir
    if path.endswith(_CONFIG) and os.path.isfile(path):
        with suppress(Refused, Unsure):
            run_dir = read_run(path)[0].run_dir
            return run_dir if is_run(run_dir) else None
    return None


def _above(path: str) -> str | None:
    """The run folder that a path lies in, as the user would write it."""
    above = os.path.normpath(path)
    for _ in range(_LEVELS_ABOVE):
        inner, above = (
            above,
            os.path.dirname(above) or os.path.relpath(os.path.dirname(os.path.abspath(above))),
        )
        if inner == above:
            return None
        if is_run(above):
            return above
    return None


def _nearby(path: str) -> list[str]:
    """Runs in this folder, else beside it, else above that; and those in runs/."""
    start = Path(os.path.normpath(path))
    found: dict[str, str] = {}
    for place in (start, *list(start.parents)[:_LEVELS_ABOVE], Path()):
        if found and place != Path():
            continue
        for folder in (*_folders_in(place), *_folders_in(place / "runs")):
            if is_run(folder):
                found.setdefault(os.path.realpath(folder), folder)
    return list(found.values())


def _folders_in(place: Path) -> Iterator[str]:
    with suppress(OSError), os.scandir(place) as entries:
        for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False):
            if not entry.name.startswith(".") and entry.is_dir():
                yield os.path.normpath(entry.path)


def _seen(run_dir: str) -> NearbyRun:
    newest = max(attempt_numbers(run_dir), default=1)
    written = [Path(run_dir, LEDGER_FILE), Path(attempt_path(run_dir, newest))]
    with suppress(OSError):
        written += Path(run_dir, HEARTBEAT_FOLDER).iterdir()
    times = [0.0]
    for one in written:
        with suppress(OSError):
            times.append(one.stat().st_mtime)
    age = max(0.0, time.time() - max(times))
    try:
        ending = read_ending(attempt_path(run_dir, newest, ENDING_FILE))
    except Refused:
        return NearbyRun(run_dir, "its papers cannot be read", age)
    if ending is None:
        state = "running" if age < ALIVE_SECONDS else "killed, or silent"
        return NearbyRun(run_dir, f"{state}, last sign of life {clock(age)} ago", age)
    return NearbyRun(run_dir, f"{_how_it_ended(ending, run_dir)}, {clock(age)} ago", age)


def _how_it_ended(ending: Ending, run_dir: str) -> str:
    steps = f"after {ending.step:,} of {counted(ending.planned_steps, 'step')}"
    if ending.reason in CUT_SHORT:
        return f"{CUT_SHORT[ending.reason]} {steps}"
    how = "finished" if ending.reason == "finished" else "stopped on purpose"
    verdict = ""
    with suppress(OSError, Malformed):
        foots = read_object(os.path.join(run_dir, RECEIPT_FILE)).get("foots")
        verdict = ", foots" if foots is True else ", does not foot" if foots is False else ""
    return f"{how} {steps}{verdict}"
