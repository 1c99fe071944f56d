"""accelerate's launcher: its config file, and the command. One process for a dry run, or all ranks.

Without a file of its own it would read the user's default one (`accelerate config` writes it), which may
bring an engine, another number of processes or another precision.
"""

from __future__ import annotations

import json

from crossfoot.launch.job import Job, Rendered, script_file
from crossfoot.launch.shell_text import WHICH_NODE, Raw, command_text, export
from crossfoot.phrases import counted


def render(job: Job) -> Rendered:
    """A script and accelerate's file. A dry run is one process, into which the plan is folded."""
    is_alone = job.options.dry_run or job.world_size == 1
    machines = 1 if is_alone else job.num_nodes
    settings = f"{job.stem}.yaml"
    launcher = [job.tool("accelerate"), "launch", "--config_file", settings]
    first: list[str] = []
    command = ["bash", f"{job.stem}.sh"]
    if machines > 1:
        first = [WHICH_NODE]
        launcher += ["--machine_rank", Raw('"$node"')]
        command.append(str(job.options.node_rank or 0))
    how = f"by accelerate, on {counted(machines, 'machine')}"
    if job.options.dry_run:
        how = "folded into one process by accelerate: a dry run"
    text = script_file(
        [
            *job.heading(how),
            *(export(name, value) for name, value in job.exports.items()),
            *first,
            command_text(["exec", *launcher], job.trained()),
        ]
    )
    return Rendered(
        ((f"{job.stem}.sh", text), (settings, _settings(job, is_alone))),
        tuple(command),
        (job.tool("accelerate"),),
    )


def _settings(job: Job, is_alone: bool) -> str:
    lines = [
        *job.heading("started by accelerate; crossfoot drives DeepSpeed itself"),
        "compute_environment: LOCAL_MACHINE",
        f"distributed_type: {json.dumps('NO') if is_alone else 'MULTI_GPU'}",
        f"num_machines: {1 if is_alone else job.num_nodes}",
        f"num_processes: {1 if is_alone else job.world_size}",
    ]
    if not is_alone:
        if job.num_nodes > 1:
            lines.append(f"main_process_ip: {json.dumps(job.address)}")
        lines.append(f"main_process_port: {job.port}")
    if is_alone and not job.uses_gpus:
        lines.append("use_cpu: true")
    lines.append('mixed_precision: "no"   # model.dtype decides')
    return "\n".join(lines) + "\n"
