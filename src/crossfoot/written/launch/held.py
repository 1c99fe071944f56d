"""Which commands of a launch file are held against the plan, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from crossfoot.written.launch.statement import JOBS_OWN, UNKNOWN, Command, LaunchFile, Layer, Option
from crossfoot.written.launch.stating import command_statements, named_by, training_commands


def held_commands(file: LaunchFile) -> tuple[Command, ...]:
    """The training commands that are held against the plan: those that run, and those of which one runs and
    all state the same.
    """
    commands = training_commands(file)
    choices: dict[int, dict[int, list[Command]]] = {}
    for command in commands:
        if command.alternative is not None:
            ways = choices.setdefault(command.alternative.choice, {})
            ways.setdefault(command.alternative.way, []).append(command)
    agreed = {choice for choice, ways in choices.items() if _agree(ways, file)}
    return tuple(
        command
        for command in commands
        if not command.doubt or (command.alternative is not None and command.alternative.choice in agreed)
    )


def _agree(ways: Mapping[int, Sequence[Command]], file: LaunchFile) -> bool:
    """Whether every way of a choice has a command, and all of them state the same."""
    told = [
        {(statement.about, statement.value) for statement in command_statements(command, file)}
        for commands in ways.values()
        for command in commands
    ]
    first = next(iter(ways.values()))[0].alternative
    return first is not None and len(ways) == first.ways and all(each == told[0] for each in told)


def not_held(file: LaunchFile) -> Iterator[tuple[Layer, str]]:
    """The training commands that state nothing here, with the reason."""
    held = held_commands(file)
    for command in training_commands(file):
        if command not in held:
            yield command.layers[-1], command.doubt
        elif (size := _unknown_size(*_deciding(command, file))) is not None:
            yield replace(command.launcher, place=size.at), f"{size.name} is known to the run only"
        elif any(said.about in _SIZES for said in command_statements(command, file)):
            continue
        elif not command.launcher.is_complete and not command.launcher.unknown:
            yield command.launcher, "with words that only the run knows"
        elif command.launcher.get("--hostfile") and named_by(command, "hostfile", file) is None:
            yield command.launcher, "with a hostfile that only the run knows"


def _deciding(command: Command, file: LaunchFile) -> Iterator[Layer]:
    """The layers that say how many ranks: srun takes what it is not told from its job."""
    yield command.launcher
    if command.launcher.kind == "srun" and file.batch is not None:
        yield file.batch


def _unknown_size(*layers: Layer) -> Option | None:
    """An option that decides on nodes or ranks, and whose value only the run knows; what the job itself says
    is held with the job.
    """
    decisive = (layer.get(name) for layer in layers for name in _DECISIVE)
    unknown = (option for option in decisive if option and UNKNOWN in option.text)
    return next((option for option in unknown if JOBS_OWN not in option.text), None)


_DECISIVE = (
    *("--nodes", "--ntasks", "--ntasks-per-node", "--num_nodes", "--num_gpus", "--include", "--exclude"),
    *("--nnodes", "--nproc_per_node", "--num_machines", "--num_processes"),
)


_SIZES = ("num_nodes", "gpus_per_node", "gpus_by_node", "world_size")
