"""Which launchers are above this process, as the system tells it: the witness that no variable can overwrite.

A launcher that is started inside another one replaces its variables, and each inner one makes a world of its
own. Only the chain of parents still shows both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

LAUNCHER_SCRIPTS = {"torchrun": "torchrun", "accelerate-launch": "accelerate"}
LAUNCHER_MODULES = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "accelerate",
    "deepspeed.launcher.launch": "deepspeed",
}
"""What starts ranks on one machine, by the name under which it runs. (The command `deepspeed` itself only
starts deepspeed.launcher.launch on every machine.)"""
_DEEPEST = 64


def launcher_of(words: Sequence[str]) -> str | None:
    """The launcher that a process with these command line words is; None for any other process.

    Only a program, a script that python was given, or a module behind -m counts: a shell whose command text
    names a launcher is none.
    """
    names = [os.path.basename(word) for word in words[:1]]
    rest = list(words[1:])
    if names and names[0].startswith("python"):
        while rest and rest[0].startswith("-") and rest[0] not in ("-m", "-c"):
            rest = rest[2:] if rest[0] in ("-W", "-X") else rest[1:]
        if rest[:1] == ["-m"]:
            return LAUNCHER_MODULES.get(rest[1]) if len(rest) > 1 else None
        if rest[:1] == ["-c"]:
            return None
        names, rest = [os.path.basename(word) for word in rest[:1]], rest[1:]
    if names == ["accelerate"] and rest[:1] == ["launch"]:
        return "accelerate"
    return LAUNCHER_SCRIPTS.get(names[0]) if names else None


def launchers_above(pid: int | None = None, proc: str = "/proc") -> tuple[str, ...]:
    """The launchers among the parents of a process (default: this one), the outermost first.

    Linux only: elsewhere, and where a parent is in another container, nothing more is found.
    """
    found: list[str] = []
    current = os.getpid() if pid is None else pid
    for _ in range(_DEEPEST):
        current = _parent(current, proc)
        if current <= 0:
            break
        launcher = launcher_of(_words(current, proc))
        if launcher is not None:
            found.append(launcher)
    return tuple(reversed(found))


def _parent(pid: int, proc: str) -> int:
    try:
        text = Path(proc, str(pid), "stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[1])  # the name in brackets may hold anything
    except (OSError, ValueError, IndexError):
        return 0


def _words(pid: int, proc: str) -> list[str]:
    try:
        text = Path(proc, str(pid), "cmdline").read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [word for word in text.split("\0") if word]
