"""This machine alone: the deepspeed launcher."""

from __future__ import annotations

from crossfoot.launch.job import Job, Rendered, script_file
from crossfoot.launch.shell_text import command_text, export


def render(job: Job) -> Rendered:
    """A script for one node."""
    launcher = [job.tool("deepspeed"), "--quiet", "--num_gpus", str(job.world_size)]
    if job.visible:  # with --num_gpus it would take GPUs 0, 1, ... instead
        launcher[2:] = ["--include", "localhost:" + ",".join(map(str, job.visible))]
    launcher += ["--master_port", str(job.port)]
    text = script_file(
        [
            *job.heading("on this machine, by the deepspeed launcher"),
            *(export(name, value) for name, value in job.exports.items()),
            command_text(["exec", *launcher], job.trained("--module")),
        ]
    )
    path = f"{job.stem}.sh"
    return Rendered(((path, text),), ("bash", path), (job.tool("deepspeed"),))
