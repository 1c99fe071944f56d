"""Several machines by the deepspeed launcher: from one of them over pdsh, or one launcher on each."""

from __future__ import annotations

from crossfoot.environment.forwarding import FORWARDED
from crossfoot.launch.job import Job, Rendered, script_file
from crossfoot.launch.ranks_here import MARK_VARIABLE
from crossfoot.launch.shell_text import WHICH_NODE, Raw, command_text, export, word_over_ssh

_NAMES = "|".join(("PATH", MARK_VARIABLE, *(name for name in FORWARDED if not name.startswith("NCCL_"))))


def render(job: Job) -> Rendered:
    """A script for one machine that reaches all others, or, with `no_ssh`, one that is run on each."""
    return _on_each_node(job) if job.options.no_ssh else _over_pdsh(job)


def _over_pdsh(job: Job) -> Rendered:
    launcher = [
        job.tool("deepspeed"),
        "--quiet",
        "--hostfile",
        job.options.hostfile or "",
        "--master_port",
        str(job.port),
    ]
    if job.options.address:
        launcher += ["--master_addr", job.options.address]
    if job.num_nodes == 1:
        launcher.append("--force_multi")  # else it starts here, whatever host the file names
    module, program, verb, *words = job.trained("--module")
    text = script_file(
        [
            *job.heading("by the deepspeed launcher over pdsh and ssh"),
            *(export(name, value) for name, value in job.exports.items()),
            "# a host that no longer answers ends the job",
            "export PDSH_SSH_ARGS_APPEND='-o ServerAliveInterval=5 -o ServerAliveCountMax=2'",
            "# what deepspeed sets on every host, besides PYTHON* and NCCL_*; no file keeps secrets",
            'export DS_ENV_FILE=$(mktemp) && exec 9<> "$DS_ENV_FILE" && rm "$DS_ENV_FILE"',
            "grep -hs = ~/.deepspeed_env .deepspeed_env >&9",
            f"env | grep -E '^({_NAMES})=' >&9",
            "export DS_ENV_FILE=/dev/fd/9",
            command_text(["exec", *launcher], [module, program, verb, *map(word_over_ssh, words)]),
        ]
    )
    path = f"{job.stem}.sh"
    return Rendered(((path, text),), ("bash", path), (job.tool("deepspeed"), "pdsh", "ssh"))


def _on_each_node(job: Job) -> Rendered:
    launcher = [job.tool("deepspeed"), "--quiet", "--no_ssh", "--node_rank", Raw('"$node"')]
    launcher += ["--master_addr", job.address or "", "--master_port", str(job.port)]
    launcher += ["--hostfile", job.options.hostfile or ""]
    text = script_file(
        [
            *job.heading("one deepspeed launcher on each host of the hostfile"),
            *(export(name, value) for name, value in job.exports.items()),
            WHICH_NODE,
            command_text(["exec", *launcher], job.trained("--module")),
        ]
    )
    path = f"{job.stem}.sh"
    return Rendered(
        ((path, text),), ("bash", path, str(job.options.node_rank or 0)), (job.tool("deepspeed"),)
    )
