"""From commands and directives to statements: how many nodes and ranks a launch file really starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from crossfoot.arithmetic.batch import alike
from crossfoot.written.launch.accelerate_file import number as plain_number
from crossfoot.written.launch.accelerate_file import setting_statements, whole
from crossfoot.written.launch.gpu_counts import gpu_count, gres_count
from crossfoot.written.launch.hostfile import Resources, hostfile_statements, resources
from crossfoot.written.launch.statement import (
    About,
    Command,
    Export,
    Host,
    LaunchFile,
    Layer,
    Named,
    Option,
    Statement,
    Witness,
)

STARTING_VERBS = ("train", "prove")
"""Verbs of crossfoot that a launcher starts on every rank."""
_LAUNCHER_NAMES = ("torchrun", "deepspeed", "accelerate", "srun", "mpirun")
PRECISION = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Tasks:
    """The tasks that srun starts. None: not known. option: the one that decides on their number."""

    nodes: int | None
    per_node: int | None
    total: int | None
    option: Option | None = None


def trains(command: Command) -> bool:
    """Whether a command starts crossfoot's training, or its proof."""
    script = command.script.known if command.script else None
    if script is None:
        return False
    name = os.path.basename(script)
    if name in ("crossfoot", "crossfoot.cli"):
        return bool(command.arguments) and command.arguments[0].text in STARTING_VERBS
    return name == "train.py"


def others_commands(file: LaunchFile) -> tuple[Command, ...]:
    """The commands that start ranks of another program."""
    return tuple(command for command in file.commands if _is_anothers(command))


def _is_anothers(command: Command) -> bool:
    name = os.path.basename(command.script.text) if command.script else ""
    starts = command.layer("deepspeed", "torchrun", "accelerate") or not name.endswith(".py")
    is_ours = trains(command) or starts_launcher(command) or name in ("crossfoot", "crossfoot.cli")
    return bool(name and starts) and not is_ours


def starts_launcher(command: Command) -> bool:
    """Whether a launcher is what a launcher starts."""
    return command.script is not None and os.path.basename(command.script.text) in _LAUNCHER_NAMES


def training_commands(file: LaunchFile) -> tuple[Command, ...]:
    """The commands that start training: those of crossfoot; in a file without any, all with a launcher."""
    own = tuple(command for command in file.commands if trains(command))
    if own:
        return own
    return tuple(
        command
        for command in file.commands
        if command.layer("deepspeed", "torchrun", "accelerate")
        and not (command.script and os.path.basename(command.script.text) == "crossfoot")
    )


def certain_commands(file: LaunchFile) -> tuple[Command, ...]:
    """The training commands that run whatever the script's conditions say."""
    return tuple(command for command in training_commands(file) if not command.doubt)


def writes_node_rank(command: Command) -> bool:
    """Whether a command says itself which node it is on: its script is one of several."""
    option = command.launcher.get("--node_rank", "--machine_rank")
    is_written = option is not None and option.number is not None and not option.is_default
    return is_written and command.layer("srun") is None


def allocation_nodes(batch: Layer | None) -> int | None:
    """`--nodes=2`; None for a range, or when SLURM decides."""
    option = batch.get("--nodes") if batch else None
    return _fixed(option) if option else None


def _fixed(option: Option) -> int | None:
    low, dash, high = (option.value or "").partition("-")
    return option.number if not dash else (int(low) if low == high and low.isdigit() else None)


def gpus_of(layer: Layer, nodes: int | None) -> Iterator[tuple[Option, int]]:
    """GPUs per node, as each option of srun or sbatch asks for them."""
    for name in ("--gpus-per-node", "--gres"):
        option = layer.get(name)
        count = (gres_count if name == "--gres" else gpu_count)(option.value or "") if option else None
        if option and count:
            yield option, count
    per_task, tasks, total = layer.get("--gpus-per-task"), layer.get("--ntasks-per-node"), layer.get("--gpus")
    if per_task and tasks and tasks.number and (count := gpu_count(per_task.value or "")):
        yield per_task, count * tasks.number
    if total and nodes and (count := gpu_count(total.value or "")):
        share, rest = divmod(count, nodes)
        if share and not rest:
            yield total, share


def tasks_of(command: Command, batch: Layer | None) -> Tasks | None:
    """The tasks of the command's srun, with what it inherits of the batch script; None without srun."""
    srun = command.layer("srun")
    if srun is None:
        return None
    nodes_option = srun.get("--nodes")
    nodes = _fixed(nodes_option) if nodes_option else allocation_nodes(batch)
    own, own_per_node = srun.get("--ntasks"), srun.get("--ntasks-per-node")
    jobs = batch.get("--ntasks") if batch else None
    jobs_per_node = batch.get("--ntasks-per-node") if batch else None
    if not srun.is_complete or (batch is not None and not batch.is_complete):
        return Tasks(nodes, None, None)
    others = jobs or (jobs_per_node and jobs_per_node.number != (own_per_node and own_per_node.number))
    if own is None and own_per_node is not None and others:
        return Tasks(nodes, None, None)  # srun takes SLURM_NTASKS, and only warns about the rest
    total = own or (None if own_per_node else jobs)
    if total is not None:
        count = total.number
        per_node, rest = divmod(count, nodes) if count and nodes else (None, 0)
        return Tasks(nodes, None if rest else per_node, count, total)
    per = own_per_node or jobs_per_node
    if per is not None:
        each = per.number
        return Tasks(nodes, each, each * nodes if each and nodes else None, per)
    is_open = batch is None or batch.get("--ntasks-per-gpu") or srun.get("--ntasks-per-gpu")
    return Tasks(nodes, None if is_open else 1, None if is_open else nodes or 1)


_ASKING_FOR_NODES = ("--nodes", "--ntasks", "--gpus", "--nodelist", "--nodefile", "--mincpus")
"""sbatch asks for one node where none of them is given."""


def batch_statements(batch: Layer) -> Iterator[Statement]:
    """What the allocation is: nodes, and GPUs on each."""
    nodes = allocation_nodes(batch)
    option = batch.get("--nodes")
    if option and nodes:
        yield option.states("num_nodes", nodes, "allocation")
    elif batch.lacks(*_ASKING_FOR_NODES) and not batch.unknown:
        words = "sbatch without --nodes"
        yield Statement("num_nodes", 1, batch.place, words, "allocation", is_implied=True)
    for each, count in gpus_of(batch, nodes):
        yield each.states("gpus_per_node", count, "allocation")
    total = batch.get("--gpus")
    gpus = gpu_count(total.value or "") if total else None
    if total and gpus and (nodes is None or divmod(gpus, nodes)[1]):
        yield total.states("world_size", gpus, "allocation")


def command_statements(command: Command, file: LaunchFile) -> tuple[Statement, ...]:
    """What one command starts, in our units."""
    launcher = command.launcher
    if launcher.kind == "deepspeed":
        found = tuple(_deepspeed(command, launcher, file))
    elif launcher.kind == "torchrun":
        found = tuple(_torchrun(command, launcher))
    elif launcher.kind == "accelerate":
        found = tuple(_accelerate(command, launcher, named_by(command, "accelerate file", file)))
    elif launcher.kind == "srun":
        found = tuple(_srun(command, launcher, file))
    else:
        found = ()
    if is_dry_run(command, found):
        found = tuple(replace(statement, dry_run=True) for statement in found)
    return found


def is_dry_run(command: Command, found: tuple[Statement, ...]) -> bool:
    """One process of accelerate or python: it folds the plan, whatever its size."""
    if command.layer("srun", "deepspeed", "torchrun"):
        return False
    if command.launcher.kind == "python":
        return True
    totals = [statement.value for statement in found if statement.about == "world_size"]
    nodes = [statement.value for statement in found if statement.about == "num_nodes"]
    return totals[:1] == [1] and nodes[:1] in ([], [1])


def named_by(command: Command, what: str, file: LaunchFile) -> Named | None:
    """The file of that sort which this command names."""
    option = command.launcher.get("--hostfile" if what == "hostfile" else "--config_file")
    if option is None:
        return None
    return next((named for named in file.named if named.what == what and named.place == option.place), None)


def _deepspeed(command: Command, layer: Layer, file: LaunchFile) -> Iterator[Statement]:
    option = layer.get("--hostfile")
    nodes, gpus = layer.get("--num_nodes"), layer.get("--num_gpus")
    named = named_by(command, "hostfile", file)
    hosts = named.file.hosts if named and named.file else ()
    if option is not None and not hosts:
        if named and named.file and gpus is None:
            yield from named.file.statements
        if nodes and nodes.number:
            yield nodes.states("num_nodes", nodes.number)
        if gpus and gpus.number:
            yield gpus.states("gpus_per_node", gpus.number)
        return
    taken = resources(layer, hosts)
    if taken.problem or not layer.is_complete:
        return
    if hosts:
        yield from _of_hostfile(layer, hosts, taken)
        return
    if nodes and nodes.number:
        yield nodes.states("num_nodes", nodes.number)
    if taken.by is not None and taken.slots:
        yield taken.by.states("gpus_per_node", next(iter(taken.slots.values())))
    elif gpus is None and (visible := visible_gpus(command)):
        yield Statement(
            "gpus_per_node", visible[1], visible[0].place, f"CUDA_VISIBLE_DEVICES={visible[0].value}"
        )


def _of_hostfile(layer: Layer, hosts: tuple[Host, ...], taken: Resources) -> Iterator[Statement]:
    """What deepspeed starts on the hosts of its hostfile, by its options where they narrow it."""
    nodes, gpus = layer.get("--num_nodes"), layer.get("--num_gpus")
    from_file = {statement.about: statement for statement in hostfile_statements(hosts)}
    if nodes and nodes.number and nodes.number <= len(hosts):
        yield nodes.states("num_nodes", nodes.number)
    elif taken.by is not None and taken.by is not gpus:
        yield taken.by.states("num_nodes", len(taken.slots))
    elif "num_nodes" in from_file:
        yield from_file["num_nodes"]
    slots = alike(list(taken.slots.values())) if taken.slots else 0
    if taken.by is not None and slots:
        about: About = "gpus_per_node" if isinstance(slots, int) else "gpus_by_node"
        yield taken.by.states(about, slots)
    elif taken.by is None:
        used = hostfile_statements([host for host in hosts if host.name in taken.slots])
        yield from (said for said in used if said.about != "num_nodes")


def visible_gpus(command: Command) -> tuple[Export, int] | None:
    """CUDA_VISIBLE_DEVICES of a command, and how many GPUs it lists."""
    export = command.export("CUDA_VISIBLE_DEVICES")
    if export is None or not export.value or not export.value.strip(","):
        return None
    entries = [entry.strip() for entry in export.value.split(",") if entry.strip()]
    known = all(
        entry.isascii() and (entry.isdigit() or entry.startswith(("GPU-", "MIG-"))) for entry in entries
    )
    return (export, len(entries)) if known and entries else None


def _torchrun(command: Command, layer: Layer) -> Iterator[Statement]:
    nodes, per_node = layer.get("--nnodes"), layer.get("--nproc_per_node")
    if nodes is not None:
        low, colon, high = (nodes.value or "").partition(":")
        count = nodes.number if not colon else (int(low) if low == high and low.isdigit() else None)
        if count:
            yield nodes.states("num_nodes", count)
    elif layer.is_complete and command.layer("srun") is None and command.export("PET_NNODES") is None:
        yield _implied("num_nodes", 1, layer, "torchrun without --nnodes")
    if per_node is not None and per_node.number:
        yield per_node.states("gpus_per_node", per_node.number)
    elif per_node is None and layer.is_complete and command.export("PET_NPROC_PER_NODE") is None:
        yield _implied("gpus_per_node", 1, layer, "torchrun without --nproc-per-node")


def _implied(about: About, value: int, layer: Layer, words: str) -> Statement:
    return Statement(about, value, layer.place, words, is_implied=True)


def _accelerate(command: Command, layer: Layer, named: Named | None) -> Iterator[Statement]:
    """Options, and what they leave open from the config file."""
    settings = tuple(setting_statements(named.file)) if named and named.file else ()
    pairs: tuple[tuple[str, About], ...] = (
        ("--num_machines", "num_nodes"),
        ("--num_processes", "world_size"),
        ("--gradient_accumulation_steps", "grad_accum_steps"),
    )
    overruled: set[str] = set()
    for name, about in pairs:
        option = layer.get(name)
        if option is not None:
            overruled.add(about)
            if option.number:
                yield option.states(about, option.number)
    for option, about, value in _other_options(layer):
        overruled.add(about)
        if value is not None:
            yield option.states(about, value)
    for statement in settings:
        if statement.about not in overruled:
            yield statement
    alone = command.layer("srun") is None and layer.get("--config_file") is None
    if alone and layer.lacks("--num_machines") and layer.get("--num_processes"):
        yield _implied("num_nodes", 1, layer, "accelerate launch without --num_machines")


def _other_options(layer: Layer) -> Iterator[tuple[Option, About, int | float | str | None]]:
    if option := layer.get("--gradient_clipping"):
        yield option, "max_grad_norm", plain_number(option.value)
    if option := layer.get("--mixed_precision"):
        yield option, "dtype", PRECISION.get(option.value or "")
    if option := layer.get("--zero_stage"):
        stage = option.value or ""
        yield option, "zero_stage", int(stage) if stage in ("0", "1", "2", "3") else None
    if option := layer.get("--deepspeed_config_file"):
        yield option, "deepspeed_file", option.value


def _srun(command: Command, layer: Layer, file: LaunchFile) -> Iterator[Statement]:
    """srun starts the ranks itself: tasks are ranks."""
    tasks = tasks_of(command, file.batch)
    if tasks is None:
        return
    nodes = layer.get("--nodes")
    if nodes is not None and (count := _fixed(nodes)):
        yield nodes.states("num_nodes", count)
    for option, count in gpus_of(layer, tasks.nodes):
        yield option.states("gpus_per_node", count, _allocated())
    if tasks.option is None:
        return
    if tasks.option.name == "--ntasks-per-node" and tasks.per_node:
        yield tasks.option.states("gpus_per_node", tasks.per_node)
    elif tasks.option.name == "--ntasks" and tasks.total:
        yield tasks.option.states("world_size", tasks.total)


def _allocated() -> Witness:
    return "allocation"


def machines_and_processes(command: Command, file: LaunchFile) -> tuple[int | None, int | None]:
    """accelerate's two numbers, whoever says them; None: not known, or only implied."""
    found = {
        statement.about: statement.value
        for statement in command_statements(command, file)
        if not statement.is_implied
    }
    machines, processes = found.get("num_nodes"), found.get("world_size")
    return whole(machines), whole(processes)
