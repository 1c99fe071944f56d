"""SLURM's variables of a job, as a witness."""

from __future__ import annotations

from collections.abc import Mapping

from crossfoot.written.launch.statement import LaunchFile


def read_job(environ: Mapping[str, str]) -> LaunchFile | None:
    """The job that this process is in, None outside of one."""
    return None
