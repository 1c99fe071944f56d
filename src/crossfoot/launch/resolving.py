"""From the run config and the words of the command line to a job."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence

from crossfoot.environment.forwarding import forwarded
from crossfoot.environment.master_address import why_not_free
from crossfoot.findings.finding import Finding, Refused
from crossfoot.launch import slurm
from crossfoot.launch.findings import (
    cluster_unknown,
    hostfile_needed,
    meeting_point_unknown,
    node_unknown,
    nodes_not_alike,
    one_machine_only,
    option_elsewhere,
    visible_devices,
    warned_at_once,
)
from crossfoot.launch.job import PORT, Job, LaunchOptions, tools_folder
from crossfoot.planning.prepare import CheckedRun, read_and_check
from crossfoot.runs.changing import refusals_of_allow
from crossfoot.runs.dry_run import dry_dir_of
from crossfoot.runs.findings import allow_without_continue
from crossfoot.runs.restarts import AUTO
from crossfoot.runs.resume_command import LAUNCH_FOLDER
from crossfoot.written.launch.statement import Host, with_named
from crossfoot.written.overriding import setting

DRY_STEPS = 3
_MACHINES = "--to deepspeed, torchrun or accelerate"
_NUMBERED = "--to deepspeed --no-ssh, accelerate, or torchrun on nodes that are not alike"
_SLURM = "--to slurm"
_PORTS_TRIED = 64


def refuse_options(options: LaunchOptions) -> None:
    """Refused with every option that would be ignored."""
    is_slurm, by_hand = options.target == "slurm", options.target in ("deepspeed", "torchrun", "accelerate")
    numbered = options.target in ("accelerate", "torchrun") or options.no_ssh
    given = (
        ("--hostfile", options.hostfile, by_hand, _MACHINES),
        ("--address", options.address, by_hand, _MACHINES),
        ("--port", options.port, not is_slurm, f"{_MACHINES} or local"),
        ("--no-ssh", options.no_ssh or None, options.target == "deepspeed", "--to deepspeed"),
        ("--node-rank", options.node_rank, numbered, _NUMBERED),
        ("--partition", options.partition, is_slurm, _SLURM),
        ("--account", options.account, is_slurm, _SLURM),
        ("--time", options.time, is_slurm, _SLURM),
        ("--cpus-per-task", options.cpus_per_task, is_slurm, _SLURM),
        ("--signal-seconds", options.signal_seconds, is_slurm, _SLURM),
        ("--tasks", options.tasks, is_slurm, _SLURM),
        ("--detach", options.detach or None, is_slurm, _SLURM),
        ("--dry-run", options.dry_run or None, options.target == "accelerate", "--to accelerate"),
        ("--steps", options.steps, options.dry_run, "--dry-run"),
        ("--continue", options.continued, not options.dry_run, "a run, not a dry run"),
        ("--take-over", options.take_over or None, options.continued is not None, "--continue"),
    )
    wrong = [
        option_elsewhere(option, belongs)
        for option, value, fits, belongs in given
        if value is not None and not fits
    ]
    unknown = refusals_of_allow(options.allow)
    wrong += unknown
    if options.allow and not unknown and options.continued is None:
        wrong.append(allow_without_continue(options.allow))
    limit = slurm.limit_seconds(options.time) if options.time is not None else None
    warning = options.signal_seconds or slurm.SIGNAL_SECONDS
    if limit is not None and limit <= warning:
        wrong.append(warned_at_once(options.time or "", warning))
    if wrong:
        raise Refused(wrong)


def read_run_for(config: str, overrides: Sequence[str], options: LaunchOptions) -> CheckedRun:
    """The run as the ranks will read it, the hostfile held against it. Refused with all that is wrong."""
    words = list(overrides)
    if options.continued not in (None, AUTO):
        words.append(setting("run.dir", options.continued))
    checked = read_and_check(config, words, launch_files=[options.hostfile] if options.hostfile else [])
    checked.refuse()
    return checked


def make_job(
    checked: CheckedRun,
    overrides: Sequence[str],
    options: LaunchOptions,
    environ: Mapping[str, str],
    *,
    stem: str | None = None,
) -> Job:
    """The job. stem: where its files are to be; None: in the run folder. Refused with all that is missing."""
    run = checked.run
    findings = list(_missing(checked, options))
    uses_gpus = environ.get("DS_ACCELERATOR", "").lower() != "cpu"
    topology = checked.sourced.topology
    visible: tuple[int, ...] = ()
    if options.target == "local" and uses_gpus:
        try:
            visible = _visible(environ.get("CUDA_VISIBLE_DEVICES", ""), topology.world_size)
        except ValueError as reason:
            findings.append(visible_devices(str(reason)))
    if findings:
        raise Refused(findings)
    run_dir, words = run.run_dir, list(overrides)
    if options.dry_run:
        run_dir = dry_dir_of(run_dir)
        words += [setting("run.dir", run_dir), "--stop-after", str(options.steps or DRY_STEPS)]
    words += options.resume_words
    return Job(
        name=run.config.run.name,
        config=run.path,
        words=tuple(words),
        run_dir=run_dir,
        cluster=topology,
        stem=stem or os.path.join(run_dir, LAUNCH_FOLDER, options.target),
        options=options,
        made_by=(*made_by(run.path, overrides, options), *(("--write", stem) if stem else ())),
        tools=tools_folder(),
        exports=forwarded(environ),
        uses_gpus=uses_gpus,
        visible=visible,
        hosts=tuple(host.name for host in hosts_of(checked)),
        port=options.port or PORT,
    )


def made_by(config: str, overrides: Sequence[str], options: LaunchOptions) -> Iterator[str]:
    """The words after `crossfoot` that render this job again, here."""
    yield from ("launch", config, *overrides, "--to", options.target)
    if options.continued is not None:
        yield from ("--continue", options.continued)
    for key in options.allow:
        yield from ("--allow", key)
    for name in ("dry_run", "no_ssh"):
        if getattr(options, name):
            yield "--" + name.replace("_", "-")
    valued = ("steps", "hostfile", "address", "port", "partition", "account", "time", "cpus_per_task")
    for name in (*valued, "signal_seconds", "tasks"):
        value = getattr(options, name)
        if value is not None:
            yield from ("--" + name.replace("_", "-"), str(value))


def node_rank_of(job: Job) -> int:
    """Which node this machine is. Refused when nothing says so."""
    if job.options.node_rank is not None or job.num_nodes == 1:
        return job.options.node_rank or 0
    here = socket.gethostname()
    for rank, host in enumerate(job.hosts):
        if host == here or host.split(".")[0] == here.split(".")[0]:
            return rank
    raise Refused(node_unknown(here, job.hosts))


def free_port(port: int) -> int:
    """The port, or the next one that is free on this machine."""
    tried = range(port, port + _PORTS_TRIED)
    return next((each for each in tried if why_not_free(each) is None), port)


def _missing(checked: CheckedRun, options: LaunchOptions) -> Iterator[Finding]:
    run, target = checked.run, options.target
    cluster = run.config.cluster
    pairs = (("cluster.num_nodes", cluster.num_nodes), ("cluster.gpus_per_node", cluster.gpus_per_node))
    unsaid = [key for key, value in pairs if value is None]
    topology = checked.sourced.topology
    num_nodes = topology.num_nodes
    if target == "deepspeed" and not options.hostfile:
        yield hostfile_needed(target)
    elif unsaid and not options.hostfile:
        yield cluster_unknown(run, unsaid, target)
    elif target == "local" and num_nodes > 1:
        yield one_machine_only(run, num_nodes)
    elif target in ("torchrun", "accelerate") and num_nodes > 1:
        is_told = options.dry_run or options.address or hosts_of(checked)
        yield from () if is_told else (meeting_point_unknown(target, num_nodes),)
    if not topology.is_even and target == "accelerate" and not options.dry_run:
        why = "accelerate divides num_processes by num_machines, and starts as many on each machine"
        yield nodes_not_alike(run, topology, "--to accelerate", why)
    if not topology.is_even and options.tasks == "node":
        why = "srun starts the same torchrun on every node, with one number of ranks"
        yield nodes_not_alike(run, topology, "--tasks node", why)
    if topology.is_even and target == "torchrun" and options.node_rank is not None:
        yield option_elsewhere("--node-rank", _NUMBERED)


def hosts_of(checked: CheckedRun) -> tuple[Host, ...]:
    """The hosts of the hostfile, in order."""
    return tuple(host for file in with_named(checked.facts.launch) for host in file.hosts)


def _visible(text: str, world_size: int) -> tuple[int, ...]:
    """The GPUs of CUDA_VISIBLE_DEVICES that are to be used. ValueError: why they cannot be."""
    listed = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not listed:
        return ()
    if not all(entry.isascii() and entry.isdigit() for entry in listed):
        raise ValueError(f"CUDA_VISIBLE_DEVICES={text} names GPUs otherwise than by number")
    if len(listed) < world_size:
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={text} shows {len(listed)} of the {world_size} GPUs of the plan"
        )
    return tuple(int(entry) for entry in listed[:world_size])
