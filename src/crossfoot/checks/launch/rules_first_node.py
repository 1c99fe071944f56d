"""CF475 and CF478: what a batch script starts on its first node only."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.launch.planned import commands, nodes_or_one, planned_ranks, planned_topology
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted
from crossfoot.written.launch.accelerate_file import whole
from crossfoot.written.launch.stating import (
    allocation_nodes,
    command_statements,
    gpus_of,
    is_dry_run,
    machines_and_processes,
)


@rule("CF475", "error", "warning")
def alone_in_a_job(facts: Facts) -> Iterator[Finding]:
    """CF475: a batch job of several tasks, nodes or GPUs starts one process.

    The shell of a batch script is one process on the first node. Without srun or a launcher, python there is
    the whole run: it folds the plan into itself and uses one GPU while the others wait, or, when SLURM counts
    several tasks or nodes, is refused at start-up (CF414, CF442). (lies B17, U2)
    """
    planned = planned_ranks(facts) or 1
    for file, command in commands(facts):
        if file.batch is None or not is_dry_run(command, command_statements(command, file)):
            continue
        topology = planned_topology(facts)
        tasks_of_all = f"--ntasks={planned}"
        if topology is None or topology.is_even:
            tasks_of_all = f"--ntasks-per-node={divmod(planned, nodes_or_one(facts))[0]}"
        nodes, tasks = file.batch.get("--nodes"), file.batch.get("--ntasks", "--ntasks-per-node")
        claim = next((each for each in (nodes, tasks) if each and each.number and each.number > 1), None)
        name = command.launcher.kind
        if claim is not None:
            yield Finding(
                "CF475",
                f"{name} is started once, in a job of several {'nodes' if claim is nodes else 'tasks'}",
                place=command.launcher.place,
                others=((claim.place, "asked for here"),),
                notes=("crossfoot refuses to start there: the other tasks might be the same run again",),
                helps=(
                    f"start the ranks: srun {tasks_of_all} python train.py CONFIG",
                    "or, for a dry run in one process, ask for one task on one node",
                ),
            )
            continue
        asked = next(iter(gpus_of(file.batch, allocation_nodes(file.batch))), None)
        if name == "python" and asked is not None and asked[1] > 1 and planned > 1:
            yield Finding(
                "CF475",
                f"python is started once, and uses one of {asked[1]} GPUs",
                severity="warning",
                place=command.launcher.place,
                others=((asked[0].place, f"{asked[1]} GPUs are asked for"),),
                notes=(f"one process folds the plan of {counted(planned, 'rank')} into itself",),
                helps=(f"start the ranks: deepspeed --num_gpus {asked[1]} train.py CONFIG",),
            )


@rule("CF478")
def first_node_only(facts: Facts) -> Iterator[Finding]:
    """CF478: a launcher that every node needs is started by the batch script on the first node only.

    torchrun and accelerate start the ranks of the machine that they run on. A batch script runs on the first
    node; the others have nothing to do, and the first one waits for them until a timeout. srun starts the
    launcher on all nodes. (lies B17, U2)
    """
    for file, command in commands(facts):
        inner = command.launcher
        if file.batch is None or inner.kind not in ("torchrun", "accelerate") or command.layer("srun"):
            continue
        nodes = allocation_nodes(file.batch)
        option = inner.get("--nnodes", "--num_machines")
        spans = option.number if option and option.number else None
        if option is not None and spans is None:
            spans = nodes
        if inner.kind == "accelerate" and option is None:
            spans = whole(machines_and_processes(command, file)[0])
        if nodes and nodes > 1 and spans and spans > 1:
            asked = file.batch.get("--nodes")
            yield Finding(
                "CF478",
                f"{inner.kind} is started on the first node only, "
                f"and waits there for {counted(spans - 1, 'other node')}",
                place=inner.place,
                others=((asked.place, "nodes of the job"),) if asked else (),
                helps=(f"start it on every node: srun --ntasks-per-node=1 {inner.kind} ...",),
            )
