"""One torchrun on each machine; they meet at the first one."""

from __future__ import annotations

from crossfoot.launching.job import Job, Rendered, script_file
from crossfoot.launching.shell_text import command_text, export


def render(job: Job) -> Rendered:
    """A script; for several nodes the same one is run on each, and they number themselves."""
    per_node = ["--nproc-per-node", str(job.gpus_per_node)]
    if job.num_nodes == 1:
        how, options = "by torchrun on this machine", ["--standalone", *per_node]
    else:
        how = f"one torchrun on each of {job.num_nodes} machines"
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{job.address}:{job.port}"]
        options = ["--nnodes", str(job.num_nodes), *per_node, *meeting, "--rdzv-id", job.name]
    text = script_file(
        [
            *job.heading(how),
            *(export(name, value) for name, value in job.exports.items()),
            command_text(["exec", job.tool("torchrun"), *options], job.trained()),
        ]
    )
    path = f"{job.stem}.sh"
    return Rendered(((path, text),), ("bash", path), (job.tool("torchrun"),))
