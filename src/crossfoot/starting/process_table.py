"""What the system tells of a process of this machine: its state, its parent, its command line. Linux only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def fields_of(pid: int, proc: str = "/proc") -> list[str]:
    """The fields of a process's `stat` after its name: state, parent and so on; none when there is none."""
    try:
        text = Path(proc, str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name in brackets may hold anything


def parent_of(pid: int, proc: str = "/proc") -> int:
    """The number of the process that started it; 0 when there is none, or it is not known."""
    try:
        return int(fields_of(pid, proc)[1])
    except (ValueError, IndexError):
        return 0


def words_of(pid: int, proc: str = "/proc") -> list[str]:
    """The command line, without empty words."""
    try:
        text = Path(proc, str(pid), "cmdline").read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [word for word in text.split("\0") if word]


def run_by_python(words: Sequence[str]) -> list[str] | None:
    """What python was given to run, behind its own options: `-m MODULE ...`, `-c ...` or `SCRIPT ...`. None
    for a command line that is not python's.
    """
    if not words or not os.path.basename(words[0]).startswith("python"):
        return None
    rest = list(words[1:])
    while rest and rest[0].startswith("-") and rest[0] not in ("-m", "-c"):
        rest = rest[2:] if rest[0] in ("-W", "-X") else rest[1:]
    return rest
