"""CF462 to CF464 and CF471: launchers that would not make one world of all ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator

from crossfoot.checks.launch.planned import commands, nodes_or_one
from crossfoot.checks.launch.rank_variables import ON_EVERY_NODE, fixed_for_all
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding, Place
from crossfoot.phrases import counted
from crossfoot.written.launch.batch_script import array_size
from crossfoot.written.launch.statement import UNKNOWN, Command, LaunchFile, Layer, Option
from crossfoot.written.launch.stating import (
    command_statements,
    machines_and_processes,
    named_by,
    starts_launcher,
    tasks_of,
    trains,
    visible_gpus,
)

_RANKS_DIRECTLY = "start the ranks with srun itself: srun --ntasks-per-node=N python train.py CONFIG"


@rule("CF462", name="launch-launchers-apart")
def launchers_apart(facts: Facts) -> Iterator[Finding]:
    """CF462: several launchers would be started that do not know of each other.

    srun starts its command once for every task. When that command is a launcher, each copy makes a world of
    its own: the same run several times, on the same samples, all writing to one folder. A launcher under srun
    is started once for each node (`--ntasks-per-node=1`) and told of the other nodes (torchrun `--nnodes` and
    `--rdzv-endpoint`, deepspeed `--no_ssh --node_rank $SLURM_NODEID --hostfile`), or once in all. The same
    holds for a launcher inside another one. At start-up this is CF415. (lie B17)

    `#SBATCH --array=0-3` is four jobs. When their command names neither a config nor a run.name or run.dir
    that depends on `$SLURM_ARRAY_TASK_ID`, they are one run four times; `--array=0-3%1` with `--continue
    auto` is a chain of jobs that go on with one run.
    """
    yield from _array(facts)
    for file, command in commands(facts):
        inner = command.layer("deepspeed", "torchrun", "accelerate")
        if inner is None:
            continue
        yield from _nested(command)
        tasks = tasks_of(command, file.batch)
        if tasks is None or not inner.is_complete:
            continue
        place = tasks.option.place if tasks.option else _srun_place(command)
        where = ((inner.place, f"{inner.kind} is started here"),) if place.line != inner.place.line else ()
        if tasks.per_node is not None and tasks.per_node > 1:
            words = tasks.option.words if tasks.option else "srun"
            yield Finding(
                "CF462",
                f"{words} starts {tasks.per_node} {inner.kind} launchers on each node, each with own ranks",
                place=place,
                others=where,
                helps=("start one launcher on each node: --ntasks-per-node=1", f"or {_RANKS_DIRECTLY}"),
            )
        elif tasks.total is not None and tasks.total > 1:
            repair = _how_to_join(command, file, inner)
            if repair is not None:
                yield Finding(
                    "CF462",
                    f"srun starts {inner.kind} {tasks.total} times, and each makes a world of its own",
                    place=inner.place,
                    notes=("the same run would be trained several times, all in one folder",),
                    helps=(repair, f"or {_RANKS_DIRECTLY}"),
                )


def _srun_place(command: Command) -> Place:
    layer = command.layer("srun")
    return layer.place if layer else command.launcher.place


def _nested(command: Command) -> Iterator[Finding]:
    kinds = [layer for layer in command.layers if layer.kind in ("deepspeed", "torchrun", "accelerate")]
    script = command.script
    name = os.path.basename(script.text) if script else ""
    second = (
        kinds[1].place if len(kinds) > 1 else script.place if script and starts_launcher(command) else None
    )
    if second is not None:
        named = kinds[1].kind if len(kinds) > 1 else name
        yield Finding(
            "CF462",
            f"{kinds[0].kind} starts {named}: every rank of the one would start a world of the other",
            place=second,
            others=((kinds[0].place, "started here"),) if kinds[0].place.line != second.line else (),
            helps=("keep one of the two launchers",),
        )


def _array(facts: Facts) -> Iterator[Finding]:
    """Jobs of an array that would all start one run."""
    for file, command in commands(facts):
        option = file.batch.get("--array") if file.batch else None
        count, at_once = array_size(option.value or "") if option else (1, 1)
        if option is None or count < 2 or not trains(command) or _differs_by_task(command):
            continue
        continues = any(word.text.startswith("--continue") for word in command.arguments)
        if at_once == 1 and continues:
            continue  # a chain of jobs, one after the other
        helps = ["give each its own run: run.name=NAME-$SLURM_ARRAY_TASK_ID"]
        if at_once == 1:
            helps = ["let each go on with the run: add --continue auto", f"or {helps[0]}"]
        yield Finding(
            "CF462",
            f"{option.words} starts {counted(count, 'job')}, and all of them start the same run",
            place=option.at,
            others=((command.launcher.place, "started by each job"),),
            notes=("one of them trains, and the others find its run folder and are refused",),
            helps=tuple(helps),
        )


def _differs_by_task(command: Command) -> bool:
    """Whether the run, or its folder, depends on what only the job knows."""
    words = [word.text for word in command.arguments if UNKNOWN in word.text]
    folder = ("run.name=", "run.dir=")
    return any(word.startswith(folder) or "=" not in word.partition(UNKNOWN)[0] for word in words)


def _how_to_join(command: Command, file: LaunchFile, inner: Layer) -> str | None:
    """What a launcher lacks that srun starts on every node; None when it is told of the others."""
    if inner.kind == "deepspeed":
        if inner.lacks("--no_ssh"):
            return (
                "let each one start its own node: deepspeed --no_ssh --node_rank $SLURM_NODEID "
                "--master_addr HOST --hostfile FILE"
            )
        return None
    if inner.kind == "torchrun":
        nodes = inner.get("--nnodes")
        apart = inner.get("--standalone") or nodes is None or nodes.value in ("1", "1:1")
        if apart and command.export("PET_NNODES") is None:
            return (
                "tell them of each other: --nnodes $SLURM_NNODES --rdzv-backend c10d "
                "--rdzv-endpoint HOST:PORT"
            )
        return None
    machines, _ = machines_and_processes(command, file)
    unknown = inner.get("--config_file") and not named_by(command, "accelerate file", file)
    if machines in (None, 1) and not unknown and not (machines is None and inner.get("--num_machines")):
        return "tell them of each other: --num_machines $SLURM_NNODES --machine_rank $SLURM_NODEID"
    return None


@rule("CF463", name="launch-no-master-address")
def no_meeting_point(facts: Facts) -> Iterator[Finding]:
    """CF463: launchers on several nodes are not told where to meet, or which node each of them is.

    torchrun without `--rdzv-endpoint` or `--master-addr` meets at 127.0.0.1, which is another machine on each
    node; without `--node-rank` (and without c10d) every node is node 0. An exported MASTER_ADDR is not read
    by torchrun. accelerate stops without `main_process_ip`. deepspeed --no_ssh stops without `--node_rank`.
    The nodes wait for each other until a timeout. (lies B17, U2)

    A number of the node that the batch shell fills in is the same on all nodes: `$SLURM_NODEID` is 0 there,
    and its own on each node only inside `srun bash -c '...'`. RANK, LOCAL_RANK and WORLD_SIZE that a script
    sets before srun are the same for every task, and a task that is told two numbers refuses to start.
    """
    yield from fixed_for_all(facts)
    for file, command in commands(facts):
        inner = command.launcher
        rank = _same_on_all_nodes(command, file)
        if rank is not None:
            yield _every_node(rank, command)
        elif inner.kind == "torchrun" and _spans_nodes(facts, inner.get("--nnodes")):
            yield from _torchrun_meets(command, inner)
        elif inner.kind == "accelerate":
            yield from _accelerate_meets(command, inner, file)
        elif (no_ssh := inner.get("--no_ssh")) and inner.lacks("--node_rank"):
            yield Finding(
                "CF463",
                "--no_ssh is given without --node_rank, and DeepSpeed stops there",
                place=no_ssh.at,
                helps=("add --node_rank $SLURM_NODEID", "or leave --no_ssh out: pdsh then starts all nodes"),
            )


def _same_on_all_nodes(command: Command, file: LaunchFile) -> Option | None:
    """A number of the node that is given to a launcher which srun starts on several."""
    rank = command.launcher.get("--node_rank", "--machine_rank")
    tasks = tasks_of(command, file.batch)
    if rank is None or rank.number is None or tasks is None or (tasks.nodes or 1) < 2:
        return None
    is_read = command.launcher.kind != "torchrun" or _is_static(command.launcher)
    return rank if is_read and tasks.total != 1 else None


def _every_node(rank: Option, command: Command) -> Finding:
    return Finding(
        "CF463",
        f"{command.launcher.kind} gets {rank.words} on every node: each would be node {rank.number}",
        place=rank.at,
        notes=("the batch shell fills in its own number, before srun starts",) if rank.is_default else (),
        helps=("let each node fill in its own: srun bash -c '... $SLURM_NODEID ...', in single quotes",),
    )


def _spans_nodes(facts: Facts, nodes: Option | None) -> bool:
    if nodes is None:
        return False
    return (nodes.number or nodes_or_one(facts)) > 1 or ":" in (nodes.value or "")


def _torchrun_meets(command: Command, inner: Layer) -> Iterator[Finding]:
    point = inner.get("--rdzv_endpoint", "--master_addr")
    at_home = (
        point is not None
        and (point.value or "").rpartition(":")[0 if ":" in (point.value or "") else 2] in ON_EVERY_NODE
    )
    exported = command.export("PET_RDZV_ENDPOINT") or command.export("PET_MASTER_ADDR")
    nodes = inner.get("--nnodes")
    where = nodes.at if nodes else inner.place
    rank = inner.get("--node_rank")
    is_first = rank is not None and rank.number == 0  # it listens on all of its addresses
    if at_home and point is not None and not point.is_default and not is_first:
        yield Finding(
            "CF463",
            f"{point.words} is another machine on each node",
            place=point.place,
            others=((where, "several nodes"),) if where.line != point.place.line else (),
            helps=("give the name of the first node, the same on all nodes",),
        )
    elif inner.lacks("--rdzv_endpoint", "--master_addr", "--standalone") and not exported:
        notes: tuple[str, ...] = ()
        if command.export("MASTER_ADDR") is not None:
            notes = ("torchrun does not read the exported MASTER_ADDR",)
        yield Finding(
            "CF463",
            "torchrun is to run on several nodes, and is not told where they meet",
            place=where,
            notes=notes,
            helps=("add --rdzv-backend c10d --rdzv-endpoint HOST:PORT, with the name of the first node",),
        )
    elif _is_static(inner) and inner.lacks("--node_rank") and command.export("PET_NODE_RANK") is None:
        yield Finding(
            "CF463",
            "torchrun has no --node-rank here, so every node would be node 0",
            place=point.at if point else inner.place,
            helps=(
                "add --rdzv-backend c10d, which numbers the nodes itself, with --rdzv-endpoint HOST:PORT",
                "or add --node-rank $SLURM_NODEID",
            ),
        )


def _is_static(inner: Layer) -> bool:
    backend = inner.get("--rdzv_backend")
    return (
        inner.is_complete and (backend is None or backend.value == "static") and not inner.get("--standalone")
    )


def _accelerate_meets(command: Command, inner: Layer, file: LaunchFile) -> Iterator[Finding]:
    machines, _ = machines_and_processes(command, file)
    named = named_by(command, "accelerate file", file)
    unknown = inner.get("--config_file") is not None and (named is None or named.file is None)
    if machines is None or machines < 2 or unknown or not inner.is_complete:
        return
    settings = named.file if named else None
    address = settings.setting("main_process_ip") if settings else None
    if inner.get("--main_process_ip") is None and (address is None or not address.value):
        yield Finding(
            "CF463",
            f"accelerate is to run on {machines} machines, and is not told where they meet",
            place=inner.place,
            helps=(
                "add --main_process_ip HOST --main_process_port 29500, with the name of the first machine",
            ),
        )
    elif inner.get("--machine_rank") is None and command.layer("srun"):
        rank = settings.setting("machine_rank") if settings else None
        yield Finding(
            "CF463",
            f"every machine would be machine {rank.value if rank else 0}",
            place=rank.place if rank else inner.place,
            others=((inner.place, "started on each node here"),) if rank else (),
            helps=("add --machine_rank $SLURM_NODEID, expanded on each node: srun bash -c '...'",),
        )


@rule("CF464")
def no_hostfile(facts: Facts) -> Iterator[Finding]:
    """CF464: deepspeed is to run on several nodes and has no hostfile.

    deepspeed learns of other nodes from its hostfile only; SLURM's node list means nothing to it. Without
    `--hostfile` (and without /job/hostfile, its default) it starts this node's ranks alone; with
    `--num_nodes` it stops with a ValueError. (lies B17, U2)
    """
    for file, command in commands(facts):
        inner = command.launcher
        if inner.kind != "deepspeed" or not inner.lacks("--hostfile"):
            continue
        option = inner.get("--num_nodes")
        nodes = option.number if option and option.number else nodes_or_one(facts)
        tasks = tasks_of(command, file.batch)
        apart = tasks is not None and (tasks.total or 0) > 1 and inner.lacks("--no_ssh")
        if nodes < 2 or apart:  # CF462 says what to do when there are several
            continue
        helps = ["add --hostfile FILE, with a line `HOST slots=N` for each node"]
        if file.kind == "sbatch":
            helps.append(
                "in a batch script, write one first: scontrol show hostnames $SLURM_JOB_NODELIST | "
                "sed 's/$/ slots=N/' > hostfile"
            )
        yield Finding(
            "CF464",
            f"deepspeed has no hostfile here, so it starts on one node, and the plan is for {nodes}",
            place=option.at if option else inner.place,
            notes=("DeepSpeed stops: no extra nodes are available",) if option else (),
            helps=tuple(helps),
        )


def _includes(option: Option, slots: str) -> bool:
    return option.name == "--include" and option.value == f"localhost:{slots}"


@rule("CF471", "error", "warning")
def visible_devices(facts: Facts) -> Iterator[Finding]:
    """CF471: CUDA_VISIBLE_DEVICES does not fit the ranks that are started.

    With fewer GPUs listed than ranks on a node, two ranks would meet on one GPU, or a rank finds none.
    deepspeed ignores the list as soon as --num_gpus, --num_nodes, --include or --exclude is given: it then
    takes GPUs 0, 1, ...; with a list and none of them, it takes the list.
    """
    for file, command in commands(facts):
        visible = visible_gpus(command)
        inner = command.launcher
        if visible is None or inner.kind in ("srun", "python"):
            continue
        export, count = visible
        words = f"CUDA_VISIBLE_DEVICES={export.value}"
        option = inner.get("--num_gpus", "--include", "--exclude", "--num_nodes", "--hostfile")
        if inner.kind == "deepspeed":
            in_order = ",".join(map(str, range(count)))
            same = (export.value or "").strip() == in_order
            if option is not None and not (same and (option.number == count or _includes(option, in_order))):
                yield Finding(
                    "CF471",
                    f"deepspeed ignores {words} beside {option.name}",
                    severity="warning",
                    place=export.place,
                    others=((option.at, "given here"),),
                    helps=(f"name the GPUs with --include localhost:{export.value}, without --num_gpus",),
                )
            continue
        ranks = next(
            (
                said
                for said in command_statements(command, file)
                if said.about == "gpus_per_node" and not said.is_implied
            ),
            None,
        )
        started = ranks.number if ranks else None
        machines, processes = machines_and_processes(command, file)
        if inner.kind == "accelerate" and processes:
            started = divmod(processes, machines or 1)[0]
        if started is not None and count < started:
            yield Finding(
                "CF471",
                f"{words} shows {counted(count, 'GPU')}, "
                f"and {inner.kind} starts {counted(started, 'rank')} on a node",
                place=export.place,
                others=((ranks.place if ranks else inner.place, counted(started, "rank")),),
                helps=(f"list {started} GPUs, or start {counted(count, 'rank')}",),
            )
