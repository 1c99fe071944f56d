"""Which launchers are above this process, as the system tells it: the witness that no variable can overwrite.

A launcher that is started inside another one replaces its variables, and each inner one makes a world of its
own. Only the chain of parents still shows both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from crossfoot.processes import above, run_by_python, words_of

LAUNCHER_SCRIPTS = {"torchrun": "torchrun", "accelerate-launch": "accelerate"}
LAUNCHER_MODULES = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "accelerate",
    "deepspeed.launcher.launch": "deepspeed",
}
"""What starts ranks on one machine, by the name under which it runs. (The command `deepspeed` itself only
starts deepspeed.launcher.launch on every machine.)"""


def launcher_of(words: Sequence[str]) -> str | None:
    """The launcher that a process with these command line words is; None for any other process.

    Only a program, a script that python was given, or a module behind -m counts: a shell whose command text
    names a launcher is none.
    """
    run = run_by_python(words)
    if run is not None and run[:1] in (["-m"], ["-c"]):
        return LAUNCHER_MODULES.get(run[1]) if run[0] == "-m" and len(run) > 1 else None
    program = list(words) if run is None else run
    names, rest = [os.path.basename(word) for word in program[:1]], program[1:]
    if names == ["accelerate"] and rest[:1] == ["launch"]:
        return "accelerate"
    return LAUNCHER_SCRIPTS.get(names[0]) if names else None


def launchers_above(pid: int | None = None) -> tuple[str, ...]:
    """The launchers among the parents of a process (default: this one), the outermost first."""
    found = [launcher_of(words_of(process)) for process in above(pid)]
    return tuple(launcher for launcher in reversed(found) if launcher is not None)
