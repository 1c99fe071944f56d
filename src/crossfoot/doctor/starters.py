"""What this machine can start runs with: SLURM, pdsh and ssh. Asked of the commands themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from crossfoot.phrases import said_by

_SECONDS = 5.0
_CONFIG_LOST = ("configuration source", "slurm.conf", "fetch config")


@dataclass(frozen=True)
class Slurm:
    """SLURM as its commands see it. version: "" when they do not say. partitions: (name, with a star when it
    is the default, state, nodes). problem: why the controller tells nothing. is_configured: a cluster is
    known to this machine. job: the job that this shell is in, "" outside of one.
    """

    version: str = ""
    partitions: tuple[tuple[str, str, int], ...] = ()
    problem: str = ""
    is_configured: bool = True
    job: str = ""


@dataclass(frozen=True)
class Starters:
    """slurm: None when its commands are not installed. pdsh, ssh: a version, None when it is not there."""

    slurm: Slurm | None
    pdsh: str | None
    ssh: str | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def look_at_starters(environ: Mapping[str, str]) -> Starters:
    """All three at once; each command has a few seconds."""
    with ThreadPoolExecutor() as pool:
        slurm = pool.submit(_slurm, environ)
        pdsh = pool.submit(_version, "pdsh", "-V")
        ssh = pool.submit(_version, "ssh", "-V")
        return Starters(slurm.result(), pdsh.result(), ssh.result())


def _slurm(environ: Mapping[str, str]) -> Slurm | None:
    if shutil.which("sinfo") is None:
        return None
    job = environ.get("SLURM_JOB_ID", "")
    said, failed = _said("sinfo", "--noheader", "--format=%P %a %D")
    if failed:
        is_configured = not any(words in said for words in _CONFIG_LOST)
        last = said.splitlines()[-1] if said else "no answer"
        problem = last.removeprefix("sinfo: ").removeprefix("error: ").removeprefix("fatal: ")
        return Slurm(_slurm_version(), (), problem, is_configured, job)
    rows = [line.split() for line in said.splitlines()]
    partitions = tuple((row[0], row[1], int(row[2])) for row in rows if len(row) == 3 and row[2].isdigit())
    return Slurm(_slurm_version(), partitions, "", True, job)


def _slurm_version() -> str:
    said, failed = _said("sinfo", "--version")
    return "" if failed else said.removeprefix("slurm ").removeprefix("slurm-wlm ").strip()


def _version(*command: str) -> str | None:
    """The first words of what a command says of itself: `pdsh-2.34`, `OpenSSH_9.2p1`."""
    if shutil.which(command[0]) is None:
        return None
    said = _said(*command)[0].split()
    name = said[0].rstrip(",") if said else "?"
    return name.removeprefix("pdsh-").removeprefix("OpenSSH_")


def _said(*command: str) -> tuple[str, bool]:
    """What a command prints, errors too, and whether it failed."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} gave no answer within {_SECONDS:.0f} s", True
    except OSError as error:
        return said_by(error), True
    return done.stdout.strip(), done.returncode != 0
