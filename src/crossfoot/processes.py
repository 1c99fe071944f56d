"""Processes of this machine: psutil's answers, where a process may be gone or another user's at any moment,
and what psutil does not have.

Where nothing can be seen of them (no /proc) nothing is known, and nothing is concluded.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Literal

import psutil

State = Literal["", "running", "stopped", "gone"]
"""`gone` counts a process that has ended and that nobody has asked for yet; "" is not known."""
_STATES: Mapping[str, State] = {
    psutil.STATUS_ZOMBIE: "gone",
    psutil.STATUS_DEAD: "gone",
    psutil.STATUS_STOPPED: "stopped",
    psutil.STATUS_TRACING_STOP: "stopped",
}
_DEEPEST = 64
_CGROUPS = Path("/sys/fs/cgroup")


def state_of(process: int | psutil.Process) -> State:
    """What the system says of a process, by its number; of one that was seen before, and whose number is
    another's now: gone.
    """
    try:
        seen = _seen(process)
        if seen.is_running():
            return _STATES.get(seen.status(), "running")
    except psutil.AccessDenied:
        return ""
    except psutil.NoSuchProcess:
        pass
    return "gone" if _sees_itself() else ""


def start_of(pid: int) -> str:
    """When a process of this machine was started, in the clock ticks of its boot: with the number it is the
    name of one process, whoever gets the number later. "" when that is not known.
    """
    try:
        text = _proc(f"{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[19]  # field 22; the second one, a name, may hold anything
    except (OSError, IndexError):
        return ""


def words_of(process: int | psutil.Process) -> list[str]:
    """The command line, without empty words; none when it cannot be read."""
    try:
        return [word for word in _seen(process).cmdline() if word]
    except psutil.Error:
        return []


def environ_of(process: int | psutil.Process) -> Mapping[str, str]:
    """The variables that a process was started with; none when they cannot be read: another user's."""
    try:
        found: Mapping[str, str] = _seen(process).environ()
    except (psutil.Error, OSError):
        return {}
    return found


def above(pid: int | None = None) -> Iterator[psutil.Process]:
    """The processes that a process (default: this one) descends from, its parent first; those of another
    container are not seen.
    """
    with suppress(psutil.Error):
        current = psutil.Process(pid)
        for _ in range(_DEEPEST):
            current = psutil.Process(current.ppid())
            yield current


def children() -> Mapping[int, Sequence[psutil.Process]]:
    """All processes that can be seen, by the number of their parent."""
    found: dict[int, list[psutil.Process]] = defaultdict(list)
    for pid in psutil.pids():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found[process.ppid()].append(process)
    return found


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


def this_machine() -> str:
    """Equal for two processes that see each other's process numbers: one boot of one machine, one PID
    namespace. "" when the system does not tell.
    """
    try:
        boot = _proc("sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink(_proc('self/ns/pid'))}"
    except (OSError, ValueError):
        return ""


def usable_cores() -> int:
    """Cores that this process may use, at least one: by its affinity, by the quota of its control groups, and
    by what SLURM gave to each task.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limits = [affinity, *_quotas(), *([int(task)] if task.isdecimal() else [])]
    return max(1, min(limits))


def free_memory() -> int:
    """Bytes that this process may still take without anything being moved to a disk: what the machine has
    left, or its control groups.
    """
    return max(0, min([int(psutil.virtual_memory().available), *_headrooms()]))


def peak_memory() -> int:
    """Most bytes of this process that were in memory at a time; where the system does not tell: now."""
    with suppress(OSError, StopIteration, ValueError):
        lines = _proc("self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10
    return int(psutil.Process().memory_info().rss)


def _quotas() -> Iterator[int]:
    """Whole cores that each control group of this process may use, where it has such a limit; of version 2
    (`cpu.max`) or 1 (`cpu.cfs_quota_us`).
    """
    for text in _limits("cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(ValueError):  # "max" is no number
            quota, period = map(int, text.split())
            if quota > 0:
                yield max(1, round(quota / period))


def _headrooms() -> Iterator[int]:
    """Bytes that each control group of this process may still take, where it has such a limit. A group counts
    what it has read of files too, which it gives back when it must.
    """
    files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    for text in _limits("memory", ("memory.max", "memory.current", "memory.stat"), files):
        limit, used, *stat = text.split()
        with suppress(ValueError):
            inactive = [int(number) for name, number in pairwise(stat) if name.endswith("inactive_file")]
            yield int(limit) - int(used) + max(inactive, default=0)


def _limits(controller: str, second: Sequence[str], first: Sequence[str]) -> Iterator[str]:
    """What the files of a controller say, of each control group of this process that has them. second, first:
    their names in version 2 and 1.
    """
    with suppress(OSError):
        for line in _proc("self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            folder = Path(path)
            for group in (folder, *folder.parents):
                place = _CGROUPS / controllers / group.relative_to("/")
                with suppress(OSError, ValueError):
                    yield " ".join(
                        (place / name).read_text(encoding="ascii")
                        for name in (first if controllers else second)
                    )


def has_handler(pid: int, number: signal.Signals) -> bool:
    """Whether a process handles a signal itself; True when the system does not tell."""
    try:
        status = _proc(f"{pid}/status").read_text(encoding="utf-8", errors="replace")
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
    except (OSError, ValueError, IndexError, StopIteration):
        return True


def _seen(process: int | psutil.Process) -> psutil.Process:
    return psutil.Process(process) if isinstance(process, int) else process


def _sees_itself() -> bool:
    try:
        psutil.Process()
    except psutil.Error:
        return False
    return True


def _proc(name: str) -> Path:
    return Path(getattr(psutil, "PROCFS_PATH", "/proc"), name)


def end_with(parent: int, number: int) -> None:
    """Get this signal when the parent is gone, by kill -9 too (Linux; elsewhere nothing is done). Ends this
    process at once where it is gone already.
    """
    set_parent_death_signal = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)
    if os.getppid() != parent:
        sys.exit("nobody is there any more to work for")
