"""CF452 to CF454, CF474: nodes, GPUs and ranks that launch files state, against the plan and each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from crossfoot.arithmetic.batch import GpusPerNode, counted_on_nodes, in_a_sum
from crossfoot.checks.launch.planned import (
    commands,
    nodes_or_one,
    planned_gpus,
    planned_nodes,
    planned_ranks,
    planned_topology,
    samples_with,
)
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding, Place, Severity
from crossfoot.phrases import counted
from crossfoot.shell_words import quoted_path
from crossfoot.written.launch.gpu_counts import is_about_gpus, may_ask_for_gpus
from crossfoot.written.launch.sizes import Planned
from crossfoot.written.launch.statement import About, Command, Option, Statement, statements, with_named
from crossfoot.written.launch.stating import Tasks, certain_commands, machines_and_processes, tasks_of, trains


@rule("CF452", "error", "warning", name="launch-num-nodes")
def num_nodes(facts: Facts) -> Iterator[Finding]:
    """CF452: a launch file states another number of nodes than the plan has.

    `cluster.num_nodes` in the config owns the number; `#SBATCH --nodes`, `--num_nodes`, `--nnodes`,
    `num_machines` and the hosts of a hostfile are witnesses. When the config leaves it out, the first of them
    is taken, and the others must agree with it. DeepSpeed's batch is micro batch x accumulation x ranks: on
    another number of nodes the same files would train another batch, so crossfoot refuses the plan at
    start-up, after the wait in the queue. Nodes that are allocated beyond those that the launcher uses are a
    warning: the run is as planned, and they stand idle. So is a batch script that leaves the number out:
    sbatch then gives one node, unless it is told otherwise. Inside a job SLURM_JOB_NUM_NODES is a witness
    too, for a warning only: what will be started there is not known yet. (lies B2, U2)
    """
    planned = planned_nodes(facts)
    if planned is None:
        return
    used = _files_that_use(facts, "num_nodes", planned.value)
    for said in _grouped(each for each in _stated(facts, "num_nodes") if each.value != planned.value):
        said = sorted(said, key=lambda each: each.is_implied)
        first, value = said[0], said[0].number
        helps = [_rewritten(first, planned.value)]
        is_idle = first.witness == "allocation" and value > planned.value and first.place.file in used
        is_open = first.is_implied and first.witness == "allocation"  # sbatch may be given the option
        severity: Severity = "warning" if is_idle or is_open else "error"
        if first.witness == "hostfile":
            helps = [f"list {counted(planned.value, 'host')} in the hostfile"]
            if value > planned.value:
                helps.append(f"or let deepspeed take the first {planned.value}: --num_nodes {planned.value}")
        if first.witness == "job":
            helps = [f"ask SLURM for {counted(planned.value, 'node')}"]
        title = f"{_says(first)} {counted(value, 'node')}"
        yield _finding(facts, "CF452", said, planned, title, helps, severity=severity)


@rule("CF453", "error", "warning", name="launch-gpus-per-node")
def gpus_per_node(facts: Facts) -> Iterator[Finding]:
    """CF453: a launch file states another number of GPUs, or of ranks, per node than the plan has.

    One rank drives one GPU, so `--gpus-per-node`, `--gres=gpu:N`, `--num_gpus`, `--nproc-per-node`,
    `--ntasks-per-node` (where srun starts the ranks) and `slots=N` all state `cluster.gpus_per_node`. Beware
    of totals: torchrun's --nproc-per-node counts one node, accelerate's num_processes and SLURM's --gpus
    count all of them. GPUs that are allocated beyond those that the launcher uses are a warning: the run is
    as planned, and they stand idle. One number for every node cannot start nodes that are not alike: there a
    hostfile says the slots of each, and srun is told the tasks in all. (lies B2, U2)
    """
    planned = planned_gpus(facts)
    if planned is None:
        return
    used = _files_that_use(facts, "gpus_per_node", planned.value)
    every = _stated(facts, "gpus_per_node")
    for said in _grouped(each for each in every if not _fits(facts, each, planned.value)):
        if isinstance(planned.value, int):
            idle = said[0].witness == "allocation" and said[0].number > planned.value
            idle = idle and said[0].place.file in used
        else:  # who starts ranks comes before who allocates for them
            said = sorted(said, key=lambda each: each.witness == "allocation")
            idle = said[0].witness == "allocation" and said[0].number >= max(planned.value)
        first, value = said[0], said[0].number
        title = f"{_says(first)} {counted(value, 'GPU')} on each node"
        if first.witness == "launcher":
            title = f"{_says(first)} {counted(value, 'rank')} on each node"
        notes = []
        nodes = nodes_or_one(facts)
        if _is_total(first):
            title = f"{first.words} is a total, {value} on each of {counted(nodes, 'node')}"
        helps = _repairs(facts, first, planned.value)
        if first.words.startswith("--nproc") and value == planned_ranks(facts) and nodes > 1:
            notes.append(f"--nproc-per-node counts one node; {value} is the total over all {nodes}")
        severity: Severity = "warning" if idle else "error"
        yield _finding(facts, "CF453", said, planned, title, helps, notes, severity)
    yield from _no_gpus(facts)


def _runs_on_cpus(command: Command) -> bool:
    accelerator = command.export("DS_ACCELERATOR")
    return accelerator is not None and accelerator.value in (None, "cpu")


def _no_gpus(facts: Facts) -> Iterator[Finding]:
    """Batch scripts that ask SLURM for no GPU at all."""
    gpus = planned_gpus(facts)
    for file in with_named(facts.launch):
        batch, started = file.batch, [each for each in certain_commands(file) if trains(each)]
        if batch is None or gpus is None or not started or any(_runs_on_cpus(each) for each in started):
            continue
        layers = [batch, *(layer for each in started for layer in each.layers if layer.kind == "srun")]
        if not any(may_ask_for_gpus(layer) for layer in layers):
            option = next(
                (option for layer in layers for option in layer.options if is_about_gpus(option)), None
            )
            yield Finding(
                "CF453",
                f"{option.words if option else 'the batch script'} asks for no GPUs, but the plan has "
                f"{counted_on_nodes(gpus.value)}",
                severity="warning",
                place=option.place if option else batch.place,
                others=((gpus.place, counted_on_nodes(gpus.value)),) if gpus.place else (),
                notes=("a rank that sees no GPU computes on the CPU, or does not start",),
                helps=(
                    f"add #SBATCH --gpus-per-node={gpus.value}"
                    if isinstance(gpus.value, int)
                    else "add #SBATCH --gpus-per-task=1",
                    "or, for a run on CPUs, export DS_ACCELERATOR=cpu in the script",
                ),
            )


def _files_that_use(facts: Facts, about: About, planned: GpusPerNode) -> set[str]:
    """The launch files whose launcher starts what is planned, whatever is allocated."""
    return {
        statement.place.file
        for statement in statements(facts.launch, about)
        if statement.witness in ("launcher", "hostfile") and statement.value == planned
    }


def _fits(facts: Facts, said: Statement, planned: GpusPerNode) -> bool:
    """Whether a number for every node is what is planned, or, for nodes that are not alike, may be."""
    if isinstance(planned, int):
        return said.value == planned
    if said.witness == "job":  # it counts this node's
        return said.value in planned
    return _is_total(said) and said.number * nodes_or_one(facts) == planned_ranks(facts)


def _is_total(said: Statement) -> bool:
    return re.match(r"(--gpus|-G)\b(?!-)", said.words) is not None


def _repairs(facts: Facts, said: Statement, planned: GpusPerNode) -> list[str]:
    """What to write in place of a wrong number for every node."""
    if not isinstance(planned, int):
        return [_each_its_own(facts, said, planned)]
    if said.witness == "job":
        return [f"ask SLURM for --gpus-per-node={planned}"]
    if _is_total(said):
        return [f"write --gpus-per-node={planned}, which counts one node"]
    helps = [_rewritten(said, planned)]
    if said.witness == "hostfile":
        helps.append(f"or start with deepspeed --num_gpus {planned}")
    return helps


def _each_its_own(facts: Facts, said: Statement, planned: Sequence[int]) -> str:
    """How nodes that are not alike are asked for, in the words of the launcher that was told otherwise."""
    if said.witness == "hostfile":
        return f"write the slots of each host: {', '.join(map(str, planned))}"
    if said.name.startswith("--ntasks"):
        return f"write --ntasks={sum(planned)}, the tasks in all"
    if said.witness in ("allocation", "job"):
        return f"write --gpus-per-task=1, with --ntasks={sum(planned)}"
    if said.name.startswith("--nproc"):
        config = quoted_path(facts.run.path)
        return f"give each node its own: crossfoot launch {config} --to torchrun --print shows how"
    return f"leave out {said.name}, and write the slots of each host into the hostfile"


@rule("CF454", name="launch-ranks")
def ranks(facts: Facts) -> Iterator[Finding]:
    """CF454: a launch file states another number of ranks in all than the plan has.

    accelerate's num_processes is the total over all machines and is divided by num_machines without a word
    about the rest: 15 processes on 2 machines become 7 + 7. `srun --ntasks` is a total as well. srun without
    a number of tasks starts one on each node, and a plan for 8 GPUs a node would be refused by the one rank
    that comes up. (lies B2, B17, U6)
    """
    planned = planned_ranks(facts)
    if planned is None:
        return
    explained = _sizes_that_explain(facts)
    for statement in statements(facts.launch, "world_size"):
        value = statement.number
        if statement.dry_run or value == planned or value in explained:
            continue
        yield _total_differs(facts, statement, planned)
    for file, command in commands(facts):
        machines, processes = machines_and_processes(command, file)
        gpus = planned_gpus(facts)
        is_even = gpus is not None and isinstance(gpus.value, int)  # else CF468 says it
        if processes == planned and machines and divmod(processes, machines)[1] and is_even:
            share, rest = divmod(processes, machines)
            left = counted(rest, "process", "processes")
            yield Finding(
                "CF454",
                f"{processes} processes do not divide over {machines} machines",
                place=command.launcher.place,
                notes=(f"accelerate starts {share} on each machine, and {left} nowhere",),
                helps=(f"make num_processes a multiple of {machines}: {share * machines}",),
            )
        tasks = tasks_of(command, file.batch) if command.launcher.kind == "srun" else None
        if tasks is not None and tasks.option is None and tasks.total not in (None, planned):
            yield _one_task_a_node(facts, command.launcher.place, tasks, planned)


def _total_differs(facts: Facts, statement: Statement, planned: int) -> Finding:
    value = statement.number
    notes, helps = [], [_rewritten(statement, planned)]
    gpus, nodes = planned_gpus(facts), nodes_or_one(facts)
    if gpus is not None and nodes > 1 and value == gpus.value:
        notes.append(f"{statement.name} counts all nodes together; {value} is the number on one of {nodes}")
    elif gpus is not None and value <= 10**6:
        share, rest = divmod(value, nodes)
        if share and not rest:
            helps.append(f"or set cluster.gpus_per_node to {share}{_batch_then(facts, None, share)}")
    what = "GPU" if statement.witness == "allocation" else "rank"
    return Finding(
        "CF454",
        f"{statement.name} says {counted(value, what)} in all, but the plan has {planned}",
        place=statement.place,
        others=(*_used_at(statement), *_equation(facts, planned)),
        notes=tuple(notes),
        helps=tuple(helps),
    )


def _one_task_a_node(facts: Facts, place: Place, tasks: Tasks, planned: int) -> Finding:
    gpus = planned_gpus(facts)
    option = "--ntasks-per-node"
    each = gpus.value if gpus else planned
    if isinstance(each, tuple):
        option, each = "--ntasks", planned
    started = counted(tasks.total or 1, "task") + (", one on each node" if (tasks.total or 1) > 1 else "")
    return Finding(
        "CF454",
        f"srun starts {started}, but the plan has {counted(planned, 'rank')}",
        place=place,
        others=_equation(facts, planned),
        notes=("no --ntasks and no --ntasks-per-node is given",),
        helps=(f"add #SBATCH {option}={each}",),
    )


@rule("CF474")
def varying_nodes(facts: Facts) -> Iterator[Finding]:
    """CF474: a launch file leaves the number of nodes open.

    `torchrun --nnodes 1:4` starts with as many nodes as come, and goes on with fewer when one is lost;
    `#SBATCH --nodes=2-4` takes what SLURM has free. A plan is for one number of ranks: its batch, its steps
    and its rates would be others with another.
    """
    planned = planned_nodes(facts)
    for file in with_named(facts.launch):
        option = file.batch.get("--nodes") if file.batch else None
        yield from _varies(option, "-", planned)
    for _, command in commands(facts):
        if command.launcher.kind == "torchrun":
            yield from _varies(command.launcher.get("--nnodes"), ":", planned)


def _varies(option: Option | None, joint: str, planned: Planned[int] | None) -> Iterator[Finding]:
    low, joined, high = (option.value or "").partition(joint) if option else ("", "", "")
    if option is None or not joined or low == high or not (low.isdigit() and high.isdigit()):
        return
    fixed = planned.value if planned and planned.in_config else int(high[:9])
    yield Finding(
        "CF474",
        f"{option.words} leaves the number of nodes open, and a plan is for one number",
        place=option.place,
        others=((planned.place, f"planned for {planned.value}"),) if planned and planned.place else (),
        helps=(f"write {option.words.replace(f'{low}{joint}{high}', str(fixed))}",),
    )


def _stated(facts: Facts, about: About) -> Iterator[Statement]:
    return (each for each in statements(facts.launch, about) if not each.dry_run)


def _grouped(found: Iterable[Statement]) -> Iterable[Sequence[Statement]]:
    """Statements with the same number together."""
    groups: dict[int, list[Statement]] = {}
    for statement in found:
        groups.setdefault(statement.number, []).append(statement)
    return groups.values()


def _finding(
    facts: Facts,
    code: str,
    said: Sequence[Statement],
    planned: Planned[int] | Planned[GpusPerNode],
    title: str,
    helps: Sequence[str],
    notes: Sequence[str] = (),
    severity: Severity = "error",
) -> Finding:
    first, value = said[0], said[0].number
    what = "node" if code == "CF452" else "GPU"
    others = list(_used_at(first))
    others.extend((each.place, f"{value} here too") for each in said[1:])
    notes = list(notes)
    if planned.place is not None:
        others.append((planned.place, counted_on_nodes(planned.value, what)))
    if first.is_default:
        notes.append("it is a default: an exported variable would overrule it")
    if first.is_default or all(each.witness == "job" for each in said):
        severity = "warning"
    nodes, gpus = (value, None) if code == "CF452" else (None, value)
    is_listed = code == "CF452" and planned.owner == "cluster.gpus_per_node"
    if planned.in_config and severity == "error" and is_listed:
        helps = [*helps, f"or list {value} numbers in {planned.owner}, one for each node"]
    elif planned.in_config and severity == "error":
        helps = [*helps, f"or set {planned.owner} to {value}{_batch_then(facts, nodes, gpus)}"]
    end = "the plan is for" if code == "CF452" else "the plan has"
    if not planned.in_config:
        end = f"{planned.owner} says"
        helps = [*helps, "or set cluster in the config, which owns the number"]
    if severity == "warning" and first.witness == "allocation" and not first.is_implied:
        end = "the run uses"
    return Finding(
        code,
        f"{title}, but {end} {in_a_sum(planned.value)}",
        severity=severity,
        place=first.place,
        others=tuple(others),
        notes=tuple(notes),
        helps=tuple(helps),
    )


def _says(statement: Statement) -> str:
    if statement.witness == "hostfile":
        return "the hostfile has"
    if statement.witness == "job":
        return "this job has"
    if statement.witness == "launcher":
        return f"{statement.words} starts"
    return f"{statement.words} asks for"


def _rewritten(statement: Statement, number: int) -> str:
    """`write --nodes=2`: the words with their last number replaced."""
    if statement.is_implied:
        option = statement.words.rpartition(" ")[2]
        return f"add {option} {number}"
    if re.search(r"[,@]", statement.words) or not re.search(rf"\b{statement.value}\b\D*$", statement.words):
        return f"make it {number} on each node" if statement.about == "gpus_per_node" else f"make it {number}"
    return "write " + re.sub(r"\d+(?=\D*$)", str(number), statement.words)


def _batch_then(facts: Facts, nodes: int | None, gpus: int | None) -> str:
    samples = samples_with(facts, nodes, gpus)
    return "" if samples is None else f": {counted(samples, 'sample')} per optimizer step"


def _used_at(statement: Statement) -> tuple[tuple[Place, str], ...]:
    return ((statement.used_at, "used here"),) if statement.used_at else ()


def _equation(facts: Facts, planned: int) -> tuple[tuple[Place, str], ...]:
    """`2 nodes x 8 GPUs = 16 ranks` beside the GPUs."""
    topology, gpus = planned_topology(facts), planned_gpus(facts)
    if topology is None or gpus is None or gpus.place is None:
        return ()
    return ((gpus.place, f"{topology.in_words()} = {counted(planned, 'rank')}"),)


def _sizes_that_explain(facts: Facts) -> set[int]:
    """Totals that follow from a wrong number of nodes or GPUs, which has its own finding."""
    nodes, gpus = planned_nodes(facts), planned_gpus(facts)
    if nodes is None or gpus is None:
        return set()
    all_nodes = {nodes.value, *(each.number for each in statements(facts.launch, "num_nodes"))}
    all_gpus = {each.number for each in statements(facts.launch, "gpus_per_node")}
    if isinstance(gpus.value, int):
        all_gpus.add(gpus.value)
    return {some_nodes * some_gpus for some_nodes in all_nodes for some_gpus in all_gpus}
