"""The launchers that wait for this process: without them nobody does."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

from crossfoot.environment.ancestry import launcher_of
from crossfoot.processes import above, state_of, words_of

_RUNNERS = ("deepspeed", "deepspeed.pt", "ds")
"""The command that starts deepspeed.launcher.launch on every machine and waits for it."""


@dataclass(frozen=True)
class Supervisor:
    """A process above this one that waits for it. process: it, and no other one that has its number later."""

    name: str
    process: psutil.Process

    @property
    def pid(self) -> int:
        """Its number."""
        return int(self.process.pid)


def supervisors_above(pid: int | None = None) -> tuple[Supervisor, ...]:
    """The launchers above a process (default: this one) that wait for it, the innermost first.

    Nothing between them counts: a shell may end and leave what it started running on purpose. Without a
    launcher there is none.
    """
    named = [(_supervisor_name(words_of(process)), process) for process in above(pid)]
    return tuple(Supervisor(name, process) for name, process in named if name)


def is_there(supervisor: Supervisor) -> bool:
    """Whether a launcher still lives; True when nothing is known."""
    return state_of(supervisor.process) != "gone"


def _supervisor_name(words: list[str]) -> str:
    launcher = launcher_of(words)
    if launcher is not None:
        return launcher
    if words and os.path.basename(words[0].split(":")[0]) == "slurmstepd":
        return "slurmstepd"
    script = words[1] if len(words) > 1 and os.path.basename(words[0]).startswith("python") else ""
    names = [os.path.basename(word) for word in (*words[:1], script)]
    return "deepspeed" if any(name in _RUNNERS for name in names) else ""
