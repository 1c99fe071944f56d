"""One torchrun on each machine; they meet at the first one."""

from __future__ import annotations

from crossfoot.launch.job import Job, Rendered, script_file
from crossfoot.launch.shell_text import WHICH_NODE, Raw, command_text, export


def render(job: Job) -> Rendered:
    """A script; for several nodes the same one is run on each, and they number themselves. Where nodes are
    not alike, each must be told which one it is.
    """
    gpus, path = job.cluster.gpus_per_node, f"{job.stem}.sh"
    per_node, first, command = ["--nproc-per-node", str(gpus)], [], ["bash", path]
    if not isinstance(gpus, int):
        per_node = ["--nproc-per-node", Raw('"${gpus[node]}"')]
        first = [WHICH_NODE, f"gpus=({' '.join(map(str, gpus))})"]
        command.append(str(job.options.node_rank or 0))
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
            *first,
            command_text(["exec", job.tool("torchrun"), *options], job.trained()),
        ]
    )
    return Rendered(((path, text),), tuple(command), (job.tool("torchrun"),))
