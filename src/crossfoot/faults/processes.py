"""Processes of this machine, as the system tells of them: another rank's, and those that started this one.

Linux only: elsewhere nothing is known of them, and nothing is concluded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossfoot.starting.ancestry import launcher_of
from crossfoot.starting.process_table import fields_of, words_of

State = Literal["", "running", "stopped", "gone"]
"""`gone` counts a process that has ended and that nobody has asked for yet; "" is not known."""
_DEEPEST = 64
_RUNNERS = ("deepspeed", "deepspeed.pt", "ds")
"""The command that starts deepspeed.launcher.launch on every machine and waits for it."""


@dataclass(frozen=True)
class Supervisor:
    """A process above this one that waits for it. began: its start, in ticks since the machine's: a number
    is given to another process later."""

    name: str
    pid: int
    began: int


def this_machine(proc: str = "/proc") -> str:
    """Equal for two processes that see each other's process numbers: one boot of one machine, one PID
    namespace. "" when the system does not tell.
    """
    try:
        boot = Path(proc, "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink(Path(proc, 'self/ns/pid'))}"
    except (OSError, ValueError):
        return ""


def state_of(pid: int, proc: str = "/proc") -> State:
    """What the system says of a process of this machine."""
    if not os.path.isdir(os.path.join(proc, "self")):
        return ""
    told = _stat(pid, proc)
    if told is None or told[0] in ("Z", "X"):
        return "gone"
    return "stopped" if told[0] in ("T", "t") else "running"


def supervisors_above(pid: int | None = None, proc: str = "/proc") -> tuple[Supervisor, ...]:
    """The launchers above a process (default: this one) that wait for it, the innermost first.

    Nothing between them counts: a shell may end and leave what it started running on purpose. Without a
    launcher there is none.
    """
    found: list[Supervisor] = []
    current = os.getpid() if pid is None else pid
    for _ in range(_DEEPEST):
        told = _stat(current, proc)
        current = told[1] if told is not None else 0
        above = _stat(current, proc) if current > 0 else None
        if above is None:
            break
        name = _supervisor_name(words_of(current, proc))
        if name:
            found.append(Supervisor(name, current, above[2]))
    return tuple(found)


def is_there(supervisor: Supervisor, proc: str = "/proc") -> bool:
    """Whether a launcher still lives; True when nothing is known."""
    if not os.path.isdir(os.path.join(proc, "self")):
        return True
    told = _stat(supervisor.pid, proc)
    return told is not None and told[2] == supervisor.began and told[0] not in ("Z", "X")


def _supervisor_name(words: list[str]) -> str:
    launcher = launcher_of(words)
    if launcher is not None:
        return launcher
    if words and os.path.basename(words[0].split(":")[0]) == "slurmstepd":
        return "slurmstepd"
    script = words[1] if len(words) > 1 and os.path.basename(words[0]).startswith("python") else ""
    names = [os.path.basename(word) for word in (*words[:1], script)]
    return "deepspeed" if any(name in _RUNNERS for name in names) else ""


def _stat(pid: int, proc: str) -> tuple[str, int, int] | None:
    """(state, parent, start in ticks) of a process; None when there is none."""
    told = fields_of(pid, proc)
    try:
        return told[0], int(told[1]), int(told[19])
    except (ValueError, IndexError):
        return None
