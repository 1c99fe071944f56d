"""Variables of a rank that a script sets once, for all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from crossfoot.checks.launch.planned import commands, nodes_or_one, planned_ranks
from crossfoot.checks.registry import Facts
from crossfoot.environment.world import DEEPSPEED_MARKS, TORCHRUN_MARKS, read_world
from crossfoot.findings.finding import Finding, Refused
from crossfoot.phrases import listed
from crossfoot.written.launch.statement import Command, Export, LaunchFile, Option
from crossfoot.written.launch.stating import command_statements, is_dry_run, tasks_of, trains

ON_EVERY_NODE = ("localhost", "127.0.0.1", "0.0.0.0", "::1")
"""Addresses that are another machine on each of them."""
_OF_A_RANK = ("RANK", "LOCAL_RANK")
_NAMES = (*_OF_A_RANK, "WORLD_SIZE", "LOCAL_WORLD_SIZE", *DEEPSPEED_MARKS, *TORCHRUN_MARKS)


def fixed_for_all(facts: Facts) -> Iterator[Finding]:
    """CF463 where what a rank would find in its environment is refused at its start. deepspeed, torchrun and
    accelerate set these variables themselves, so that an exported one is harmless there.
    """
    told: set[str] = set()
    for file, command in commands(facts):
        found = _finding(facts, file, command) if trains(command) and file.path not in told else None
        if found is not None:
            told.add(file.path)
            yield found


def _finding(facts: Facts, file: LaunchFile, command: Command) -> Finding | None:
    by_srun = command.launcher.kind == "srun"
    if by_srun and (apart := _meets_itself(facts, file, command)):
        return apart
    alone = not by_srun and is_dry_run(command, command_statements(command, file))
    exports = {each.name: each for each in _exports(command) if each.name in _NAMES}
    if not exports or not (by_srun or alone):
        return None
    values = {name: each.value for name, each in exports.items() if each.value is not None}
    tasks = _last_task(facts, file, command) if by_srun else {}
    if by_srun:  # whatever it is, it is the same for all of them
        values.update({name: values.get(name, "0") for name in _OF_A_RANK if name in exports})
    try:
        read_world({**tasks, **values})
    except Refused as refused:
        names = listed(list(exports))
        first = exports.get("RANK") or next(iter(exports.values()))
        title = f"{command.launcher.kind} finds {names} without a launcher, and crossfoot refuses to start"
        if by_srun:
            title = f"every task of srun finds the same {names}, and crossfoot refuses to start"
        return Finding(
            "CF463",
            title,
            place=first.place,
            others=((command.layers[0].place, "started here"),),
            notes=tuple(dict.fromkeys(each.title for each in refused.findings)),
            helps=(
                f"remove {names}: crossfoot takes rank and world from srun"
                if by_srun
                else f"remove {names}, or start the ranks with a launcher, which sets them",
            ),
        )
    return None


def _meets_itself(facts: Facts, file: LaunchFile, command: Command) -> Finding | None:
    """An exported MASTER_ADDR that is another machine on each node."""
    address = next((each for each in _exports(command) if each.name == "MASTER_ADDR"), None)
    tasks = tasks_of(command, file.batch)
    nodes = (tasks.nodes if tasks else None) or nodes_or_one(facts)
    if address is None or address.value not in ON_EVERY_NODE or nodes < 2:
        return None
    return Finding(
        "CF463",
        f"MASTER_ADDR={address.value} is another machine on each node",
        place=address.place,
        others=((command.layers[0].place, f"started on {nodes} nodes"),),
        helps=("remove it: crossfoot takes the first node of the job",),
    )


def _exports(command: Command) -> Iterator[Export]:
    """What is the same for all ranks: known values, and whatever was exported before srun."""
    before = {each.name: each for each in command.inherited}
    under_srun = command.layer("srun") is not None
    for each in command.exports:
        outer = before.get(each.name)
        if each.value is not None or not under_srun:
            yield each
        elif outer is not None and (each.place == outer.place or _is_unplaced(each)):
            yield outer
    for layer in command.layers:
        option = layer.get("--export") if layer.kind == "srun" else None
        if option is not None:
            yield from _of_option(option)


def _is_unplaced(export: Export) -> bool:
    """Whether nobody knows where it was set: in the script that starts this one."""
    return (export.place.line, export.place.column) == (1, 1)


def _of_option(option: Option) -> Iterator[Export]:
    """`--export=ALL,RANK=0`."""
    for word in (option.value or "").split(","):
        name, equals, value = word.partition("=")
        if equals:
            yield Export(name.strip(), value, option.place)


def _last_task(facts: Facts, file: LaunchFile, command: Command) -> Mapping[str, str]:
    """What srun tells its last task, as far as it is known; the plan's numbers for what is not."""
    tasks = tasks_of(command, file.batch)
    nodes = (tasks.nodes if tasks else None) or nodes_or_one(facts)
    total = (tasks.total if tasks else None) or planned_ranks(facts) or nodes
    share, rest = divmod(total, nodes)
    if rest or not share:
        nodes, share = 1, total
    numbers = {
        "SLURM_PROCID": total - 1,
        "SLURM_LOCALID": share - 1,
        "SLURM_NODEID": nodes - 1,
        "SLURM_STEP_NUM_TASKS": total,
        "SLURM_STEP_NUM_NODES": nodes,
    }
    return {
        **{name: str(number) for name, number in numbers.items()},
        "SLURM_STEP_TASKS_PER_NODE": f"{share}(x{nodes})",
    }
