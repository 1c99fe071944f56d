"""The command that started these ranks, as a person would type it again: the launcher with its options, the
script, the config and the overrides.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from crossfoot.environment.world import World
from crossfoot.processes import above, run_by_python, words_of
from crossfoot.shell_words import called

_LAUNCHERS = ("deepspeed", "torchrun", "accelerate", "accelerate-launch")
_LAUNCHER_MODULES = (
    "deepspeed.launcher.runner",
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate.commands.launch",
)


def start_command(world: World, config: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """The words, as far as this process can know them.

    A launcher on this machine is asked for its own command line. One that cannot be seen (deepspeed reaches
    other machines over ssh) is told by what its ranks know: HOSTFILE stands for what they do not.
    """
    behind = (config, *overrides)
    for words in _launchers_above():
        if (start := _up_to_config(words, config)) is not None:
            return (*start, *behind)
    own = _up_to_config(_own_words(), config) or ["-m", "crossfoot", "train"]
    if world.launcher == "deepspeed":
        script = ["--module", *own[1:]] if own[0] == "-m" else own
        return (called("deepspeed"), *_deepspeed_nodes(world), *script, *behind)
    if world.launcher == "torchrun":
        return (called("torchrun"), *_torchrun_nodes(world), *own, *behind)
    alone = [called("python"), *own] if own[0] != "-m" else [called("crossfoot"), "train"]
    if world.launcher == "srun":
        return ("srun", *_srun_tasks(world), *alone, *behind)
    return (*alone, *behind)


def _deepspeed_nodes(world: World) -> tuple[str, ...]:
    several = ("--hostfile", "HOSTFILE", "--num_nodes", str(world.num_nodes))
    return several if world.num_nodes > 1 else ("--num_gpus", str(world.world_size))


def _torchrun_nodes(world: World) -> tuple[str, ...]:
    here = ("--nproc-per-node", str(world.local_world_size))
    if world.num_nodes == 1:
        return here
    return (
        "--nnodes",
        str(world.num_nodes),
        *here,
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "HOST:29500",
    )


def _srun_tasks(world: World) -> tuple[str, ...]:
    tasks = ("--nodes", str(world.num_nodes), "--ntasks", str(world.world_size))
    is_even = len(set(world.ranks_per_node or ())) == 1
    return (*tasks, "--ntasks-per-node", str(world.local_world_size)) if is_even else tasks


def _launchers_above() -> Iterator[list[str]]:
    """The command lines of the launchers that this process descends from, the nearest first."""
    for process in above():
        words = words_of(process)
        run = run_by_python(words)
        program = words if run is None else run
        if program and os.path.basename(program[0]) in _LAUNCHERS:
            yield [called(program[0]), *program[1:]]
        elif program[:1] == ["-m"] and program[1:2] and program[1] in _LAUNCHER_MODULES:
            yield [called("python"), *program]


def _own_words() -> list[str]:
    """What this python runs: `train.py ...`; the script of the command line is the module crossfoot."""
    run = run_by_python(sys.orig_argv) or []
    is_script = bool(run) and os.path.basename(run[0]) == "crossfoot"
    return ["-m", "crossfoot", *run[1:]] if is_script else run


def _up_to_config(words: Sequence[str], config: str) -> list[str] | None:
    """What stands in front of the config and of crossfoot's options: up to the script, or the verb; None when
    these words start something else.
    """
    if config not in words:
        return None
    before = list(words[: words.index(config)])
    ends = [at for at, word in enumerate(before) if word == "train" or word.endswith(".py")]
    return before[: ends[-1] + 1] if ends else None
