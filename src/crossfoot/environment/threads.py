"""How many threads a rank computes with on a CPU, where nothing else says it: the cores of its machine,
divided by the ranks on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil

from crossfoot.environment.world import World

VARIABLE = "OMP_NUM_THREADS"
_SET_IT_THEMSELVES = ("torchrun", "accelerate")
"""Launchers that set it to 1 for their ranks where nobody has: a caution, and no answer."""


def threads_of(world: World, environ: Mapping[str, str]) -> tuple[int, str]:
    """(threads of this rank, where the number is from).

    What a person has set counts first: OMP_NUM_THREADS, SLURM_CPUS_PER_TASK (of the task, which may be a
    launcher that starts several ranks). Cores that this rank is bound to are its own; those that it shares
    with the ranks beside it are divided.
    """
    said = environ.get(VARIABLE, "").partition(",")[0]
    by_launcher = said == "1" and world.launcher in _SET_IT_THEMSELVES and not _launcher_was_told()
    if said.isdecimal() and int(said) and not by_launcher:
        return int(said), VARIABLE
    beside = world.local_world_size
    granted = environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdecimal() and int(granted):
        share = int(granted) if world.launcher == "srun" else int(granted) // beside
        return max(1, share), "SLURM_CPUS_PER_TASK"
    mine, launchers = _cores()
    if mine < launchers:
        return mine, "the cores that this rank is bound to"
    return max(1, mine // beside), f"{mine} cores / {beside} ranks" if beside > 1 else "the cores"


def _launcher_was_told() -> bool:
    """Whether OMP_NUM_THREADS stood in what the launcher above this process was started with."""
    try:
        return VARIABLE in psutil.Process(os.getppid()).environ()
    except psutil.Error:
        return True


def _cores() -> tuple[int, int]:
    """Cores that this process may use, and those that its parent may. Two threads of one core are one."""
    threads = psutil.cpu_count() or 1
    per_core = max(1, threads // (psutil.cpu_count(logical=False) or threads))
    try:
        mine, parents = (len(os.sched_getaffinity(process)) for process in (0, os.getppid()))
    except (AttributeError, OSError):  # not Linux, or the parent is gone
        mine = parents = threads
    return max(1, mine // per_core), max(1, parents // per_core)
