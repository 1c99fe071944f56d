"""What this machine gives to each run of a study: processes, cores, GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossfoot.environment.threads import VARIABLE as THREADS
from crossfoot.launch.job import PORT
from crossfoot.processes import usable_cores

_PORTS_APART = 100
_ASK_SECONDS = 30.0


@dataclass(frozen=True)
class Machine:
    """What runs are given here. ranks: processes of a run; 1 where its plan is folded into one. at_once: runs
    at a time. gpus: their names as CUDA_VISIBLE_DEVICES has them, none on CPUs. launches: through `crossfoot
    launch --to local`.
    """

    ranks: int
    at_once: int
    gpus: tuple[str, ...] = ()
    launches: bool = False

    def command(self, config: str, words: Sequence[str], place: int) -> list[str]:
        """What trains a run, or goes on with it. place: of at_once, from 0."""
        verb = ["launch"] if self.launches else ["train"]
        to = ["--to", "local", "--port", str(PORT + _PORTS_APART * place)] if self.launches else []
        return [sys.executable, "-u", "-m", "crossfoot", *verb, config, *words, *to, "--continue", "auto"]

    def environ(self, place: int) -> dict[str, str]:
        """Variables of that process: its share of the cores, where nobody has said another, and of the GPUs,
        which more runs than they hold use in turns.
        """
        own = {**os.environ}
        own.setdefault(THREADS, str(max(1, usable_cores() // (self.at_once * self.ranks))))
        if self.gpus:
            hold = max(1, len(self.gpus) // self.ranks)
            first = place % hold * self.ranks
            own["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus[first : first + self.ranks])
        return own


def visible_gpus(environ: Mapping[str, str], listed: Sequence[str]) -> tuple[str, ...]:
    """GPUs that this process may use, by name. listed: all that the driver has; none where the ranks are to
    compute on CPUs.
    """
    if environ.get("DS_ACCELERATOR", "").lower() == "cpu":
        return ()
    said = environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return tuple(word.strip() for word in said.split(",") if word.strip() not in ("", "-1"))
    return tuple(listed)


def listed_gpus() -> tuple[str, ...]:
    """Those that the driver has, by number; none where it does not say."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return ()
    return tuple(word for line in said.stdout.splitlines() if (word := line.strip()).isdecimal())
