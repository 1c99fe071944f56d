"""Each rank's sign of life: one small file in the run folder that it writes again and again while it lives.

Read by the other ranks, who notice by it that a rank is lost, and by `crossfoot watch`. Files, not a
collective: a rank that is gone takes part in none, and a collective that waits for it says nothing.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from crossfoot import durable
from crossfoot.documents import Malformed, read_object, value_of
from crossfoot.phrases import after_steps, step_name
from crossfoot.runs.attempts import MOST_RANKS
from crossfoot.runs.run_folder import HEARTBEAT_FOLDER
from crossfoot.written.launch.host_names import is_host_name

FORMAT = 1
LARGEST_BYTES = 1_024
"""Every file has this size, so that a beat can be written over the one before it when the disk is full."""

MOST_SECONDS = 1e11
"""3,000 years after 1970: what lies behind is no time."""

Phase = Literal["starting", "loading", "training", "validating", "evaluating", "saving", "closing", "ended"]
_DOES = {
    "starting": "starting",
    "loading": "loading the model",
    "validating": "validating",
    "evaluating": "evaluating",
    "saving": "writing a checkpoint",
    "closing": "closing the run",
    "ended": "at its end",
}
_NAME = re.compile(r"rank-\d{5,}\.json")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Heartbeat:
    """What one rank last said of itself.

    attempt: of the run, from 1; a file of an earlier attempt is stale. host, pid: where it runs. phase: what
    it does. step: the index of the step it is in, from 0; while it validates, evaluates
    or saves, how many are done. beats: grows with every write, also while the
    main thread waits. beat_seconds: UNIX time of the write by the clock of its host, for people; clocks of
    hosts differ. period_seconds: from one beat to the next. progress: what its main thread has done within
    this step or phase; nothing is done while it waits for another rank. where: the function its main thread
    is in, once it has not moved for long; "" before. is_waiting: that is a collective. machine: the same for
    two processes that see each other's process numbers; started: with pid one process of that machine, as
    `processes.start_of` has it; each "" when that is not known.
    """

    attempt: int
    rank: int
    host: str
    pid: int
    phase: Phase
    step: int
    beats: int
    beat_seconds: float
    period_seconds: float
    progress: int = 0
    where: str = ""
    is_waiting: bool = False
    machine: str = ""
    started: str = ""

    @property
    def place(self) -> tuple[str, int, int]:
        """Where its main thread stands: a rank that works changes it."""
        return (self.phase, self.step, self.progress)


def step_words(phase: str, step: int) -> str:
    """Where a rank is among the steps: `step 5`, `after 4 steps`; "" where that says nothing."""
    if phase in ("training", "ended"):
        return step_name(step)
    return after_steps(step) if phase in ("validating", "evaluating", "saving") else ""


def doing(phase: str, step: int) -> str:
    """What a rank does, and where: `in step 5`, `writing a checkpoint after 4 steps`, `loading the model`."""
    words = [_DOES.get(phase, ""), "in" if phase in ("training", "ended") else "", step_words(phase, step)]
    return " ".join(word for word in words if word) or phase


def heartbeat_path(run_dir: str | os.PathLike[str], rank: int) -> Path:
    """`RUN_DIR/heartbeat/rank-00003.json`."""
    return Path(run_dir, HEARTBEAT_FOLDER, f"rank-{rank:05d}.json")


def write_heartbeat(run_dir: str | os.PathLike[str], beat: Heartbeat) -> None:
    """Write a rank's file as a whole; a reader sees the one before or this one. The folder must exist.

    On a full disk the old file is written over: it has this size already. Not synced: a heart that stopped
    with a power cut need not be seen. Raises OSError.
    """
    path = heartbeat_path(run_dir, beat.rank)
    text = _text(beat)
    try:
        durable.replace(path, text, is_synced=False)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with open(path, "r+b", buffering=0) as file:
            file.write(text)


def read_heartbeats(run_dir: str | os.PathLike[str]) -> tuple[Heartbeat, ...]:
    """The heartbeats in a run folder, by rank, of whatever attempt they are.

    A file that cannot be read, or that says something else, is left out: its writer may be at it. Without a
    folder there are none.
    """
    try:
        names = sorted(name for name in os.listdir(Path(run_dir, HEARTBEAT_FOLDER)) if _NAME.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    beats = (_read(Path(run_dir, HEARTBEAT_FOLDER, name)) for name in names)
    return tuple(sorted((beat for beat in beats if beat is not None), key=lambda beat: beat.rank))


def _text(beat: Heartbeat) -> bytes:
    text = json.dumps({"format": FORMAT, **asdict(beat)})
    while len(text) >= LARGEST_BYTES and beat.where:
        half, _ = divmod(len(beat.where), 2)
        beat = replace(beat, where=beat.where[:half])
        text = json.dumps({"format": FORMAT, **asdict(beat)})
    return f"{text:<{LARGEST_BYTES - 1}}\n".encode()


def _read(path: Path) -> Heartbeat | None:
    try:
        document = read_object(path, most_bytes=LARGEST_BYTES)
        beat = value_of(Heartbeat, document) if document.get("format") == FORMAT else None
    except (OSError, Malformed):
        return None
    return beat if beat is not None and _is_possible(beat) else None


def _is_possible(beat: Heartbeat) -> bool:
    """Whether a rank can have said so. Its host is handed to ssh, and its process to kill."""
    is_counted = min(beat.attempt, beat.pid) > 0 and min(beat.rank, beat.step, beat.beats, beat.progress) >= 0
    is_timed = 0 < beat.period_seconds < MOST_SECONDS and 0 <= beat.beat_seconds < MOST_SECONDS
    return is_counted and is_timed and beat.rank < MOST_RANKS and is_host_name(beat.host)
