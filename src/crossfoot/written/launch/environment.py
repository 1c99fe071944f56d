"""What SLURM's variables say inside a job.

SLURM_GPUS_PER_NODE is set only by `--gpus-per-node`, SLURM_GPUS_ON_NODE by every way of asking (and counts
this node's). SLURM_JOB_NUM_NODES and SLURM_NNODES are set in every job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from crossfoot.findings.finding import Place
from crossfoot.written.launch.gpu_counts import gpu_count
from crossfoot.written.launch.statement import LaunchFile, Statement

PATH = "SLURM's variables"


def read_job(environ: Mapping[str, str]) -> LaunchFile | None:
    """The job that this process runs in; None outside of one."""
    if not environ.get("SLURM_JOB_ID", "").strip():
        return None
    return LaunchFile(PATH, "environment", tuple(_statements(environ)))


def _statements(environ: Mapping[str, str]) -> Iterator[Statement]:
    for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"):
        text = environ.get(name, "").strip()
        if text.isascii() and text.isdigit() and int(text[:9]) > 0:
            yield Statement("num_nodes", int(text[:9]), Place(name), f"{name}={text}", "job")
            break
    for name in ("SLURM_GPUS_PER_NODE", "SLURM_GPUS_ON_NODE"):
        text = environ.get(name, "").strip()
        count = gpu_count(text)
        if count:
            yield Statement("gpus_per_node", count, Place(name), f"{name}={text}", "job")
            break
