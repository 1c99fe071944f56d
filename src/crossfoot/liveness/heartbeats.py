"""Each rank's sign of life: one small file in the run folder that it writes again and again while it lives.

Read by the other ranks, who notice by it that a rank is lost, and by `crossfoot watch`. Files, not a
collective: a rank that is gone takes part in none, and a collective that waits for it says nothing.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from crossfoot import durable
from crossfoot.runs.run_folder import HEARTBEAT_FOLDER

FORMAT = 1
LARGEST_BYTES = 1_024
"""Every file has this size, so that a beat can be written over the one before it when the disk is full."""

Phase = Literal["starting", "loading", "training", "validating", "saving", "closing", "ended"]
_PHASES: tuple[str, ...] = get_args(Phase)
_NAME = re.compile(r"rank-\d{5,}\.json")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Heartbeat:
    """What one rank last said of itself.

    attempt: of the run, from 1; a file of an earlier attempt is stale. host, pid: where it runs. phase: what
    it does. step: the step it is in, 0-based as in the ledger. beats: grows with every write, also while the
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
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return read_document(document)


def read_document(document: Any) -> Heartbeat | None:
    """A heartbeat from the values of its file; None when they are not one's."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None
    values: dict[str, Any] = {}
    for field in fields(Heartbeat):
        if field.name not in document and field.default is not MISSING:
            continue  # an older version writes it
        value = document.get(field.name)
        kinds = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(str(field.type), (str,))
        if type(value) not in kinds:
            return None
        values[field.name] = value
    return Heartbeat(**values) if values["phase"] in _PHASES else None
